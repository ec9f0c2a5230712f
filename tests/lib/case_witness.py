#!/usr/bin/env python3
"""The witness itself: it must find a real spool sound, an rsync copy equal, and notice
each kind of damage and each kind of difference that is planted."""
# limit: 120

import os
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import case  # noqa: E402
import cyrus  # noqa: E402
import mail  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

made = {}


def spool(layout):
    """A spool with something of everything, made once for each layout."""
    if layout in made:
        return made[layout]
    root = case.folder(f"w-{layout}")
    server = cyrus.Cyrus(case.folder(f"c-{layout}"), root, layout=layout).start()
    server.add_user("alice", "bob.x", folders=["Sent"])
    with server.lmtp() as c:
        for n in range(12):
            c.deliver(["alice", "bob.x"], mail.message(n, 1500 + 300 * n))
    with server.imap("alice") as c:
        c.select()
        c.store("1:4", "+FLAGS", "\\Seen $work")
        c.copy("2:5", "INBOX/Sent")
        c.move("6", "INBOX/Sent")
        for n in range(1, 12):
            c.annotate(str(n) if n != 6 else "7", "/comment", "x" * n)
        c.annotate("3", "/comment", None)
        c.annotate("5", "/altsubject", "mine", "value.priv")
        c.store("9", "+FLAGS", "\\Deleted")
        c.expunge()
    server.run("cyr_expire", "-X", "0", "-E", "1")
    with server.imap("alice") as c:
        c.select()
        c.store("10", "+FLAGS", "\\Deleted \\Flagged")
        c.expunge()
        c.append("INBOX/Sent", mail.message(99), "\\Draft other")
    server.stop()
    made[layout] = root, server
    return made[layout]


def copy_of(root):
    twin = case.folder() + "/twin"
    subprocess.run(["cp", "-a", root, twin], check=True)
    return twin


def box_of(root, server, name="user.alice"):
    # The server is down; find the directory by the name in cyrus.header.
    for where in spools.mailboxes(root):
        head = witness.Mailbox(os.path.join(root, where)).header
        if head["N"] == name.encode():
            return where
    raise case.Failed(f"no mailbox {name}")


def test_a_real_spool_is_sound():
    for layout in ("uuid", "legacy"):
        spools.assert_sound(spool(layout)[0])


def test_a_copy_is_equal():
    for layout in ("uuid", "legacy"):
        root, _ = spool(layout)
        spools.assert_equal(root, copy_of(root))
        case.check(len(spools.link_groups(root)) >= 11, "the spool has no hard links")


def patch(path, change):
    with open(path, "rb") as f:
        data = bytearray(f.read())
    change(data)
    # Not in place: the copy must not share what it has in common with the original.
    with open(path, "wb") as f:
        f.write(data)


def reseal(data, uid=None):
    """Make the CRCs fit again, so that only the planted value differs."""
    start, size, head_crc, rec_crc = witness.SIZES[int.from_bytes(data[8:12], "big")]
    count = int.from_bytes(data[20:24], "big")
    for off in range(start, start + count * size, size):
        struct.pack_into(">I", data, off + rec_crc, witness.crc(data[off:off + rec_crc]))
    struct.pack_into(">I", data, head_crc, witness.crc(data[:head_crc]))


def test_every_field_of_the_header_is_compared():
    root, server = spool("uuid")
    where = box_of(root, server)
    twin = copy_of(root)
    path = os.path.join(twin, where, "cyrus.index")
    original = witness.read(path)
    for name, (off, size) in witness.header_fields(17).items():
        if name in ("format", "version", "start", "record_size", "num_records"):
            continue

        def change(data):
            data[off + size - 1] ^= 1
            reseal(data)
        patch(path, change)
        found = spools.compare(root, twin)
        if name in spools.LOCAL_HEADER:
            case.equal(found, [], name)
        else:
            case.check(any(f"index header {name} " in f for f in found), f"{name}: {found}")
        patch(path, lambda data: data.__setitem__(slice(None), original))


def test_every_field_of_a_record_is_compared():
    root, server = spool("uuid")
    where = box_of(root, server)
    twin = copy_of(root)
    path = os.path.join(twin, where, "cyrus.index")
    original = witness.read(path)
    names = {"cache_word": "cache_version", "cache_low": None}
    for name, (off, size) in witness.record_fields(17).items():
        if name == "uid":
            continue

        def change(data):
            data[160 + 112 + off + size - 1] ^= 1
            reseal(data)
        patch(path, change)
        found = spools.compare(root, twin)
        wanted = names.get(name, name)
        if wanted is None:
            case.check(found, "a wrong cache offset went unnoticed")
        else:
            case.check(any(f"uid 2 {wanted} " in f for f in found), f"{name}: {found}")
        patch(path, lambda data: data.__setitem__(slice(None), original))


def test_planted_differences_are_found():
    root, server = spool("legacy")
    where = box_of(root, server)

    def at(twin, name=""):
        return os.path.join(twin, where, name)

    def drop_record(twin):
        def change(data):
            data[20:24] = (int.from_bytes(data[20:24], "big") - 1).to_bytes(4, "big")
            reseal(data)
        patch(at(twin, "cyrus.index"), change)

    def annotation(twin):
        data = witness.read(at(twin, "cyrus.annotations"))
        off = data.index(b"/comment")
        tail = data.index(b"xxxx", off)
        # Find the record whose tail holds this value, and reseal it.
        for start in range(64, tail, 8):
            if data[start:start + 1] != b"+":
                continue
            level = data[start + 1]
            klen, vlen = struct.unpack(">HI", data[start + 2:start + 8])
            body = start + 8 + 8 * (level + 1) + 8
            padded = (klen + vlen + 7) // 8 * 8
            if body <= tail < body + padded:
                def change(d):
                    d[tail] = ord("y")
                    struct.pack_into(">I", d, body - 4, witness.crc(d[body:body + padded]))
                patch(at(twin, "cyrus.annotations"), change)
                return
        raise case.Failed("no annotation to plant in")

    def cache(twin):
        index = witness.Mailbox(at(twin)).index
        off = index.records[3]["cache_offset"]

        def change(data):
            data[off + 6] ^= 1
        patch(at(twin, "cyrus.cache"), change)

    def body(twin):
        patch(at(twin, "3."), lambda d: d.__setitem__(100, d[100] ^ 1))

    def unlinked(twin):
        os.unlink(at(twin, "4."))

    plants = {
        "a missing message": (unlinked, "4. only on"),
        "a changed body": (body, "bytes differ"),
        "a changed mtime": (lambda t: os.utime(at(t, "2."), (5, 5)), "mtime"),
        "another mode": (lambda t: os.chmod(at(t, "2."), 0o640), "kind, mode, owner"),
        "another owner": (lambda t: os.chown(at(t, "cyrus.index"), 0, 0), "owner"),
        "another folder mode": (lambda t: os.chmod(at(t), 0o711), "folder mode"),
        "an extra file": (lambda t: open(at(t, "odd"), "w").close(), "odd only on b"),
        "an extra folder": (lambda t: os.mkdir(at(t, "Sub")), "only on b"),
        "a missing mailbox": (lambda t: shutil.rmtree(at(t, "Sent")), "only on a"),
        "a missing record": (drop_record, "record only on a"),
        "a changed annotation": (annotation, "annotation b'"),
        "a changed cache record": (cache, "cache record differs"),
        "a changed header": (
            lambda t: patch(at(t, "cyrus.header"),
                            lambda d: d.__setitem__(slice(None), d.replace(b"$work",
                                                                           b"$Work"))),
            "cyrus.header"),
        "a broken index": (
            lambda t: patch(at(t, "cyrus.index"), lambda d: d.__setitem__(30, 77)),
            "unreadable: index header CRC"),
    }
    for name, (plant, wanted) in plants.items():
        twin = copy_of(root)
        plant(twin)
        found = spools.compare(root, twin)
        case.check(any(wanted in f for f in found), f"{name} went unnoticed: {found}")
        shutil.rmtree(os.path.dirname(twin))


def test_what_is_local_is_left_out():
    root, server = spool("uuid")
    where = box_of(root, server)
    twin = copy_of(root)
    for name in ("stage./1-2-3", "sync./9/x", ".twinspool/id", f"{where}/cyrus.index.NEW",
                 f"{where}/999."):
        path = os.path.join(twin, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    case.equal(spools.compare(root, twin), [], "differences")


def test_faults_inside_one_spool_are_found():
    root, server = spool("uuid")
    where = box_of(root, server)

    def counter(name):
        off, size = witness.header_fields(17)[name]

        def change(data):
            data[off + size - 1] ^= 1
            reseal(data)
        return lambda path: patch(path + "/cyrus.index", change)

    def body(path):
        patch(path + "/3.", lambda d: d.__setitem__(100, d[100] ^ 1))

    plants = {name: (counter(name), name) for name in (
        "exists", "answered", "flagged", "deleted", "unseen", "quota_mailbox_used", "basic",
        "annot", "header_file_crc")}
    plants["body"] = body, "SHA-1"
    plants["missing"] = lambda p: os.unlink(p + "/3."), "No such file"
    plants["cache"] = lambda p: os.truncate(p + "/cyrus.cache", 100), "runs out"
    for name, (plant, wanted) in plants.items():
        twin = copy_of(root)
        plant(os.path.join(twin, where))
        found = spools.check(twin)
        case.check(any(wanted in f for f in found), f"{name} went unnoticed: {found}")
        shutil.rmtree(os.path.dirname(twin))


case.main()
