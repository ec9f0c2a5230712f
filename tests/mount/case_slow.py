#!/usr/bin/env python3
"""A disk that does not answer: requests that need it wait, the others are answered."""
# limit: 120

import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import slot  # noqa: E402

WRITERS = 9   # one less than there are threads


def freeze(path, what):
    return subprocess.run(["fsfreeze", what, path], stderr=subprocess.DEVNULL).returncode


def mounted():
    """A mount of a spool on a disk that can be frozen, and that disk."""
    disk = case.ext4(64, "fsfreeze")
    os.mkdir(f"{disk}/spool")
    s = slot.Slot(case.folder(), spool=f"{disk}/spool")
    case.later(s.stop)
    s.start()
    return disk, s


def test_one_thread_reads_however_many_wait_for_the_disk():
    disk, s = mounted()
    for n in range(WRITERS):
        with open(f"{disk}/spool/later{n}", "w") as f:
            f.write("seen")
    files = [os.open(f"{s.mnt}/file{n}", os.O_RDWR | os.O_CREAT) for n in range(WRITERS)]
    for fd in files:
        os.write(fd, b"x" * 100)
        os.fsync(fd)
    case.check(freeze(disk, "-f") == 0, "the disk cannot be frozen")
    case.later(freeze, disk, "-u")
    done = []

    def write(fd):
        done.append(os.pwrite(fd, b"y" * 100, 0))
    writers = [threading.Thread(target=write, args=(fd,), daemon=True) for fd in files]
    # One after the other, and after each the mount still answers.
    for n, t in enumerate(writers):
        t.start()
        looked = subprocess.Popen(["cat", f"{s.mnt}/later{n}"], stdout=subprocess.PIPE)
        try:
            out, _ = looked.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            freeze(disk, "-u")
            raise case.Failed(f"no answer while {n + 1} writers waited") from None
        case.equal(out, b"seen", f"a file beside {n + 1} writers that wait")
    case.equal(done, [], "writes to a frozen disk that ended")
    case.check(freeze(disk, "-u") == 0, "the disk cannot be thawed")
    for t in writers:
        t.join(20)
    case.equal(done, [100] * WRITERS, "the writes")
    for fd in files:
        os.close(fd)


def test_a_start_waits_for_a_killed_process_that_waits_for_the_disk():
    """It holds the lock of the state folder until the disk has answered."""
    disk, s = mounted()
    fd = os.open(f"{s.mnt}/file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x")
    case.check(freeze(disk, "-f") == 0, "the disk cannot be frozen")
    case.later(freeze, disk, "-u")

    def write():
        try:
            os.pwrite(fd, b"y", 0)
        except OSError:
            pass    # the mount dies
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    server, = s.servers()
    case.wait_for(lambda: any(open(f"/proc/{server}/task/{t}/stat").read().rsplit(")")[-1]
                              .split()[0] == "D" for t in os.listdir(f"/proc/{server}/task")),
                  "the server to wait for the disk")
    for pid in (s.process.pid, server):
        os.kill(pid, signal.SIGKILL)
    s.process.wait(10)
    thaw = threading.Timer(1.5, freeze, (disk, "-u"))
    thaw.start()
    s.start()
    thaw.join()
    writer.join(20)
    os.close(fd)
    case.equal(sorted(os.listdir(s.mnt)), ["file"], "what is there")


case.main()
