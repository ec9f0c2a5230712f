#!/usr/bin/env python3
"""Folders with mailboxes in them are moved by an administrator's hand, while mail comes in and
while the server dies: both spools are equal afterwards. Needs a build with fault points in it,
which is made here."""
# limit: 600

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import faults  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

ROOM = 800      # ms that a fault point gives a race
number = iter(range(1, 1_000_000))


_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one, two):
    if _libc.renameat2(-100, one.encode(), -100, two.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one)


def commit(folder):
    """A commit as Cyrus makes one: the whole header, then a sync. Returns what to look for."""
    with open(f"{folder}/cyrus.index", "r+b", buffering=0) as f:
        head = bytearray(f.read(160))
        login = int.from_bytes(head[40:44], "big") + 1
        head[40:44] = login.to_bytes(4, "big")
        head[156:160] = zlib.crc32(bytes(head[:156])).to_bytes(4, "big")
        f.seek(0)
        f.write(head)
        os.fsync(f.fileno())
    return login


@contextlib.contextmanager
def fault(point):
    """What is started here has that fault point set."""
    os.environ["TWINSPOOL_FAULT"] = point
    try:
        yield
    finally:
        os.environ.pop("TWINSPOOL_FAULT", None)


class Stage:
    """A pair, and in it a user's mailboxes in folders by name: three, one below the other."""

    def __init__(self, point=None, layout="legacy"):
        case.PROGRAM = faults.build()
        self.two = pair.Pair()
        self.a, self.b = self.two.a, self.two.b
        self.two.start()
        self.server = self.two.cyrus(layout=layout, hashed=False)
        self.server.add_user("one", folders=("Old", "Old/Older"))
        with self.server.lmtp() as c:
            for _ in range(5):
                c.deliver("one", mail.message(next(number)))
        with self.server.imap("one") as c:
            c.select()
            c.copy("1:5", "INBOX/Old")
            c.copy("1:2", "INBOX/Old/Older")
        self.server.stop()
        self.two.server = None
        self.two.wait()
        if point:
            self.a.umount()
            with fault(point):
                self.a.start()

    def equal(self):
        try:
            self.two.wait()
            spools.assert_equal(self.a.spool, self.b.spool)
        except case.Failed:
            self.two.tell()
            raise

    def box(self, folder):
        return witness.Mailbox(os.path.join(self.b.spool, folder))

    def end(self):
        """The clean stop compares the sums of everything."""
        try:
            self.a.umount()
            self.b.umount()
        except case.Failed:
            self.two.tell()
            raise


def meanwhile(function):
    """function in a thread; returns what waits for it and gives its result."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()

    def joined():
        thread.join(60)
        case.equal(len(result), 1, "the other thread's end")
        return result[0]
    return joined


def test_a_commit_whose_folder_is_moved_before_it_is_journaled():
    s = Stage(f"pending.path-found~{ROOM}")
    users = f"{s.a.mnt}/user"
    for was, now, inner in (("one", "two", ""), ("two", "three", "/Old/Older")):
        asked = threading.Event()

        def write():
            asked.set()
            return commit(f"{users}/{was}{inner}")
        login = meanwhile(write)
        asked.wait(10)
        threading.Event().wait(ROOM / 3000)     # it has found its path by now
        os.rename(f"{users}/{was}", f"{users}/{now}")
        found = login()
        s.equal()
        case.equal(s.box(f"user/{now}{inner}").index.header["pop3_last_login"], found,
                   "what the standby has of the commit")
    s.end()


def test_files_that_wait_when_their_folder_is_moved():
    s = Stage()
    users = f"{s.a.mnt}/user"
    with open(f"{users}/one/notes.txt", "w") as f:
        f.write("in a mailbox's folder\n")
    os.mkdir(f"{users}/one/plain")
    with open(f"{users}/one/plain/x", "w") as f:
        f.write("in a folder of its own\n")
    os.chmod(f"{users}/one/plain", 0o711)
    os.rename(f"{users}/one", f"{users}/two")
    s.equal()
    case.check(os.path.exists(f"{s.b.spool}/user/two/plain/x"), "the file did not arrive")
    s.end()


def test_a_file_that_is_being_read_when_its_folder_is_moved():
    s = Stage(f"quiet.in-hand~{ROOM}")
    users = f"{s.a.mnt}/user"

    def write():
        with open(f"{users}/one/big", "wb") as f:
            f.write(os.urandom(300_000))
            os.fsync(f.fileno())
        return True
    done = meanwhile(write)
    case.wait_for(lambda: os.path.exists(f"{s.a.spool}/user/one/big")
                  and os.path.getsize(f"{s.a.spool}/user/one/big") == 300_000,
                  "the bytes to be there")
    threading.Event().wait(ROOM / 3000)
    os.rename(f"{users}/one", f"{users}/two")
    done()
    s.equal()
    s.end()


def test_a_folder_that_was_a_plain_one_first():
    s = Stage()
    users = f"{s.a.mnt}/user"
    # Known as a folder, then a mailbox in it, then moved: both sides must know the same of it.
    os.mkdir(f"{users}/two")
    os.chown(f"{users}/two", *cyrus_ids(f"{users}/one"))
    s.two.wait()
    for name in sorted(os.listdir(f"{s.a.spool}/user/one/Old/Older")):
        shutil.copy2(f"{users}/one/Old/Older/{name}", f"{users}/two/{name}")
        os.chown(f"{users}/two/{name}", *cyrus_ids(f"{users}/one/cyrus.index"))
    os.unlink(f"{users}/one/Old/Older/cyrus.index")
    shutil.rmtree(f"{users}/one/Old/Older")
    commit(f"{users}/two")
    s.equal()
    os.rename(f"{users}/two", f"{users}/three")
    s.equal()
    s.end()


def cyrus_ids(path):
    st = os.stat(path)
    return st.st_uid, st.st_gid


def test_folders_that_change_places():
    s = Stage()
    users = f"{s.a.mnt}/user"
    os.mkdir(f"{users}/plain")
    with open(f"{users}/plain/x", "w") as f:
        f.write("x")
    with open(f"{users}/file", "w") as f:
        f.write("a file")
    s.two.wait()
    # Two mailboxes; one of them with a mailbox below.
    os.rename(f"{users}/one/Old/Older", f"{users}/two")
    exchange(f"{users}/one", f"{users}/two")
    login = commit(f"{users}/two/Old")
    commit(f"{users}/one")
    s.equal()
    case.equal(s.box("user/two/Old").index.header["pop3_last_login"], login, "the commit")
    # A mailbox and a folder that is none, with what waits in it; and with a file.
    with open(f"{users}/plain/y", "w") as f:
        f.write("y")
    exchange(f"{users}/two", f"{users}/plain")
    s.equal()
    case.check(os.path.exists(f"{s.b.spool}/user/two/y"), "the waiting file did not arrive")
    exchange(f"{users}/plain/Old", f"{users}/file")
    commit(f"{users}/file")
    commit(f"{users}/plain")
    s.equal()
    case.check("differs" not in s.b.log(), "the standby had to ask for something")
    s.end()


def test_a_folder_crosses_the_border_of_what_is_replicated_by_being_copied():
    s = Stage()
    users, stage = f"{s.a.mnt}/user", f"{s.a.mnt}/stage."
    os.makedirs(stage, exist_ok=True)
    os.mkdir(f"{stage}/d")
    for act in (lambda: os.rename(f"{users}/one/Old", f"{stage}/Old"),
                lambda: os.rename(f"{stage}/d", f"{users}/d"),
                lambda: os.rename(f"{users}/one", f"{s.a.mnt}/sync."),
                lambda: exchange(f"{users}/one/Old", f"{stage}/d")):
        try:
            act()
        except OSError as why:
            case.equal(why.errno, errno.EXDEV, "what a rename over the border says")
        else:
            raise case.Failed("a rename over the border was carried out")
    subprocess.run(["mv", f"{users}/one/Old", f"{stage}/Old"], check=True)
    s.equal()
    case.check(not os.path.exists(f"{s.b.spool}/user/one/Old"), "it is on the standby still")
    subprocess.run(["mv", f"{stage}/Old", f"{users}/back"], check=True)
    s.equal()
    case.equal(len(s.box("user/back").live()), 5, "messages on the standby")
    s.end()


def die_at(s, point, act):
    """The server dies there and is not started again; the slot is killed as a whole."""
    s.a.umount()
    with fault(point):
        s.a.start()
    pid = s.a.server_pid()
    os.kill(s.a.proc.pid, signal.SIGSTOP)      # the supervisor
    child = subprocess.Popen([sys.executable, "-c", act], stderr=subprocess.DEVNULL)
    case.wait_for(lambda: dead(pid), "the server's death")
    s.a.kill()
    child.kill()
    child.wait(20)
    s.a.close()
    s.a.start()


def dead(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def multiply(box, into, n):
    """n copies of a mailbox behind the mounts' back, each with an id of its own."""
    with open(f"{box}/cyrus.header", "rb") as f:
        names = f.read()
    with open(f"{box}/cyrus.index", "rb") as f:
        index = bytearray(f.read())
    unique = witness.Mailbox(box).header["I"]
    st = os.stat(box)
    for i in range(n):
        folder = f"{into}/{i}"
        mine = names.replace(unique, (b"%08x" % i) + unique[8:])
        index[96:100] = zlib.crc32(mine).to_bytes(4, "big")
        index[156:160] = zlib.crc32(bytes(index[:156])).to_bytes(4, "big")
        os.makedirs(folder)
        os.chown(folder, st.st_uid, st.st_gid)
        for name, data in (("cyrus.header", mine), ("cyrus.index", index)):
            with open(f"{folder}/{name}", "wb") as f:
                f.write(data)
            os.chown(f"{folder}/{name}", st.st_uid, st.st_gid)
            os.chmod(f"{folder}/{name}", 0o600)
        for name in os.listdir(box):
            if name not in ("cyrus.header", "cyrus.index") and os.path.isfile(f"{box}/{name}"):
                os.link(f"{box}/{name}", f"{folder}/{name}")


def test_a_deep_move_stops_nobody_else():
    s = Stage()
    n = int(os.environ.get("TWINSPOOL_BOXES", "300"))
    for slot in (s.a, s.b):
        slot.umount()
    for slot in (s.a, s.b):
        multiply(f"{slot.spool}/user/one/Old/Older", f"{slot.spool}/many/deep", n)
        shutil.rmtree(slot.state + "-was", ignore_errors=True)
        for name in os.listdir(slot.state):
            if name.startswith(("journal", "state", "notes")):
                os.unlink(f"{slot.state}/{name}")
    s.b.start()
    with fault(f"move.done~{ROOM}"):
        s.a.start()
    s.two.wait()
    stop, slowest, commits = threading.Event(), [0.0], [0]

    def others():
        while not stop.is_set():
            began = time.monotonic()
            commit(f"{s.a.mnt}/user/one/Old")
            slowest[0] = max(slowest[0], time.monotonic() - began)
            commits[0] += 1
        return True
    for way in range(2):
        stop.clear()
        slowest[0], commits[0] = 0.0, 0
        done = meanwhile(others)
        case.wait_for(lambda: commits[0] > 10, "commits")
        usual, slowest[0] = slowest[0], 0.0
        began = time.monotonic()
        os.rename(f"{s.a.mnt}/many" + "x" * way, f"{s.a.mnt}/many" + "x" * (way + 1))
        took = time.monotonic() - began
        case.check(took > ROOM / 1000, "the move was not held up")
        case.check(slowest[0] < ROOM / 2000,
                   f"somebody waited {slowest[0] * 1000:.0f} ms for a move of {took:.3f} s")
        began = time.monotonic()
        commit(f"{s.a.mnt}/many" + "x" * (way + 1) + "/deep/7")
        mine = time.monotonic() - began
        stop.set()
        done()
        began = time.monotonic()
        s.two.wait()
        case.note(f"{n} mailboxes: rename {took * 1000:.0f} ms, first commit in them "
                  f"{mine * 1000:.0f} ms; others at most {slowest[0] * 1000:.0f} ms "
                  f"(before {usual * 1000:.0f} ms, {commits[0]} commits); on the standby "
                  f"after {(time.monotonic() - began) * 1000:.0f} ms")
    s.equal()
    case.equal(s.a.status()["sent"]["bodies"], 0, "bodies sent for moves")
    s.end()


def dies_between(layout, swap):
    s = Stage(layout=layout)
    if layout == "legacy":
        one, two, inner = "user/one", "user/two", "user/two/Old"
    else:
        # The folder of all ids that begin alike.
        first = sorted(os.listdir(f"{s.a.spool}/uuid"))[0]
        one, two = f"uuid/{first}", "uuid/moved"
        deep = os.path.relpath(next(d for d, _, names in os.walk(f"{s.a.spool}/{one}")
                                    if "cyrus.index" in names), f"{s.a.spool}/{one}")
        inner = f"{two}/{deep}"
    with open(f"{s.a.mnt}/{one}/odd", "w") as f:
        f.write("no mailbox's")
    if swap:
        os.mkdir(f"{s.a.mnt}/{two}")
        with open(f"{s.a.mnt}/{two}/x", "w") as f:
            f.write("x")
    s.two.wait()
    if swap:
        act = ("import ctypes; ctypes.CDLL(None).renameat2(-100, "
               f"{s.a.mnt + '/' + one!r}.encode(), -100, {s.a.mnt + '/' + two!r}.encode(), 2)")
    else:
        act = f"import os; os.rename({s.a.mnt + '/' + one!r}, {s.a.mnt + '/' + two!r})"
    die_at(s, "rename.done", act)
    s.equal()
    found = "folders changed places" if swap else "a folder was moved"
    case.check(f"{found} before the crash" in s.a.log(), "it was not found to be a move")
    # The odd files are stated anew, for they may have changed; no message is.
    case.check(s.a.status()["sent"]["body_bytes"] < 100, "messages were sent for a move")
    commit(f"{s.a.mnt}/{inner}")
    s.equal()
    s.end()


def test_death_between_a_move_and_its_row_by_name():
    dies_between("legacy", False)


def test_death_between_a_move_and_its_row_by_id():
    dies_between("uuid", False)


def test_death_between_an_exchange_and_its_row():
    dies_between("legacy", True)


if __name__ == "__main__":
    case.main()
