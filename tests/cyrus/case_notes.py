#!/usr/bin/env python3
"""Supervisor and server die together right after a name reached the backing tree and before
the journal has it. The next mount looks only at what was noted before: it must find it."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import ctypes  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402

import faults  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import witness  # noqa: E402

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


get = case.Stage(Stage)


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


NEW_THEN_MOVED = """import os
os.makedirs("shelf/{0}/deep")
open("shelf/{0}/deep/odd", "w").write("new")
os.rename("shelf/{0}", "shelf/{1}")
"""


def test_a_new_file_in_a_folder_that_is_moved_and_the_row_of_the_move_is_lost():
    s = get()
    s.die("rename.done", lambda: subprocess.run(
        [sys.executable, "-c", NEW_THEN_MOVED.format("m1", "m2")], cwd=s.a.mnt,
        stderr=subprocess.DEVNULL))
    s.again()
    case.check(os.path.exists(f"{s.b.spool}/shelf/m2/deep/odd"), "the file is not there")


def test_a_new_file_in_a_folder_that_is_moved_and_the_row_of_the_move_is_kept():
    s = get()
    s.a.umount()
    with faults.armed("quiet.in-hand~8000"):
        s.a.start()
    pair.wait_connected(s.a)
    subprocess.run([sys.executable, "-c", NEW_THEN_MOVED.format("m3", "m4")], cwd=s.a.mnt,
                   check=True)
    case.wait_for(lambda: os.path.isdir(f"{s.b.spool}/shelf/m4"), "the move on the standby")
    case.check(not os.path.exists(f"{s.b.spool}/shelf/m4/deep/odd"), "it is there already")
    s.a.kill()
    s.again()
    case.check(os.path.exists(f"{s.b.spool}/shelf/m4/deep/odd"), "the file is not there")
    case.equal(notes_left(s), 0, "notes that were settled")


def test_a_new_file_in_one_of_two_folders_that_change_places():
    s = get()
    for name in ("x1", "x2"):
        os.mkdir(f"{s.a.mnt}/shelf/{name}")
        with open(f"{s.a.mnt}/shelf/{name}/old", "w") as f:
            f.write(name)
    s.two.wait()
    s.a.umount()
    with faults.armed("quiet.in-hand~8000"):
        s.a.start()
    pair.wait_connected(s.a)
    one, two = f"{s.a.mnt}/shelf/x1", f"{s.a.mnt}/shelf/x2"
    with open(f"{one}/odd", "w") as f:
        f.write("of the first")
    with open(f"{two}/strange", "w") as f:
        f.write("of the second")
    ctypes.CDLL(None).renameat2(-100, one.encode(), -100, two.encode(), 2)
    case.wait_for(lambda: witness.read(f"{s.b.spool}/shelf/x1/old") == b"x2", "the exchange")
    s.a.kill()
    s.again()
    for name in ("x2/odd", "x1/strange"):
        case.check(os.path.exists(f"{s.b.spool}/shelf/{name}"), f"{name} is not there")


def notes_left(s):
    """Signs of the paths in the file of notes, those taken back taken off."""
    s.a.umount()
    count = {}
    with open(f"{s.a.state}/notes") as f:
        for line in f:
            sign, _, path = line.split()
            count[path] = sign != "-"
    s.a.start()
    pair.wait_connected(s.a)
    return sum(count.values())


case.main([(f"test_{name}".replace(" ", "_"), lambda p=p, c=c: operation(p, c))
           for name, (p, c) in OPERATIONS.items()]
          + [(n, f) for n, f in globals().items() if n.startswith("test_")], stage=get)
