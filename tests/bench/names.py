"""What a file is, by its name and by its inode number: for syncs, which the kernel's trace points tell
by inode."""

import os
import re


def kind_of(path):
    """A path with what differs from one message to the other taken out."""
    name = os.path.basename(path)
    if "/stage./" in path or re.search(r"/stage\.$", path):
        return "stage./*" if "/stage./" in path else "stage."
    if re.fullmatch(r"\d+\.", name):
        return "<uid>."
    if name.startswith("cyrus."):
        return name
    if os.path.isdir(path):
        return "folder"
    return name


class Disk:
    """Inode number -> top folder and kind, of everything on a disk."""

    def __init__(self, disk):
        self.disk, self.known = disk, {}

    def read(self):
        self.known.clear()
        self._read(self.disk.path, "")

    def _read(self, path, top):
        folders = []
        try:
            entries = os.scandir(path)
        except OSError:
            return
        with entries:
            for e in entries:
                where = top or e.name
                if e.is_dir(follow_symlinks=False):
                    # A mount below has other inodes.
                    if e.stat(follow_symlinks=False).st_dev == self.disk.dev:
                        folders.append((e.path, where))
                    self.known[e.inode()] = f"{where}: folder"
                # A staged message is the delivered one under its first name.
                elif self.known.get(e.inode(), "").endswith("<uid>."):
                    pass
                else:
                    self.known[e.inode()] = f"{where}: {kind_of(e.path)}"
        for path, where in folders:
            self._read(path, where)


class Names:
    """All of a system's disks. One is read when something on it is not known, once."""

    read = {}      # disk -> what was known of it the last time

    def __init__(self, disks):
        self.disks = {d.dev: self.read.setdefault(d, Disk(d)) for d in disks}
        self.fresh = set()

    def synced(self, text):
        """(disk, top folder and kind of file) of a trace line about a sync; "syncfs" for a whole
        disk."""
        m = re.search(r"dev (\d+),(\d+)(?: ino (\d+))?", text)
        d = self.disks[os.makedev(int(m[1]), int(m[2]))]
        if m[3] is None:
            return d.disk, "syncfs"
        if int(m[3]) not in d.known and d not in self.fresh:
            self.fresh.add(d)
            d.read()
        return d.disk, d.known.get(int(m[3]), "a file that is gone")


# Names in words that mean the same on every system; by top folder and file.
WORDS = [
    (r".*: (stage\./\*|<uid>\.)", "body"), (r".*: cyrus\.(\w+)(\.NEW)?", r"\1"),
    (r"spool: folder", "folder"), (r"spool: .*", "file of the spool"),
    (r"state: journal\.db.*", "journal"), (r"state: state\.db.*", "state"),
    (r"state: arrivals.*", "inbox"), (r"state: notes.*", "notes"),
    (r"c: .*", "Cyrus's databases"), (r"(.*)", r"\1"),
]


def word(what):
    for pattern, said in WORDS:
        m = re.fullmatch(pattern, what)
        if m:
            return m.expand(said)
    return what
