#!/usr/bin/env python3
"""Folders with mailboxes in them are moved by an administrator's hand, while mail comes in and
while the server dies: both spools are equal afterwards. Needs a build with fault points in it,
which is made here."""
# limit: 600

import os
import shutil
import subprocess
import sys
import threading
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

FAULTY = os.path.join(case.BUILD, "faults")
ROOM = 400      # ms that a fault point gives a race
number = iter(range(1, 1_000_000))


def build():
    done = subprocess.run(["make", "-s", "-j2", "O=" + FAULTY, "FAULTS=1"], cwd=case.ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    case.equal(done.returncode, 0, done.stdout)
    case.PROGRAM = os.path.join(FAULTY, "twinspool")


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


class Stage:
    """A pair, and in it a user's mailboxes in folders by name: three, one below the other."""

    def __init__(self, fault=None, layout="legacy"):
        build()
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
        if fault:
            self.a.umount()
            os.environ["TWINSPOOL_FAULT"] = fault
            try:
                self.a.start()
            finally:
                os.environ.pop("TWINSPOOL_FAULT", None)

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


if __name__ == "__main__":
    case.main()
