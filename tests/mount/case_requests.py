#!/usr/bin/env python3
"""What never becomes a request: each lever of design 3.3, by what the mount itself counts."""

import ctypes
import mmap
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import slot  # noqa: E402

COUNT = re.compile(r'^twinspool_fuse_requests_total\{.*kind="(\w+)"\} (\d+)$', re.M)
READ = re.compile(r"^twinspool_read_bytes_total\S* (\d+)$", re.M)
# When the kernel likes; and of whoever looks at the space on all mounts of the machine.
OTHERS = ("FORGET", "BATCH_FORGET", "STATFS")
MB = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)
libc.fopen.restype = ctypes.c_void_p
libc.fwrite.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]


class Mount(slot.Slot):
    def __init__(self, **keys):
        super().__init__(case.folder(), **keys)
        case.later(self.stop)
        self.start()
        self.file = f"{self.mnt}/file"
        # The first of each kind is answered ENOSYS, and then never comes again.
        with open(self.file, "wb") as f:
            f.write(b"x" * MB)
        os.listdir(self.mnt)
        with open(self.file, "rb+") as f:
            f.read()

    def counts(self):
        """By the control socket, so asking is no request."""
        text = subprocess.run([case.PROGRAM, "status", "--metrics", self.conf], check=True,
                              stdout=subprocess.PIPE).stdout.decode()
        found = {kind: int(n) for kind, n in COUNT.findall(text) if kind not in OTHERS}
        case.check("CREATE" in found, text)
        found["bytes"] = sum(map(int, READ.findall(text)))
        return found

    def during(self, act):
        """{kind: requests}, and the bytes that READs brought, of that act."""
        before = self.counts()
        act()
        return {k: n - before.get(k, 0) for k, n in self.counts().items()
                if n != before.get(k, 0)}


def test_counting_costs_nothing():
    m = Mount()
    case.equal(m.during(lambda: None), {}, "requests for nothing")


def lines(path, count):
    """As Cyrus writes a message: line by line, by stdio."""
    f = libc.fopen(path.encode(), b"w+")
    for n in range(count):
        libc.fwrite(b"%099d\n" % n, 1, 100, f)
    libc.fclose(f)


def test_writes_are_large():
    m = Mount()
    did = m.during(lambda: lines(f"{m.mnt}/lines", 80))
    case.equal(did.get("WRITE"), 1, f"WRITE for 8 KB by stdio, in {did}")
    case.check(os.stat(f"{m.mnt}/lines").st_blksize >= 100_000, "st_blksize")
    with open(f"{m.mnt}/new", "wb", buffering=0) as f:
        did = m.during(lambda: f.write(b"w" * 100_000))
    case.equal(did.get("WRITE"), 1, f"WRITE for one write of 100 KB, in {did}")


def test_an_append_leaves_the_old_pages_cached():
    m = Mount()
    with open(m.file, "ab", buffering=0) as f:
        for n in range(1, 4):
            did = m.during(lambda: f.write(b"y" * 100))
            case.equal(did.get("WRITE"), 1, f"WRITE in {did}")

            def look(n=n):
                with open(m.file, "rb") as r, \
                        mmap.mmap(r.fileno(), 0, prot=mmap.PROT_READ) as view:
                    case.equal(view[:], b"x" * MB + b"y" * 100 * n, "content")

            did = m.during(look)
            # The new page, which a WRITE filled in part, and that only once.
            case.check(did.get("bytes", 0) <= (4096 if n == 1 else 0),
                       f"append {n}: read again: {did}")


def test_a_write_asks_for_no_extended_attribute():
    m = Mount()
    with open(m.file, "rb+", buffering=0) as f:
        did = m.during(lambda: [os.pwrite(f.fileno(), b"z", 4096 * n) for n in range(100)])
    case.equal(did.get("WRITE"), 100, f"WRITE in {did}")
    case.check(did.get("GETXATTR", 0) <= 1, f"GETXATTR in {did}")


def test_what_is_known_is_not_asked_again():
    m = Mount()
    none = f"{m.mnt}/none"
    os.stat(m.file)
    case.check(not os.path.exists(none), none)

    def again():
        os.stat(m.file)
        case.check(not os.path.exists(none), none)

    case.equal(m.during(again), {}, "requests for a second stat and a second ENOENT")


def test_opening_and_closing_is_free():
    m = Mount()

    def opens():
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND):
            for _ in range(10):
                fd = os.open(m.file, flags)
                os.close(os.dup(fd))
                os.close(fd)
        os.close(os.open(m.mnt, os.O_RDONLY | os.O_DIRECTORY))

    case.equal(m.during(opens), {}, "requests for opens and closes")
    all_of_them = m.counts()
    for kind in ("OPEN", "FLUSH", "OPENDIR"):
        case.check(all_of_them.get(kind, 0) <= 1, f"{kind}: {all_of_them}")
    # Some kernels from 6.9 on send a RELEASE for a file that a CREATE opened.
    case.check(all_of_them.get("RELEASE", 0) <= all_of_them["CREATE"], all_of_them)


case.main()
