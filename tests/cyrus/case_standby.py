#!/usr/bin/env python3
"""A standby under readers: a message is whole or not there, one read of an index never shows
half a batch, and what a reader keeps open stays readable. It cannot be written to."""
# limit: 240

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import ctypes  # noqa: E402
import errno  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

import faults  # noqa: E402
import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import witness  # noqa: E402

USERS = [f"u{n}" for n in range(6)]
SECONDS = float(os.environ.get("TWINSPOOL_SECONDS", "8"))


class Reader:
    """Walks the standby's mount and judges what it sees against the active's disk."""

    def __init__(self, two):
        self.two = two
        self.bad = []
        self.files = self.indexes = 0

    def index(self, path):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            data = os.read(fd, 1 << 20)
        finally:
            os.close(fd)
        if not data:
            return
        try:
            index = witness.Index(data)
        except witness.Bad as why:
            self.bad.append(f"{path}: {why}")
            return
        alive = [r for r in index.records.values() if not r["flags"] & witness.EXPUNGED]
        got = (len(alive), sum(r["size"] for r in alive),
               sum(1 for r in alive if not r["flags"] & 0x10),
               max((r["modseq"] for r in index.records.values()), default=0))
        head = index.header
        want = (head["exists"], head["quota_mailbox_used"], head["unseen"])
        if got[:3] != want or got[3] > head["highestmodseq"]:
            self.bad.append(f"{path}: half a batch: counted {got}, header {want}")
        self.indexes += 1

    def message(self, path):
        try:
            with open(path, "rb") as f:
                data = f.read()
        except FileNotFoundError:
            return
        original = os.path.join(self.two.a.spool, os.path.relpath(path, self.two.b.mnt))
        try:
            with open(original, "rb") as f:
                wanted = f.read()
        except FileNotFoundError:
            return
        if data != wanted:
            self.bad.append(f"{path}: {len(data)} bytes, not the {len(wanted)} of the "
                            f"original; NULs {data.count(0)}")
        self.files += 1

    def walk(self, stop):
        while not stop.is_set():
            for base, _, names in os.walk(self.two.b.mnt):
                for name in names:
                    if stop.is_set():
                        return
                    path = os.path.join(base, name)
                    if name == "cyrus.index":
                        self.index(path)
                    elif witness.MESSAGE.fullmatch(name):
                        self.message(path)


def watch(reader, stop, paths):
    """One reader that looks at the same few indexes again and again."""
    while not stop.is_set():
        for path in paths():
            reader.index(path)


def shell(two, stop, bad):
    """Plain tools in a loop; they may miss a file, never fail otherwise."""
    copy = case.folder()
    commands = (["ls", "-lR", two.b.mnt], ["grep", "-r", "nowhere", two.b.mnt],
                ["rsync", "-a", two.b.mnt + "/", copy],
                ["find", two.b.mnt, "-name", "*.", "-exec", "cat", "{}", "+"])
    allowed = {"ls": (0, 1), "grep": (0, 1, 2), "rsync": (0, 23, 24), "find": (0, 1)}
    while not stop.is_set():
        for command in commands:
            done = subprocess.run(command, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
            lines = [s for s in done.stderr.splitlines()
                     if "No such file" not in s and "vanished" not in s
                     and "some files" not in s]
            if done.returncode not in allowed[command[0]] or lines:
                bad.append(f"{command[0]}: {done.returncode} {lines[:3]}")


def test_readers_while_replay_runs():
    two = pair.Pair().start()
    server = two.cyrus()
    server.add_user(*USERS, folders=["Old"])
    two.wait()
    reader = Reader(two)
    stop, bad = threading.Event(), []

    def few():
        boxes = [os.path.relpath(os.path.dirname(p), two.a.spool)
                 for p in few.found[:3]]
        return [os.path.join(two.b.mnt, b, "cyrus.index") for b in boxes]
    few.found = [os.path.join(b, "cyrus.index")
                 for b, _, names in os.walk(two.a.spool) if "cyrus.index" in names]
    threads = [threading.Thread(target=reader.walk, args=(stop,)),
               threading.Thread(target=watch, args=(reader, stop, few)),
               threading.Thread(target=shell, args=(two, stop, bad))]
    work = load.Load(server, USERS, lmtp_connections=2, imap_connections=3).start()
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    work.stop()
    stop.set()
    for thread in threads:
        thread.join(60)
    two.settle()
    # What the mount shows now is what its disk holds: no page is stale.
    for base, _, names in os.walk(two.b.mnt):
        for name in names:
            path = os.path.join(base, name)
            below = os.path.join(two.b.spool, os.path.relpath(path, two.b.mnt))
            case.check(witness.read(path) == witness.read(below), f"{path} is stale")
    bad += reader.bad
    case.check(not bad, lambda: f"{len(bad)} wrong reads\n" + "\n".join(bad[:10]))
    work.verify(two.a.spool, two.b.spool)
    case.note(f"{reader.files} messages and {reader.indexes} indexes read")
    case.check(reader.files > 100 and reader.indexes > 100, "the readers read too little")


class HalfDone:
    """A mailbox of a few messages, and changes of it that are killed in their middle."""

    def __init__(self, two):
        self.two, self.server = two, two.cyrus()
        self.server.add_user("alice")
        with self.server.lmtp() as c:
            for n in range(5):
                c.deliver("alice", mail.message(n))
        two.settle()
        relative = next(os.path.relpath(os.path.join(base, "cyrus.index"), two.a.spool)
                        for base, _, names in os.walk(two.a.spool)
                        if "cyrus.index" in names and "1." in names)
        self.path, self.below = (os.path.join(slot, relative)
                                 for slot in (two.b.mnt, two.b.spool))
        self.reader = Reader(two)

    def half(self):
        """Before the header: its record is there, at the end or with a newer modseq."""
        index = witness.Index(witness.read(self.below))
        return (max(r["modseq"] for r in index.records.values())
                > index.header["highestmodseq"])

    def begin(self, flag):
        with self.server.imap("alice") as c:
            c.select("INBOX")
            c.store("1:*", "+FLAGS", flag)
        case.wait_for(self.half, "a change that is half done")

    def right(self):
        case.check(not self.reader.bad, lambda: "\n".join(self.reader.bad))
        self.two.wait()

    def end(self, looks):
        case.equal(self.reader.indexes, looks, "indexes read")
        self.two.settle()


def test_a_server_killed_in_the_middle_of_a_change():
    """The records are written, the header is not: readers of the next server wait for it."""
    two = pair.Pair()
    two.a.start()
    with faults.armed("apply.before-header~700"):
        two.b.start()
    it = HalfDone(two)
    for flag in ("\\Seen", "\\Answered", "\\Flagged"):
        two.b.forget()
        it.begin(flag)
        two.b.kill_server()
        readers = [threading.Thread(target=it.reader.index, args=(it.path,))
                   for _ in range(4)]
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join(20)
        it.right()
    it.end(12)


def test_a_node_killed_in_the_middle_of_a_change():
    """Nothing in memory says any more what is half done: who looks an index up, or lists its
    folder, waits until all is done again."""
    two = pair.Pair().start()
    it = HalfDone(two)
    for flag, look in (("\\Seen", os.stat),
                       ("\\Flagged", lambda path: os.listdir(os.path.dirname(path)))):
        two.b.umount()
        with faults.armed("apply.before-header~2000"):
            two.b.start()
        pair.wait_connected(two.a)
        it.begin(flag)
        two.b.kill()
        with faults.armed("replay.before-apply~2000"):
            two.b.start()
        case.check(it.half(), "it was done again before anybody could look")
        look(it.path)
        it.reader.index(it.path)
        it.right()
    it.end(2)


def test_what_is_gone_is_let_go():
    """Files that somebody has looked at give their space back once they are gone; not what he
    has open."""
    two = pair.Pair().start()
    server = two.cyrus(expunge_mode="immediate")
    server.add_user("alice")
    for killed in (False, True):
        with server.lmtp() as c:
            for n in range(100):
                c.deliver("alice", mail.message(n))
        two.wait()
        found = [os.path.join(base, name) for base, _, names in os.walk(two.b.mnt)
                 for name in names if witness.MESSAGE.fullmatch(name)]
        for path in found:
            os.stat(path)
        with open(found[0], "rb") as f:
            wanted = f.read(1000)
            with server.imap("alice") as c:
                c.select("INBOX")
                c.store("1:*", "+FLAGS", "\\Deleted")
                c.expunge()
            two.wait()
            case.check(not os.path.exists(found[0]), "the message is still there")
            if killed:
                old = two.b.kill_server()
                case.wait_for(lambda: two.b.server_pid() != old, "a new server")
            case.wait_for(lambda: len(two.b.held()) == 1, "files that are gone to be let go",
                          limit=30, step=0.2)
            f.seek(0)
            case.equal(f.read(1000), wanted, "what an open file says")
        case.equal(len(found), 100, "messages found")
    case.wait_for(lambda: not two.b.held(), "the last one to be let go", limit=30, step=0.2)
    two.umount()


def test_readers_do_not_wait_for_replay():
    """While changes take their time, one in place and one of a file that is open, everything
    that is known can be looked at and read."""
    two = pair.Pair()
    two.a.start()
    with faults.armed("apply.record~1500"):
        two.b.start()
    server = two.cyrus()
    server.add_user("alice", "bob")
    with server.lmtp() as c:
        c.deliver("alice", mail.message(1))
    two.wait()
    alice, bob = (os.path.relpath(server.mailbox_dir(f"user.{user}", two.a.spool),
                                  two.a.spool) for user in ("alice", "bob"))
    files = [open(os.path.join(two.b.mnt, alice, name), "rb", buffering=0)
             for name in ("1.", "cyrus.index")]

    def done():
        return [witness.Index(witness.read(os.path.join(two.b.spool, box, "cyrus.index")))
                .header["exists"] for box in (alice, bob)] == [2, 1]
    with server.lmtp() as c:
        c.deliver("bob", mail.message(2))
        c.deliver("alice", mail.message(3))
    slowest, times, start = 0, 0, time.monotonic()
    while not done():
        case.check(time.monotonic() < start + 30, "the changes do not arrive")
        for file in files:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begin = time.monotonic()
            size = os.fstat(file.fileno()).st_size
            case.equal(len(os.pread(file.fileno(), 1 << 20, 0)), size, "bytes read")
            os.stat(file.name)
            slowest = max(slowest, time.monotonic() - begin)
            times += 1
        time.sleep(0.02)
    case.note(f"{times} looks in {time.monotonic() - start:.1f} s, slowest {slowest:.3f} s")
    case.check(time.monotonic() > start + 1, "replay was too fast to show anything")
    case.check(slowest < 0.5, f"a reader waited for {slowest:.3f} s")
    for file in files:
        file.close()


def test_an_open_folder_is_fresh():
    """A program that goes back to the beginning of a folder sees what has come since. Without
    fstat on the way, which Python's own functions make."""
    two = pair.Pair().start()
    server = two.cyrus()
    server.add_user("alice")
    two.wait()
    folder = os.path.join(two.b.mnt, os.path.relpath(
        server.mailbox_dir("user.alice", two.a.spool), two.a.spool))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.opendir.argtypes = (ctypes.c_char_p,)
    for function in (libc.readdir, libc.rewinddir, libc.closedir):
        function.argtypes = (ctypes.c_void_p,)
    stream = libc.opendir(os.fsencode(folder))
    case.check(stream, "opendir")

    def names():
        entries = iter(lambda: libc.readdir(stream), None)
        return {os.fsdecode(ctypes.string_at(e + 19)) for e in entries}     # d_name
    case.check("cyrus.index" in names(), "no index in the folder")
    for n in range(1, 4):
        with server.lmtp() as c:
            c.deliver("alice", mail.message(n))
        two.wait()
        libc.rewinddir(stream)
        case.check(f"{n}." in names(), f"message {n} is not in the folder")
    libc.closedir(stream)


def test_it_cannot_be_written():
    two = pair.Pair().start()
    two.cyrus().add_user("alice")
    two.wait()
    path = None
    for base, _, names in os.walk(two.b.mnt):
        if "cyrus.index" in names:
            path = os.path.join(base, "cyrus.index")
    case.check(path, "no mailbox on the standby")
    for what in (lambda: os.open(path, os.O_RDWR), lambda: os.unlink(path),
                 lambda: os.mkdir(two.b.mnt + "/x"), lambda: os.utime(path),
                 lambda: os.rename(path, path + "x"), lambda: os.chmod(path, 0o600)):
        try:
            what()
        except OSError as why:
            case.equal(why.errno, errno.EROFS, "error of a write")
        else:
            raise case.Failed("the standby was written to")


case.main()
