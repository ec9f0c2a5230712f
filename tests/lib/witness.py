"""An independent reader of Cyrus's files: what the tests believe instead of our codecs.

Written from docs/formats.md and the format notes alone; it shares no code and no table
with meta/. Everything that does not add up raises Bad, or is listed by check_mailbox.
"""

import hashlib
import os
import re
import struct
import zlib

MAGIC_HEADER_CRC = 0x8AD11D69
MESSAGE = re.compile(r"[1-9][0-9]*\.")
EXPUNGED, UNLINKED, ARCHIVED = 1 << 31, 1 << 30, 1 << 29
NEEDS_CLEANUP = 1 << 28
NEEDS_UNLINK, NEEDS_REPACK = 1 << 29, 1 << 30
SYSTEM_FLAGS = {0x1: "\\answered", 0x2: "\\flagged", 0x4: "\\deleted", 0x8: "\\draft",
                0x10: "\\seen"}
VIRTUAL = "/vendor/cmu/cyrus-imapd/"


class Bad(Exception):
    pass


def crc(data):
    return zlib.crc32(data) & 0xFFFFFFFF


# version: header size, record size, header CRC offset, record CRC offset
SIZES = {10: (96, 88, None, None), 12: (128, 96, 124, 92), 13: (128, 104, 124, 100),
         14: (160, 104, 156, 100), 15: (160, 104, 156, 100), 16: (160, 112, 156, 108),
         17: (160, 112, 156, 108), 18: (160, 112, 156, 108), 19: (160, 112, 156, 108)}


def header_fields(version):
    """name -> (offset, size)"""
    f = {"generation": (0, 4), "format": (4, 4), "version": (8, 4), "start": (12, 4),
         "record_size": (16, 4), "num_records": (20, 4), "last_appenddate": (24, 4),
         "last_uid": (28, 4), "quota_mailbox_used": (32, 8), "pop3_last_login": (40, 4),
         "uidvalidity": (44, 4), "deleted": (48, 4), "answered": (52, 4),
         "flagged": (56, 4)}
    if version >= 19:
        f |= {"exists": (60, 4), "options": (64, 4), "leaked": (68, 4),
              "highestmodseq": (72, 8), "deletedmodseq": (80, 8),
              "first_expunged": (88, 4), "last_repack_time": (92, 4),
              "header_file_crc": (96, 4), "basic": (100, 4), "recentuid": (104, 4),
              "recenttime": (108, 4), "pop3_show_after": (112, 4),
              "quota_annot_used": (116, 4), "annot": (120, 4), "unseen": (124, 4),
              "createdmodseq": (128, 8), "quota_deleted_used": (136, 8),
              "quota_expunged_used": (144, 8), "changes_epoch": (152, 4)}
        return f
    f |= {"options": (60, 4), "leaked": (64, 4), "highestmodseq": (68, 8)}
    if version >= 12:
        f |= {"deletedmodseq": (76, 8), "exists": (84, 4), "first_expunged": (88, 4),
              "last_repack_time": (92, 4), "header_file_crc": (96, 4), "basic": (100, 4),
              "recentuid": (104, 4), "recenttime": (108, 4)}
    if version >= 13:
        f |= {"pop3_show_after": (112, 4), "quota_annot_used": (116, 4),
              "annot": (120, 4)}
    if version >= 14:
        f |= {"unseen": (124, 4)}
    if version >= 16:
        f |= {"createdmodseq": (128, 8)}
    if version >= 17:
        f |= {"changes_epoch": (136, 4)}
    if version == 18:
        f |= {"quota_deleted_used": (140, 8), "quota_expunged_used": (148, 8)}
    return f


def record_fields(version):
    f = {"uid": (0, 4), "internaldate": (4, 4), "sentdate": (8, 4), "size": (12, 4),
         "header_size": (16, 4), "gmtime": (20, 4), "cache_low": (24, 4),
         "last_updated": (28, 4), "flags": (32, 4), "user_flags": (36, 16),
         "cache_word": (56, 4), "guid": (60, 20), "modseq": (80, 8)}
    if version == 10:
        return f | {"content_lines": (52, 4)}
    if version >= 13:
        f |= {"cid": (88, 8)}
    if version >= 15:
        f |= {"savedate": (52, 4)}
    if version == 12:
        return f | {"cache_crc": (88, 4)}
    if version <= 15:
        return f | {"cache_crc": (96, 4)}
    return f | {"createdmodseq": (96, 8), "cache_crc": (104, 4)}


def pick(data, fields):
    out = {}
    for name, (off, size) in fields.items():
        raw = data[off:off + size]
        out[name] = int.from_bytes(raw, "big") if size <= 8 else raw
    return out


class Index:
    """With broken, records that are half written are left out and counted there, as after a
    power cut; else they are an error."""

    def __init__(self, data, broken=False):
        self.broken = 0
        if len(data) < 20:
            raise Bad(f"index of {len(data)} bytes")
        version = int.from_bytes(data[8:12], "big")
        if version not in SIZES:
            raise Bad(f"index version {version}")
        start, size, head_crc, rec_crc = SIZES[version]
        self.version = version
        if len(data) < start:
            raise Bad("index shorter than its header")
        self.header = pick(data, header_fields(version))
        if (self.header["start"], self.header["record_size"]) != (start, size):
            raise Bad("index sizes do not fit its version")
        if head_crc and crc(data[:head_crc]) != int.from_bytes(
                data[head_crc:head_crc + 4], "big"):
            raise Bad("index header CRC")
        n = self.header["num_records"]
        if len(data) < start + n * size and not broken:
            raise Bad(f"index has no room for its {n} records")
        self.records = {}
        last = 0
        fields = record_fields(version)
        for i in range(n):
            raw = data[start + i * size:start + (i + 1) * size].ljust(size, b"\0")
            rec = pick(raw, fields)
            if rec_crc and crc(raw[:rec_crc]) != int.from_bytes(
                    raw[rec_crc:rec_crc + 4], "big"):
                if broken:
                    self.broken += 1
                    continue
                raise Bad(f"record {i + 1} (uid {rec['uid']}): CRC")
            if rec["uid"] <= last:
                raise Bad(f"record {i + 1}: uid {rec['uid']} after {last}")
            last = rec["uid"]
            word = rec.pop("cache_word")
            rec["cache_version"] = word & 0xFFFF
            rec["cache_offset"] = (word >> 16 << 32) | rec.pop("cache_low")
            self.records[last] = rec


def parse_header(data):
    """The new form of cyrus.header as a dict; the old form as three lines."""
    if crc(data[:115]) != MAGIC_HEADER_CRC:
        raise Bad("header magic")
    text = data[115:]
    if not text.startswith(b"%("):
        lines = text.split(b"\n")
        if len(lines) < 4:
            raise Bad("header of the old form has too few lines")
        root, _, ident = lines[0].partition(b"\t")
        return {"old": True, "Q": root or None, "I": ident,
                "U": [n or None for n in lines[1].split(b" ")[:-1]], "A": lines[2]}
    value, rest = parse_dlist(text)
    if rest != b"\n":
        raise Bad("bytes after the header's list")
    return value


def parse_dlist(text):
    """One dlist value; returns (value, rest). Key/value lists are dicts, NIL is None."""
    if text.startswith(b"%("):
        out, text = {}, text[2:]
        while not text.startswith(b")"):
            key, text = parse_dlist(text.lstrip(b" "))
            value, text = parse_dlist(text.lstrip(b" "))
            out[key.decode()] = value
            text = text.lstrip(b" ")
        return out, text[1:]
    if text.startswith(b"("):
        out, text = [], text[1:]
        while not text.startswith(b")"):
            value, text = parse_dlist(text.lstrip(b" "))
            out.append(value)
            text = text.lstrip(b" ")
        return out, text[1:]
    if text.startswith(b'"'):
        out, i = b"", 1
        while text[i:i + 1] != b'"':
            if text[i:i + 1] == b"\\":
                i += 1
            if i >= len(text):
                raise Bad("string without end")
            out += text[i:i + 1]
            i += 1
        return out, text[i + 1:]
    found = re.match(rb"\{(\d+)\+?\}\r\n", text)
    if found:
        end = found.end() + int(found.group(1))
        return text[found.end():end], text[end:]
    found = re.match(rb"[^ ()\r\n\"]+", text)
    if not found:
        raise Bad(f"dlist: {text[:20]!r}")
    word = found.group(0)
    return (None if word == b"NIL" else word), text[found.end():]


def parse_twoskip(data):
    """key -> value of every live record, by the level 0 chain, all CRCs checked."""
    if len(data) < 64 or not data.startswith(b"\xa1\x02\x8b\x0dtwoskip file\0\0\0\0"):
        raise Bad("twoskip magic")
    version, _, count, _, end, flags, check = struct.unpack(">IQQQQII", data[20:64])
    if crc(data[:60]) != check:
        raise Bad("twoskip header CRC")
    if version != 1 or flags & 1:
        raise Bad(f"twoskip version {version} flags {flags}")
    if end > len(data):
        raise Bad(f"twoskip says {end} bytes, has {len(data)}")

    def node(off):
        if off % 8 or off + 16 > end:
            raise Bad(f"twoskip offset {off}")
        kind, level, keylen, vallen = struct.unpack(">cBHI", data[off:off + 8])
        at = off + 8
        if keylen == 0xFFFF:
            keylen, at = int.from_bytes(data[at:at + 8], "big"), at + 8
        if vallen == 0xFFFFFFFF:
            vallen, at = int.from_bytes(data[at:at + 8], "big"), at + 8
        # Only DUMMY and RECORD carry the second link of level 0.
        n = level + 1 if kind in b"=+" else 1
        links = struct.unpack(f">{n}Q", data[at:at + 8 * n])
        at += 8 * n
        head, tail = struct.unpack(">II", data[at:at + 8])
        if crc(data[off:at]) != head:
            raise Bad(f"twoskip head CRC at {off}")
        at += 8
        padded = (keylen + vallen + 7) // 8 * 8
        if at + padded > end or crc(data[at:at + padded]) != tail:
            raise Bad(f"twoskip tail CRC at {off}")
        key = data[at:at + keylen]
        return kind, links, key, data[at + keylen:at + keylen + vallen]

    def first(links):
        live = [p for p in links[:2] if p < end]
        return max(live, default=0)

    out, last, seen = {}, None, set()
    kind, links, _, _ = node(64)
    if kind != b"=":
        raise Bad("twoskip starts with no dummy")
    at = first(links)
    while at:
        if at in seen:
            raise Bad("twoskip chain runs in a circle")
        seen.add(at)
        kind, links, key, value = node(at)
        if kind == b"-":
            at = links[0]
            continue
        if kind != b"+":
            raise Bad(f"twoskip chain meets {kind!r} at {at}")
        if last is not None and key <= last:
            raise Bad("twoskip keys out of order")
        out[key] = value
        last = key
        at = first(links)
    if len(out) != count:
        raise Bad(f"twoskip has {len(out)} keys, says {count}")
    return out


def annotation(value):
    """The stored value of an annotation: (bytes, modseq, deleted)."""
    n = int.from_bytes(value[:4], "big")
    rest = value[8 + n + 1:]
    kind = rest.index(b"\0")
    return (value[8:8 + n], int.from_bytes(rest[kind + 9:kind + 17], "big"),
            bool(rest[kind + 17] & 1))


def cache_record(data, offset):
    """The bytes of the cache record at offset, ten items."""
    at = offset
    if offset < 4:
        raise Bad(f"cache offset {offset}")
    for _ in range(10):
        if at + 4 > len(data):
            raise Bad(f"cache record at {offset} runs out of the file")
        n = int.from_bytes(data[at:at + 4], "big")
        at += 4 + (n + 3) // 4 * 4
    if at > len(data):
        raise Bad(f"cache record at {offset} runs out of the file")
    return data[offset:at]


def flag_names(rec, header):
    names = [name for bit, name in SYSTEM_FLAGS.items() if rec["flags"] & bit]
    words = struct.unpack(">4I", rec["user_flags"])
    users = header.get("U") or []
    for n in range(128):
        if words[n // 32] >> n % 32 & 1:
            if n >= len(users) or users[n] is None:
                raise Bad(f"uid {rec['uid']}: user flag {n} has no name")
            names.append(users[n].decode().lower())
    return names


def basic_crc(rec, header):
    flags = 0
    for name in flag_names(rec, header):
        flags ^= crc(name.encode())
    text = (f"{rec['uid']} {rec['modseq']} {rec['last_updated']} ({flags}) "
            f"{rec['internaldate']} {rec['guid'].hex()}")
    return crc(text.encode())


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Mailbox:
    """One mailbox directory, read whole but for its messages."""

    def __init__(self, path):
        self.path = path
        self.names = os.listdir(path)
        self.index = Index(read(os.path.join(path, "cyrus.index")))
        self.header_bytes = read(os.path.join(path, "cyrus.header"))
        self.header = parse_header(self.header_bytes)
        self.cache = b""
        if "cyrus.cache" in self.names:
            self.cache = read(os.path.join(path, "cyrus.cache"))
        self.annotations = {}
        if "cyrus.annotations" in self.names:
            self.annotations = parse_twoskip(read(os.path.join(path, "cyrus.annotations")))

    def live(self):
        return [r for r in self.index.records.values() if not r["flags"] & UNLINKED]


def annot_crc(box, rec, owner):
    total, uid, entries = 0, rec["uid"], {}
    for key, value in box.annotations.items():
        number, entry, user, *_ = key.split(b"\0")
        data, _, dead = annotation(value)
        if int(number or 0) == uid and data and not dead:
            entries[entry, owner if user == b"[.OwNeR.]" else user] = data
    for name, form in (("cid", "%x"), ("savedate", "%d"), ("createdmodseq", "%d")):
        if rec.get(name):
            entry = VIRTUAL + {"cid": "thrid"}.get(name, name)
            entries.setdefault((entry.encode(), b""), (form % rec[name]).encode())
    for (entry, user), data in entries.items():
        total ^= crc(b"%d %s %s %s" % (uid, entry, user, data))
    return total


def check_mailbox(path, bodies=True):
    """Every way in which this mailbox contradicts itself, as lines of text."""
    bad = []
    try:
        box = Mailbox(path)
    except (Bad, OSError, ValueError, IndexError) as why:
        return [f"{path}: {why}"]
    head, recs = box.index.header, box.index.records

    def wants(name, value):
        if name in head and head[name] != value:
            bad.append(f"{path}: header {name} is {head[name]}, counted {value}")

    alive = [r for r in recs.values() if not r["flags"] & EXPUNGED]
    wants("exists", len(alive))
    wants("quota_mailbox_used", sum(r["size"] for r in alive))
    for name, bit in (("answered", 1), ("flagged", 2), ("deleted", 4)):
        wants(name, sum(1 for r in alive if r["flags"] & bit))
    wants("unseen", sum(1 for r in alive if not r["flags"] & 0x10))
    wants("header_file_crc", crc(box.header_bytes))
    if recs and max(recs) > head["last_uid"]:
        bad.append(f"{path}: uid {max(recs)} above last_uid {head['last_uid']}")
    try:
        if "basic" in head:
            total = 0
            for rec in alive:
                total ^= basic_crc(rec, box.header)
            wants("basic", total)
        if box.index.version >= 16 and not box.header.get("old"):
            name = (box.header.get("N") or b"").split(b".")
            owner = name[1].replace(b"^", b".") if name[0] == b"user" else b""
            total = 12345678
            for rec in alive:
                total ^= annot_crc(box, rec, owner)
            wants("annot", total)
    except (Bad, ValueError, IndexError) as why:
        bad.append(f"{path}: {why}")
    for rec in recs.values():
        who = f"{path}: uid {rec['uid']}"
        if rec["modseq"] > head["highestmodseq"]:
            bad.append(f"{who}: modseq {rec['modseq']} above {head['highestmodseq']}")
        if rec["flags"] & UNLINKED:
            if not rec["flags"] & EXPUNGED:
                bad.append(f"{who}: UNLINKED but not EXPUNGED")
            continue
        try:
            item = cache_record(box.cache, rec["cache_offset"])
            if rec.get("cache_crc") and crc(item) != rec["cache_crc"]:
                bad.append(f"{who}: cache CRC")
        except Bad as why:
            if rec.get("cache_crc"):
                bad.append(f"{who}: {why}")
        file = os.path.join(path, f"{rec['uid']}.")
        try:
            st = os.lstat(file)
            if st.st_size != rec["size"]:
                bad.append(f"{who}: file has {st.st_size} bytes, not {rec['size']}")
            elif bodies and hashlib.sha1(read(file)).digest() != rec["guid"]:
                bad.append(f"{who}: SHA-1 is not the GUID")
        except OSError as why:
            bad.append(f"{who}: {why.strerror}")
    return bad
