#!/usr/bin/env python3
"""A mount that is beyond saving stays and says so, and the next start takes its place."""
# limit: 120

import errno
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import slot  # noqa: E402

CONTROL = "/sys/fs/fuse/connections"


def is_dead(path):
    try:
        os.statvfs(path)
    except OSError as why:
        case.equal(why.errno, errno.ENOTCONN, "errno of a dead mount")
        return True
    return False


def abort(path):
    """The kernel's own switch, in a private look at its control filesystem."""
    minor = os.minor(os.stat(path).st_dev)
    there = case.folder()
    if subprocess.run(["mount", "-t", "fusectl", "none", there],
                      stderr=subprocess.DEVNULL).returncode != 0:
        there = CONTROL
    else:
        case.later(lambda: subprocess.run(["umount", there], check=True))
    switch = os.path.join(there, str(minor), "abort")
    if not os.path.exists(switch):
        raise case.Skip("no fusectl")
    with open(switch, "w") as f:
        f.write("1")


def test_an_aborted_connection():
    s = slot.Slot(case.folder())
    case.later(s.stop)
    s.start()
    with open(os.path.join(s.mnt, "kept"), "w") as f:
        f.write("kept")
    abort(s.mnt)
    case.check(s.process.wait(30) != 0, "the end of an aborted mount was called a success")
    case.equal(slot.mounts(s.mnt), ["fuse.twinspool"], "the dead mount")
    case.check(is_dead(s.mnt), "the bare folder shows")
    s.start()
    case.equal(slot.mounts(s.mnt), ["fuse.twinspool"], "mounts after the next start")
    with open(os.path.join(s.mnt, "kept")) as f:
        case.equal(f.read(), "kept", "what was written before")
    case.equal(s.stop(), 0, "exit status")


def test_supervisor_and_server_die_together():
    s = slot.Slot(case.folder())
    case.later(s.stop)
    written = 0
    for _ in range(6):
        s.start()
        case.equal(slot.mounts(s.mnt), ["fuse.twinspool"], "mounts")
        for i in range(written):
            with open(os.path.join(s.mnt, f"f{i}")) as f:
                case.equal(f.read(), str(i) * 1000, f"f{i}")
        server = case.wait_for(s.servers, "a server")[0]
        # under way while both die: whatever comes back without an error must be there
        script = ("import os,sys\nfor i in range(%d, %d):\n"
                  " open('%s/f%%d' %% i, 'w').write(str(i) * 1000)\n"
                  " print(i, flush=True)\n" % (written, written + 100000, s.mnt))
        writer = subprocess.Popen([sys.executable, "-c", script], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(50):
            writer.stdout.readline()
        os.kill(s.process.pid, signal.SIGKILL)
        os.kill(server, signal.SIGKILL)
        s.process.wait()
        said = writer.stdout.read().split()
        writer.wait()
        case.wait_for(lambda: is_dead(s.mnt), "the dead mount")
        written = int(said[-1]) + 1 if said else written + 50
        # the one that failed may be there, in part
        for name in os.listdir(s.spool):
            if name[0] == "f" and int(name[1:]) >= written:
                os.unlink(os.path.join(s.spool, name))
    case.note(f"{written} files")
    s.start()
    case.equal(len([n for n in os.listdir(s.mnt) if n[0] == "f"]), written, "files")
    case.equal(s.stop(), 0, "exit status")


def test_a_server_outlives_its_supervisor():
    """Without the supervisor the server goes on; only its own death would be seen."""
    s = slot.Slot(case.folder())
    case.later(s.stop)
    s.start()
    server = case.wait_for(s.servers, "a server")[0]
    os.kill(s.process.pid, signal.SIGKILL)
    s.process.wait()
    case.wait_for(lambda: "supervisor is gone" in s.tail(), "the server's word")
    held = open(os.path.join(s.mnt, "held"), "w+")
    held.write("held")
    held.flush()
    os.unlink(os.path.join(s.mnt, "held"))
    held.seek(0)
    case.equal(held.read(), "held", "a file without a name")
    held.close()
    os.kill(server, signal.SIGTERM)
    case.wait_for(lambda: not slot.mounts(s.mnt), "the end of the mount")


case.main()
