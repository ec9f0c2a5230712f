"""A hand that writes cyrus.index as Cyrus does, step by step, so that a case can stop between
any two of them.

    with hand.Hand(f"{mnt}/{box}") as h:     # index open and locked, as a writer has it
        h.flag(1, hand.FLAGGED)              # the record, written; the header not yet
        h.header(recentuid=3)                # the header, written whole; h.commit() syncs too

Leaving closes the descriptor and so gives up the lock, as the death of the writer would.
"""

import fcntl
import os
import time

import witness

FLAGGED = 0x2


def put(raw, fields, name, value):
    at, size = fields[name]
    raw[at:at + size] = value.to_bytes(size, "big")


class Hand:
    def __init__(self, path):
        self.path = path
        # Closing any other descriptor of the index would give up the lock.
        self.box = witness.Mailbox(path)
        self.fd = os.open(f"{path}/cyrus.index", os.O_RDWR)
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        version = self.box.index.version
        self.start, self.size, self.head_crc, self.rec_crc = witness.SIZES[version]
        self.fields = witness.header_fields(version)
        self.rec_fields = witness.record_fields(version)
        self.next = dict(self.box.index.header)     # what the next header will say
        self.uids = list(self.box.index.records)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def flag(self, uid, bit):
        """Toggle a system flag in the record, with everything that goes with it."""
        at = self.start + self.uids.index(uid) * self.size
        raw = bytearray(os.pread(self.fd, self.size, at))
        was = self.box.index.records[uid]
        self.next["highestmodseq"] += 1
        rec = {**was, "flags": was["flags"] ^ bit, "last_updated": int(time.time()),
               "modseq": self.next["highestmodseq"]}
        for name in ("flags", "last_updated", "modseq"):
            put(raw, self.rec_fields, name, rec[name])
        raw[self.rec_crc:self.rec_crc + 4] = witness.crc(raw[:self.rec_crc]).to_bytes(4, "big")
        os.pwrite(self.fd, raw, at)
        self.box.index.records[uid] = rec
        self.next["basic"] ^= (witness.basic_crc(was, self.box.header)
                               ^ witness.basic_crc(rec, self.box.header))
        if bit == FLAGGED:
            self.next["flagged"] += 1 if rec["flags"] & bit else -1

    def keyword(self, name):
        """cyrus.header with one keyword more, of which the index does not know."""
        path = f"{self.path}/cyrus.header"
        was = os.stat(path)
        text = self.box.header_bytes.removesuffix(b")\n")
        # The list of them comes last, if there is one.
        text = text.removesuffix(b")") + b" " if b" U (" in text else text + b" U ("
        with open(path + ".NEW", "xb") as f:
            f.write(text + name.encode() + b"))\n")
            os.fchown(f.fileno(), was.st_uid, was.st_gid)
            os.fchmod(f.fileno(), was.st_mode & 0o777)
            f.flush()
            os.fsync(f.fileno())
        os.rename(path + ".NEW", path)

    def header(self, **changed):
        """The whole header at offset 0, not synced."""
        self.next.update(changed)
        raw = bytearray(os.pread(self.fd, self.start, 0))
        for name, value in self.next.items():
            put(raw, self.fields, name, value)
        raw[self.head_crc:self.head_crc + 4] = witness.crc(
            raw[:self.head_crc]).to_bytes(4, "big")
        os.pwrite(self.fd, raw, 0)

    def commit(self, **changed):
        self.header(**changed)
        os.fsync(self.fd)
