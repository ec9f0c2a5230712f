#!/usr/bin/env python3
"""Supervisor and server die together right after a name reached the backing tree and before
the journal has it. The next mount looks only at what was noted before: it must find it."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402

import faults  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402

PREPARE = """
import os
os.makedirs("shelf/full/inner")
os.mkdir("shelf/empty")
os.mkdir("shelf/locked")
for name in ("gone", "old", "target", "grows", "cut", "linked"):
    with open("shelf/" + name, "w") as f:
        f.write(name)
"""

# What is done, and where the server dies after it.
OPERATIONS = {
    "mkdir": ("make.done", "os.mkdir('shelf/new')"),
    "create": ("make.done", "open('shelf/new.txt', 'w')"),
    "symlink": ("make.done", "os.symlink('old', 'shelf/sym')"),
    "mknod": ("make.done", "os.mkfifo('shelf/fifo')"),
    "link": ("link.done", "os.link('shelf/linked', 'shelf/second')"),
    "rmdir": ("remove.done", "os.rmdir('shelf/empty')"),
    "unlink": ("remove.done", "os.unlink('shelf/gone')"),
    "rename": ("rename.done", "os.rename('shelf/old', 'shelf/renamed')"),
    "rename over": ("rename.done", "os.rename('shelf/renamed', 'shelf/target')"),
    "write": ("write.done", "os.write(os.open('shelf/grows', os.O_WRONLY | os.O_APPEND), b'x')"),
    "rename of a folder": ("rename.done", "os.rename('shelf/full', 'shelf/moved')"),
}


class Stage:
    def __init__(self):
        self.two = pair.Pair().start()
        self.a, self.b = self.two.a, self.two.b
        self.server = self.two.cyrus()
        self.server.add_user("alice", "bob")
        with self.server.lmtp() as c:
            for n in range(3):
                c.deliver(["alice", "bob"], mail.message(n))
        self.server.stop()
        subprocess.run([sys.executable, "-c", PREPARE], cwd=self.a.mnt, check=True)
        self.two.settle()

    def die(self, point, act):
        """act() on the mount, whose server dies at the point and is not replaced."""
        self.a.umount()
        with faults.armed(point):
            self.a.start()
        pair.wait_connected(self.a)
        server = self.a.server_pid()
        os.kill(self.a.proc.pid, signal.SIGSTOP)
        thread = threading.Thread(target=act)
        thread.start()
        case.wait_for(lambda: not alive(server), f"the death at {point}")
        self.a.kill()
        thread.join(30)
        case.check(not thread.is_alive(), "the operation still hangs")

    def again(self):
        self.a.start()
        pair.wait_connected(self.a)
        self.two.settle()


stage = None


def get():
    global stage
    if stage is None:
        stage = Stage()
    return stage


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def listing(root):
    """All names and what is in them, as find(1) sees them."""
    return subprocess.run(
        ["find", ".", "-printf", r"%P %y %s %l\n", "-path", "*/cyrus.index", "-prune"],
        cwd=f"{root}/shelf", stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")


def operation(point, code):
    s = get()
    before = sorted(listing(s.a.spool))
    s.die(point, lambda: subprocess.run(
        [sys.executable, "-c", "import os\n" + code], cwd=s.a.mnt, stderr=subprocess.DEVNULL))
    case.check(sorted(listing(s.a.spool)) != before, "it did not reach the backing tree")
    case.check(sorted(listing(s.b.spool)) == before, "it is on the standby already")
    s.again()


def test_a_new_mailbox():
    """Committed by Cyrus, and not journaled: CREATE has not answered yet."""
    s = get()
    s.server.spool = s.a.mnt

    def create():
        try:
            s.server.start()
            with s.server.imap() as c:
                c.create("user/carol")
        except Exception:   # the mount died under it
            pass
    count = len(index_files(s.a.spool))
    s.die("capture.before-journal", create)
    s.server.stop(hard=True)
    case.equal(len(index_files(s.a.spool)), count + 1, "mailboxes in the backing tree")
    case.equal(len(index_files(s.b.spool)), count, "mailboxes on the standby")
    s.again()
    case.equal(len(index_files(s.b.spool)), count + 1, "mailboxes on the standby")


def index_files(root):
    return [p for p, _, names in os.walk(root) if "cyrus.index" in names
            and ".twinspool" not in p]


def test_a_folder_with_mailboxes_gets_another_name():
    s = get()
    s.die("rename.done", lambda: subprocess.run(["mv", f"{s.a.mnt}/uuid", f"{s.a.mnt}/shelf/uuid"],
                                               stderr=subprocess.DEVNULL))
    case.check(os.path.isdir(f"{s.a.spool}/shelf/uuid"), "it did not reach the backing tree")
    case.check(os.path.isdir(f"{s.b.spool}/uuid"), "it is on the standby already")
    inodes = {os.stat(f"{p}/1.").st_ino for p in index_files(s.b.spool)
              if os.path.exists(f"{p}/1.")}
    s.again()
    case.equal({os.stat(f"{p}/1.").st_ino for p in index_files(s.b.spool)
                if os.path.exists(f"{p}/1.")}, inodes, "messages, moved and not sent again")


def tests():
    rest = [(n, f) for n, f in globals().items() if n.startswith("test_")]
    todo = [(f"test_{name}".replace(" ", "_"), lambda p=p, c=c: operation(p, c))
            for name, (p, c) in OPERATIONS.items()] + rest
    for name, function in todo:
        def one(function=function):
            global stage
            try:
                function()
            except BaseException:
                if stage is not None:
                    stage.two.tell()
                    stage.two.close()
                stage = None
                raise
        yield name, one


# The stage outlives one test, so what it registers is undone by its own end.
case.main(list(tests()), shared=True)
