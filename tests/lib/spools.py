"""Comparison of two backing trees, record by record and byte by byte.

compare(a, b) lists every difference that a client, an administrator or a later Cyrus could
notice. Left out is what is local to a node: cache offsets, the NEEDS bits, generation and
number of records, first_expunged; stage./, sync./, .twinspool/ and *.NEW; messages above
last_uid (debris of an append that failed). Both trees must be at rest.
"""

import os
import stat

import case
import witness
from witness import Bad, MESSAGE, UNLINKED

LOCAL_HEADER = {"generation", "num_records", "first_expunged", "leaked", "start",
                "record_size"}
LOCAL_RECORD = {"cache_offset"}
LOCAL_FOLDERS = {"stage.", "sync.", ".twinspool", "lost+found"}
OWN = {"cyrus.index", "cyrus.header", "cyrus.cache", "cyrus.annotations"}


def listing(root):
    """Folders (relative path) -> names of what is no folder, local things left out."""
    out = {}
    for base, folders, files in os.walk(root):
        relative = os.path.relpath(base, root)
        folders[:] = [f for f in folders if not f.endswith(".NEW")]
        if relative == ".":
            folders[:] = [f for f in folders if f not in LOCAL_FOLDERS]
        links = [f for f in folders if os.path.islink(os.path.join(base, f))]
        out[relative] = {f for f in files + links if not f.endswith(".NEW")}
    return out


def local_things(root):
    """What never travels; a standby has none of it."""
    return [os.path.join(base, name)
            for base, folders, files in os.walk(root) for name in folders + files
            if name.endswith(".NEW") or base == root and name in ("stage.", "sync.")]


def mailboxes(root):
    return sorted(d for d, names in listing(root).items() if "cyrus.index" in names)


def attributes(path):
    st = os.lstat(path)
    return (stat.S_IFMT(st.st_mode), oct(stat.S_IMODE(st.st_mode)), st.st_uid, st.st_gid)


def same_bytes(a, b):
    if os.path.islink(a):
        return os.readlink(a) == os.readlink(b)
    if not stat.S_ISREG(os.lstat(a).st_mode):
        return True
    if os.path.getsize(a) != os.path.getsize(b):
        return False
    with open(a, "rb") as f, open(b, "rb") as g:
        while True:
            x, y = f.read(1 << 20), g.read(1 << 20)
            if x != y:
                return False
            if not x:
                return True


def fields_differ(x, y, local):
    return [f"{k} {show(x.get(k))} | {show(y.get(k))}"
            for k in sorted(x.keys() | y.keys())
            if k not in local and x.get(k) != y.get(k)]


def show(value):
    return value.hex() if isinstance(value, bytes) else value


class Comparison:
    def __init__(self, a, b, limit=60):
        self.a, self.b = a, b
        self.limit = limit
        self.found = []
        # Hard links are compared once.
        self.equal_inodes = set()

    def say(self, where, text):
        self.found.append(f"{where}: {text}")

    def file(self, name, times=False):
        x, y = os.path.join(self.a, name), os.path.join(self.b, name)
        try:
            p, q = attributes(x), attributes(y)
            if p != q:
                self.say(name, f"kind, mode, owner {p} | {q}")
            s, t = os.lstat(x), os.lstat(y)
            if times and int(s.st_mtime) != int(t.st_mtime):
                self.say(name, f"mtime {int(s.st_mtime)} | {int(t.st_mtime)}")
            pair = (s.st_ino, t.st_ino)
            if pair not in self.equal_inodes:
                if p[0] == q[0] and not same_bytes(x, y):
                    self.say(name, f"bytes differ ({s.st_size} | {t.st_size})")
                self.equal_inodes.add(pair)
        except OSError as why:
            self.say(name, why)

    def mailbox(self, where, names_a, names_b):
        try:
            x = witness.Mailbox(os.path.join(self.a, where))
            y = witness.Mailbox(os.path.join(self.b, where))
        except (Bad, OSError, ValueError, IndexError) as why:
            self.say(where, f"unreadable: {why}")
            return
        p, q = dict(x.index.header), dict(y.index.header)
        for head in (p, q):
            head["options"] &= ~(witness.NEEDS_UNLINK | witness.NEEDS_REPACK)
        for text in fields_differ(p, q, LOCAL_HEADER):
            self.say(where, "index header " + text)
        if x.header_bytes != y.header_bytes:
            self.say(where, f"cyrus.header {x.header} | {y.header}")
        for uid in sorted(x.index.records.keys() | y.index.records.keys()):
            r, s = x.index.records.get(uid), y.index.records.get(uid)
            if r is None or s is None:
                self.say(where, f"uid {uid} has a record only on {'ab'[r is None]}")
                continue
            r, s = dict(r), dict(s)
            for rec in (r, s):
                rec["flags"] &= ~witness.NEEDS_CLEANUP
            for text in fields_differ(r, s, LOCAL_RECORD):
                self.say(where, f"uid {uid} {text}")
            if not r["flags"] & UNLINKED:
                self.cache(where, uid, x, y, r, s)
        self.annotations(where, x, y)
        debris = {f"{n}" for n in names_a ^ names_b if MESSAGE.fullmatch(n)
                  and int(n[:-1]) > max(p["last_uid"], q["last_uid"])}
        for name in sorted((names_a ^ names_b) - debris - {"cyrus.cache",
                                                          "cyrus.annotations"}):
            self.say(where, f"{name} only on {'ab'[name in names_b]}")
        for name in sorted(names_a & names_b):
            path = os.path.join(where, name)
            if name in OWN:
                r, s = (attributes(os.path.join(t, path)) for t in (self.a, self.b))
                if r != s:
                    self.say(path, f"kind, mode, owner {r} | {s}")
            else:
                self.file(path, times=MESSAGE.fullmatch(name) is not None)

    def cache(self, where, uid, x, y, r, s):
        try:
            if not (r.get("cache_crc") or s.get("cache_crc")):
                return
            if witness.cache_record(x.cache, r["cache_offset"]) != witness.cache_record(
                    y.cache, s["cache_offset"]):
                self.say(where, f"uid {uid} cache record differs")
        except Bad as why:
            self.say(where, f"uid {uid} {why}")

    def annotations(self, where, x, y):
        for key in sorted(x.annotations.keys() | y.annotations.keys()):
            v, w = x.annotations.get(key), y.annotations.get(key)
            if v != w:
                self.say(where, f"annotation {key} {v} | {w}")

    def run(self):
        x, y = listing(self.a), listing(self.b)
        for where in sorted(x.keys() ^ y.keys()):
            self.say(where, f"folder {sorted(x.get(where, ()) or y.get(where, ()))[:4]} only on {'ab'[where in y]}")
        for where in sorted(x.keys() & y.keys()):
            p, q = (attributes(os.path.join(t, where)) for t in (self.a, self.b))
            if p != q:
                self.say(where, f"folder mode, owner {p} | {q}")
            if "cyrus.index" in x[where] and "cyrus.index" in y[where]:
                self.mailbox(where, x[where], y[where])
                continue
            for name in sorted(x[where] ^ y[where]):
                self.say(where, f"{name} only on {'ab'[name in y[where]]}")
            for name in sorted(x[where] & y[where]):
                self.file(os.path.join(where, name))
        return self.found


def compare(a, b):
    return Comparison(a, b).run()


def check(root, bodies=True):
    """What the witness finds wrong in one tree."""
    bad = []
    for where in mailboxes(root):
        bad += witness.check_mailbox(os.path.join(root, where), bodies)
    return bad


def listed(lines, limit=40):
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(lines[:limit] + more)


def assert_equal(a, b):
    found = compare(a, b)
    case.check(not found, lambda: f"{len(found)} differences\n" + listed(found))


def assert_sound(root):
    found = check(root)
    case.check(not found, lambda: f"{len(found)} faults\n" + listed(found))


def count(root):
    """(mailboxes, records not expunged) of a tree."""
    boxes = mailboxes(root)
    total = 0
    for where in boxes:
        index = witness.Index(witness.read(os.path.join(root, where, "cyrus.index")))
        total += sum(1 for r in index.records.values()
                     if not r["flags"] & witness.EXPUNGED)
    return len(boxes), total


def link_groups(root):
    """Message files that share an inode, as sets of relative paths."""
    groups = {}
    for where, names in listing(root).items():
        for name in names:
            if MESSAGE.fullmatch(name):
                path = os.path.join(where, name)
                groups.setdefault(os.lstat(os.path.join(root, path)).st_ino, set()).add(path)
    return [g for g in groups.values() if len(g) > 1]
