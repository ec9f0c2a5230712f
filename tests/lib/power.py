"""A filesystem whose power can be cut at any moment, afterwards.

    disk = power.Disk(folder, megabytes=128)   # ext4 at disk.mnt, recorded below by powerdisk
    ...                                        # use it; disk.mark("text") says "by now"
    disk.close()
    for cut in disk.cuts(100, seed=1):
        with cut.mounted() as root:            # as one possible power cut left it
            ...                                # cut.marks: what had been said before

The model: everything that was written before the last flush that precedes the cut is there.
What was written after that flush is there or not, each block of 4 KB by itself: nothing of it,
all of it, or any choice. Then the real ext4 mounts it and recovers its journal.
"""

import contextlib
import os
import random
import struct
import subprocess

import case
import contain

ENTRY = struct.Struct("=c3xIQ")
BLOCK = 4096


def run(*args):
    done = subprocess.run(list(map(str, args)), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    case.check(done.returncode == 0, f"{' '.join(map(str, args))}: {done.stdout.decode()}")


class Disk:
    def __init__(self, folder, megabytes=128):
        self.folder = folder
        self.low, self.mnt = f"{folder}/low", f"{folder}/mnt"
        for path in (self.low, self.mnt):
            os.makedirs(path)
        tool = f"{os.environ['BUILD']}/tests/cyrus/powerdisk"
        case.need(tool)
        self.marks = None
        self.proc = subprocess.Popen([tool, self.low, folder, str(megabytes)],
                                     stdin=subprocess.DEVNULL, start_new_session=True, cwd="/")
        case.later(self.close)
        case.wait_for(lambda: os.path.exists(f"{self.low}/disk"), "powerdisk to serve")
        # Without a lazy table everything is laid out now, and not at some later moment.
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            "-J", "size=8", f"{self.low}/disk")
        run("mount", "-o", "loop,nodiscard", f"{self.low}/disk", self.mnt)
        self.marks = os.open(f"{self.low}/mark", os.O_WRONLY)

    def mark(self, text):
        os.write(self.marks, text.encode())

    def fail(self):
        """From now on every write fails."""
        self.mark("!")

    def last(self):
        """The disk as it is at the end, with nothing that was not flushed."""
        *_, cut = self.cuts(1, always_last=True)
        cut.kind = "nothing"
        return cut

    def close(self):
        """Unmounts; the record stays."""
        if self.proc is None:
            return
        if self.marks is not None:
            os.close(self.marks)
        contain.unmount_below(self.mnt)
        subprocess.run(["umount", self.low], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            contain.unmount_below(self.low)
            self.proc.kill()
            self.proc.wait(10)
        self.proc = None

    def entries(self):
        with open(f"{self.folder}/log", "rb") as f:
            while True:
                head = f.read(ENTRY.size)
                if len(head) < ENTRY.size:
                    return
                kind, size, off = ENTRY.unpack(head)
                yield kind, off, f.read(size) if kind != b"F" else b""

    def cuts(self, count, seed=1, always_last=False):
        """Moments after the first mark; half of them just before a flush, when the most is
        not yet safe."""
        rng = random.Random(seed)
        kinds = [kind for kind, _, _ in self.entries()]
        first = kinds.index(b"M")
        flushes = [n for n in range(first, len(kinds)) if kinds[n] == b"F"]
        any_time = range(first + 1, len(kinds) + 1)
        chosen = sorted(rng.sample(flushes, min(count // 2, len(flushes)))
                        + rng.sample(any_time, min(count - count // 2, len(any_time))))
        if always_last:
            chosen = [len(kinds)]
        case.note(f"{len(kinds) - first} writes, flushes and marks, of them {len(flushes)} "
                  f"flushes; power cut at {len(chosen)}")
        image = f"{self.folder}/safe"
        loose, marks, at = [], [], 0
        with open(f"{self.folder}/bytes", "rb") as f:
            size = os.fstat(f.fileno()).st_size
        safe = open(image, "w+b", buffering=0)
        safe.truncate(size)
        for n, (kind, off, data) in enumerate(self.entries()):
            while at < len(chosen) and chosen[at] == n:
                yield Cut(self.folder, image, n, loose, list(marks), rng)
                at += 1
            if kind == b"W":
                loose.append((off, data))
            elif kind == b"M":
                marks.append(data.decode())
            else:
                for where, what in loose:
                    os.pwrite(safe.fileno(), what, where)
                loose = []
        while at < len(chosen):
            yield Cut(self.folder, image, len(kinds), loose, list(marks), rng)
            at += 1
        safe.close()


class Cut:
    def __init__(self, folder, image, at, loose, marks, rng):
        self.folder, self.image, self.at = folder, image, at
        self.loose, self.marks, self.rng = loose, marks, rng
        self.kind = rng.choice(("nothing", "all", "some", "some"))

    def __str__(self):
        return f"cut at {self.at}, {self.kind} of {len(self.loose)} loose writes kept"

    def make(self, path):
        run("cp", "--sparse=always", self.image, path)
        if self.kind == "nothing":
            return
        share = self.rng.random()
        with open(path, "r+b", buffering=0) as f:
            for off, data in self.loose:
                for start in range(0, len(data), BLOCK):
                    if self.kind == "all" or self.rng.random() < share:
                        os.pwrite(f.fileno(), data[start:start + BLOCK], off + start)

    @contextlib.contextmanager
    def mounted(self):
        path, mnt = f"{self.folder}/cut", f"{self.folder}/cut.mnt"
        self.make(path)
        os.makedirs(mnt, exist_ok=True)
        run("mount", "-o", "loop,nodiscard", path, mnt)
        try:
            yield mnt
        finally:
            run("umount", mnt)
            os.unlink(path)
