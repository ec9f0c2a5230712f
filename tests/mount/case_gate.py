#!/usr/bin/env python3
"""The gate: what is under way ends, nothing begins, and then the mount is read-only; for
ordinary users by the attributes of cyrus.index, for root by the read-only superblock."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import control  # noqa: E402
import slot  # noqa: E402

USER = 54001


def mounted(**keys):
    s = slot.Slot(case.folder(), **keys)
    case.later(s.stop)
    s.start()
    os.chmod(s.mnt, 0o755)
    s.box = os.path.join(s.mnt, "user")
    os.mkdir(s.box)
    os.mkdir(f"{s.mnt}/stage.")
    for name in ("cyrus.index", "cyrus.cache", "1."):
        with open(f"{s.box}/{name}", "w") as f:
            f.write(name)
        os.chmod(f"{s.box}/{name}", 0o644)
        os.chown(f"{s.box}/{name}", USER, USER)
    os.chown(s.box, USER, USER)
    os.chown(f"{s.mnt}/stage.", USER, USER)
    s.index = f"{s.box}/cyrus.index"
    return s


class Drain(threading.Thread):
    """A drain under way; join it for its answer."""

    def __init__(self, s, ms):
        super().__init__()
        self.s, self.ms, self.answer = s, ms, None
        self.start()
        case.wait_for(lambda: not self.is_alive() or write_bits(s) == 0,
                      "the index to lose its write bits")

    def run(self):
        self.answer = control.ask(self.s, f"drain timeout={self.ms}")

    def result(self):
        self.join(60)
        case.check(self.answer is not None, "the drain does not end")
        return self.answer


def write_bits(s):
    return os.stat(s.index).st_mode & 0o222


def as_user(what, *args):
    """errno of os.open(*args), or 0, tried as an ordinary user."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            what(*args)
            os._exit(0)
        except OSError as e:
            os._exit(e.errno)
    os.close(r)
    os.close(w)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_read_only(s):
    return bool(os.statvfs(s.mnt).f_flag & os.ST_RDONLY)


def test_a_holder_keeps_it_from_shutting():
    s = mounted()
    case.equal(write_bits(s), 0o200, "write bits at first")
    fd = os.open(s.index, os.O_RDWR)
    d = Drain(s, 1500)
    case.equal(write_bits(s), 0, "write bits while draining")
    case.equal(os.stat(f"{s.box}/cyrus.cache").st_mode & 0o777, 0o644, "other files")
    case.equal(as_user(os.open, s.index, os.O_RDWR), errno.EACCES, "open for writing")
    case.equal(as_user(os.open, s.index, os.O_RDONLY), 0, "open for reading")
    case.equal(as_user(os.open, f"{s.box}/cyrus.cache", os.O_RDWR), 0, "the cache")
    # the transaction that had begun: body, cache and index, and a rename over it
    case.equal(os.pwrite(fd, b"record", 100), 6, "write by the holder")
    case.equal(as_user(os.open, f"{s.mnt}/stage./m", os.O_CREAT | os.O_WRONLY), 0, "stage")
    os.link(f"{s.mnt}/stage./m", f"{s.box}/2.")
    os.fsync(fd)
    case.equal(as_user(os.open, f"{s.mnt}/stage./cyrus.index", os.O_CREAT | os.O_RDWR), 0,
               "not an index")
    os.mkdir(f"{s.box}/sub")
    os.chown(f"{s.box}/sub", USER, USER)
    case.equal(as_user(os.open, f"{s.box}/sub/cyrus.index", os.O_CREAT | os.O_RDWR),
               errno.EACCES, "a new mailbox")
    ok, text = d.result()
    case.check(not ok and "open for writing" in text, f"{ok} {text}")
    # and everything is as before
    case.equal(write_bits(s), 0o200, "write bits after")
    case.equal(as_user(os.open, s.index, os.O_RDWR), 0, "open for writing after")
    case.equal(as_user(os.open, f"{s.box}/sub/cyrus.index", os.O_CREAT | os.O_RDWR), 0,
               "a new mailbox after")
    case.equal(os.pwrite(fd, b"record", 100), 6, "write after")
    os.close(fd)


def test_it_shuts_when_the_holder_ends():
    s = mounted()
    fd = os.open(s.index, os.O_RDWR)
    gone = os.open(f"{s.box}/1.", os.O_RDONLY)
    os.unlink(f"{s.box}/1.")  # no name any more, and not yet closed
    d = Drain(s, 20000)
    os.pwrite(fd, b"last", 0)
    case.check(not is_read_only(s), "read-only while a file is open for writing")
    os.close(fd)
    os.close(gone)
    ok, text = d.result()
    case.check(ok, text)
    case.check(is_read_only(s), "not read-only")
    for what, args in ((os.open, (s.index, os.O_RDWR)), (os.mkdir, (f"{s.mnt}/x",)),
                       (os.open, (f"{s.mnt}/y", os.O_CREAT | os.O_WRONLY)),
                       (os.unlink, (s.index,)), (os.chmod, (s.index, 0o600))):
        try:
            what(*args)
        except OSError as e:
            case.equal(e.errno, errno.EROFS, f"{what.__name__} by root")
        else:
            raise case.Failed(f"{what.__name__} by root went through")
    with open(s.index) as f:
        case.equal(f.read(), "lasts.index", "the last write")
    case.check("gate shut" in open(f"{s.mnt}/.twinspool/status").read(), "status")
    ok, text = control.ask(s, "resume")
    case.check(ok, text)
    case.check(not is_read_only(s), "still read-only")
    case.equal(write_bits(s), 0o200, "write bits")
    case.equal(as_user(os.open, s.index, os.O_RDWR), 0, "open for writing")
    case.check("gate open" in open(f"{s.mnt}/.twinspool/status").read(), "status")


def test_many_files_known_to_the_kernel():
    s = mounted()
    for i in range(300):
        os.mkdir(f"{s.box}/{i}")
        with open(f"{s.box}/{i}/cyrus.index", "w") as f:
            f.write("no index at all")
        os.chmod(f"{s.box}/{i}/cyrus.index", 0o644)
    for _ in range(5):
        ok, text = control.ask(s, "drain timeout=30000")
        case.check(ok, text)
        for i in range(300):
            case.equal(os.stat(f"{s.box}/{i}/cyrus.index").st_mode & 0o777, 0o444, "mode")
        ok, text = control.ask(s, "resume")
        for i in range(300):
            case.equal(os.stat(f"{s.box}/{i}/cyrus.index").st_mode & 0o777, 0o644, "mode")


def test_a_writer_that_never_stops():
    """Programs that open, write and close all the time: the gate comes in between."""
    s = mounted()
    writer = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, time\n"
         "while True:\n"
         "    with open(sys.argv[1], 'w') as f: f.write('x' * 1000)\n"
         "    time.sleep(0.001)\n",
         f"{s.box}/cyrus.cache"], stderr=subprocess.PIPE, text=True)
    case.later(lambda: (writer.kill(), writer.wait()))
    ok, text = control.ask(s, "drain timeout=20000")
    case.check(ok, text)
    case.check("Read-only" in writer.communicate(timeout=20)[1], "the writer")


def test_the_server_dies_while_draining():
    s = mounted()
    fd = os.open(s.index, os.O_RDWR)
    for _ in range(3):
        d = Drain(s, 20000)
        s.kill_server()
        d.result()
        case.wait_for(lambda: write_bits(s) == 0o200, "write bits to come back")
        case.equal(as_user(os.open, s.index, os.O_RDWR), 0, "open for writing")
    os.close(fd)
    # and when it had drained already
    for _ in range(3):
        ok, text = control.ask(s, "drain timeout=30000")
        case.check(ok, text)
        s.kill_server()
        case.wait_for(lambda: not is_read_only(s), "the mount to be writable again")
        case.wait_for(lambda: write_bits(s) == 0o200, "write bits to come back")
        with open(f"{s.box}/x", "w") as f:
            f.write("x")


def test_a_stop_waits_for_what_is_under_way():
    s = mounted(stop_wait="30s")
    fd = os.open(s.index, os.O_RDWR)
    s.process.send_signal(signal.SIGTERM)
    case.wait_for(lambda: write_bits(s) == 0, "the gate to drain")
    case.equal(os.pwrite(fd, b"under way", 0), 9, "a write under way")
    os.fsync(fd)
    os.close(fd)
    case.equal(s.process.wait(30), 0, "exit status")
    case.check(not slot.mounts(s.mnt), "still mounted")
    with open(f"{s.spool}/user/cyrus.index") as f:
        case.check(f.read().startswith("under way"), "the write is lost")


def test_a_stop_that_cannot_end_leaves_it_open():
    s = mounted(stop_wait="1s")
    fd = os.open(s.index, os.O_RDWR)
    s.process.send_signal(signal.SIGTERM)
    case.wait_for(lambda: write_bits(s) == 0, "the gate to drain")
    case.wait_for(lambda: write_bits(s) != 0, "the gate to open again")
    case.equal(os.pwrite(fd, b"x", 0), 1, "write")
    with open(f"{s.box}/new", "w") as f:
        f.write("x")
    os.close(fd)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def starting(when_alone, **keys):
    """An active side with a mailbox that has not met its peer, and that peer, not started."""
    base = case.folder()
    a = slot.Slot(f"{base}/a", when_alone=when_alone, listen=f"127.0.0.1:{free_port()}", **keys)
    b = slot.Slot(f"{base}/b", name="b", role="standby", listen=f"127.0.0.1:{free_port()}")
    for s, other in ((a, b), (b, a)):
        case.later(lambda s=s: end(s))
        prints = subprocess.run([case.PROGRAM, "keygen", other.state], check=True, text=True,
                                capture_output=True).stdout.split()
        s.keys["peer"] = f"{other.keys['name']} {other.keys['listen']} {prints[-1]}"
    for path in ("user", "stage."):
        os.mkdir(f"{a.spool}/{path}")
        os.chown(f"{a.spool}/{path}", USER, USER)
    a.index = f"{a.mnt}/user/cyrus.index"
    with open(f"{a.spool}/user/cyrus.index", "w") as f:
        f.write("no index at all")
    os.chown(f"{a.spool}/user/cyrus.index", USER, USER)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(f"{base}/notify")
    told.setblocking(False)
    a.told, os.environ["NOTIFY_SOCKET"] = told, f"{base}/notify"
    try:
        a.start()
    finally:
        del os.environ["NOTIFY_SOCKET"]
    os.chmod(a.mnt, 0o755)
    return a, b


def end(s):
    if s.process is not None and s.process.poll() is None:
        subprocess.run([case.PROGRAM, "umount", "--force", "--timeout", "100ms", s.mnt],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s.stop()


def is_ready(s):
    try:
        return b"READY=1" in s.told.recv(4096)
    except BlockingIOError:
        return False


def word(s):
    return next(line.split()[1] for line in open(f"{s.mnt}/.twinspool/status")
                if line.strip().startswith("gate "))


def check_refusing(s):
    case.equal(write_bits(s), 0, "write bits")
    case.equal(as_user(os.open, s.index, os.O_RDWR), errno.EACCES, "open for writing")
    case.equal(as_user(os.open, s.index, os.O_RDONLY), 0, "open for reading")
    case.equal(as_user(os.open, f"{s.mnt}/stage./m", os.O_CREAT | os.O_WRONLY),
               errno.EACCES, "a stage file")


def check_open(s):
    case.wait_for(lambda: write_bits(s) == 0o200, "the gate to open")
    case.equal(as_user(os.open, s.index, os.O_RDWR), 0, "open for writing")
    case.equal(as_user(os.open, f"{s.mnt}/stage./m", os.O_CREAT | os.O_WRONLY), 0,
               "a stage file")


def test_without_a_hello_nothing_begins():
    """A peer that never comes. Reading is served, a drain that fails changes nothing, and the word
    of an administrator opens it, at every level."""
    for durability in "local", "flushed":
        s, _ = starting("refuse", durability=durability, durability_timeout="1h",
                        start_wait="100ms")
        case.wait_for(lambda: is_ready(s), "the service manager to be told")
        check_refusing(s)
        ok, text = control.ask(s, "drain timeout=300")
        case.check(not ok, text)
        check_refusing(s)
        s.kill_server()
        case.wait_for(lambda: write_bits(s) == 0, "the next server to refuse")
        ok, text = control.ask(s, "drain timeout=300")
        check_refusing(s)
        done = subprocess.run([case.PROGRAM, "continue", s.conf], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        case.equal(done.returncode, 0, done.stdout)
        check_open(s)
        ok, text = control.ask(s, "drain timeout=300")
        case.check(not ok, text)
        check_open(s)


def test_a_hello_lets_it_begin():
    s, peer = starting("refuse")
    check_refusing(s)
    peer.start()
    check_open(s)


def test_or_the_end_of_start_wait():
    s, _ = starting("continue", start_wait="2s")
    check_refusing(s)
    case.check(not is_ready(s), "ready before it takes mail")
    check_open(s)
    case.wait_for(lambda: is_ready(s), "the service manager to be told")


def test_a_standby_is_read_only_and_stays_so():
    s = slot.Slot(case.folder(), role="standby")
    case.later(s.stop)
    s.start()
    case.check(is_read_only(s), "not read-only")
    for line in ("drain timeout=2000", "resume"):
        control.ask(s, line)
        case.check(is_read_only(s), f"writable after {line}")
    s.kill_server()
    time.sleep(0.2)
    case.check(is_read_only(s), "writable after a death")


case.main()
