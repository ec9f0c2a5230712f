#!/usr/bin/env python3
"""Bad input and what it gets: damage sets one mailbox aside and reaches no peer; a bad peer
loses its link; a full disk waits; a wrong disk is not mounted."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import hashlib  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
import struct  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402


def ready(keys=None):
    two = pair.Pair(keys).start()
    two.cyrus().add_user("good", "bad")
    deliver(two, "bad", 1, 3)
    two.wait()
    return two


def deliver(two, who, first, count, size=3000):
    with two.server.lmtp() as c:
        for n in range(first, first + count):
            c.deliver(who, mail.message(n, size))


def commit(path, change):
    """As a process of Cyrus would: records, then the whole header, then the sync."""
    with open(f"{path}/cyrus.index", "r+b", buffering=0) as f:
        data = bytearray(f.read())
        change(data)
        f.seek(160)
        f.write(data[160:])
        f.seek(0)
        f.write(data[:160])
        os.fsync(f.fileno())


def one_more(data, guid=None, size=None):
    """A record for the next UID, like the last one but for what is given."""
    count, last = struct.unpack(">I", data[20:24])[0], struct.unpack(">I", data[28:32])[0]
    rec = bytearray(data[160 + (count - 1) * 112:160 + count * 112])
    modseq = int.from_bytes(data[68:76], "big") + 1
    struct.pack_into(">I", rec, 0, last + 1)
    struct.pack_into(">Q", rec, 80, modseq)
    if guid:
        rec[60:80] = guid
    if size:
        struct.pack_into(">I", rec, 12, size)
    struct.pack_into(">I", rec, 108, witness.crc(rec[:108]))
    data[160 + count * 112:] = rec
    struct.pack_into(">I", data, 20, count + 1)
    struct.pack_into(">I", data, 28, last + 1)
    struct.pack_into(">Q", data, 68, modseq)
    struct.pack_into(">I", data, 84, int.from_bytes(data[84:88], "big") + 1)
    seal(data)


def seal(data):
    struct.pack_into(">I", data, 156, witness.crc(data[:156]))


def owned(path, data):
    with open(path, "wb") as f:
        f.write(data)
    shutil.chown(path, "cyrus", "mail")
    os.chmod(path, 0o600)


def missing_body(path):
    commit(path, one_more)


def empty_body(path):
    owned(f"{path}/4.", b"")
    commit(path, one_more)


def wrong_body(path):
    text = mail.message(99)
    owned(f"{path}/4.", text)
    commit(path, lambda d: one_more(d, hashlib.sha1(b"other").digest(), len(text)))


def unknown_version(path):
    def change(data):
        struct.pack_into(">I", data, 8, 99)
        seal(data)
    commit(path, change)


def broken_record(path):
    commit(path, lambda d: d.__setitem__(160 + 70, d[160 + 70] ^ 1))


def broken_header_crc(path):
    commit(path, lambda d: d.__setitem__(40, d[40] ^ 1))


def cut_index(path):
    with open(f"{path}/cyrus.index", "r+b") as f:
        f.truncate(160 + 112 + 30)
    commit(path, lambda d: None)


def broken_names(path):
    old = witness.read(f"{path}/cyrus.header")
    owned(f"{path}/cyrus.header.NEW", b"no header at all\n" + old)
    os.rename(f"{path}/cyrus.header.NEW", f"{path}/cyrus.header")

    def change(data):
        crc = witness.crc(witness.read(f"{path}/cyrus.header"))
        struct.pack_into(">I", data, 96, crc)
        seal(data)
    commit(path, change)


def sound_body(path):
    text = mail.message(99)
    owned(f"{path}/4.", text)
    commit(path, lambda d: one_more(d, hashlib.sha1(text).digest(), len(text)))


def broken_annotations(path):
    owned(f"{path}/cyrus.annotations", b"no database at all\n" * 20)
    sound_body(path)


DAMAGE = [missing_body, empty_body, wrong_body, unknown_version, broken_record,
          broken_header_crc, cut_index, broken_names, broken_annotations]


def damage_test(damage):
    def test():
        two = ready()
        path = two.server.mailbox_dir("user.bad")
        on_b = two.server.mailbox_dir("user.bad", two.b.spool)
        before = {n: witness.read(f"{on_b}/{n}") for n in os.listdir(on_b)}
        damage(path)
        # Everything else flows.
        deliver(two, "good", 50, 4)
        case.wait_for(lambda: two.a.status()["quarantine"], "the mailbox to be set aside")
        facts = two.a.status()["quarantine"]
        text = str(facts)
        case.equal(len(facts), 1, text)
        where = os.path.relpath(path, two.a.mnt)
        case.check(where in text, f"mailbox is not named: {text}")
        cure = "restore" if damage == broken_annotations else "reconstruct"
        case.check(facts[0]["check"] and cure in facts[0]["text"], text)
        good = two.server.mailbox_dir("user.good", two.b.spool)
        case.wait_for(lambda: os.path.exists(f"{good}/4."), "the other mailbox's mail")
        after = {n: witness.read(f"{on_b}/{n}") for n in os.listdir(on_b)}
        case.equal(sorted(after), sorted(before), "files on the standby")
        case.check(after == before, "the damage reached the standby")
        case.equal(spools.check(two.b.spool), [], "faults on the standby")
        # Cyrus's own cure releases it.
        two.server.run("reconstruct", "-G", "-R", "user/bad", check=False)
        if damage in (unknown_version, cut_index, broken_header_crc, broken_names,
                      broken_annotations):
            return      # Cyrus has no cure that keeps what the mailbox was
        case.wait_for(lambda: not two.a.status()["quarantine"], "the release", limit=20)
        two.settle()
    return test


def test_damaged_cache():
    """Cyrus makes it anew from the message: that travels, the damage does not, and the log says so."""
    two = ready()
    path = two.server.mailbox_dir("user.bad")
    with open(f"{path}/cyrus.cache", "r+b") as f:
        f.truncate(os.path.getsize(f"{path}/cyrus.cache") - 100)
    sound_body(path)
    on_b = two.server.mailbox_dir("user.bad", two.b.spool)
    case.wait_for(lambda: os.path.exists(f"{on_b}/4."), "the message on the standby")
    two.wait()
    case.equal(two.a.status()["quarantine"], [], "set aside")
    case.check("cyrus.cache" in two.a.log(), "the log says nothing of it")
    faults = [f for f in spools.check(two.b.spool) if "cache" in f or "4." in f]
    case.equal(faults, [], "faults on the standby")


def hostile(two, context=None, data=b""):
    """Connect to b and say something; returns when b has closed the connection."""
    with socket.create_connection(("127.0.0.1", two.b.port), 5) as raw:
        raw.settimeout(15)
        try:
            s = context.wrap_socket(raw) if context else raw
            s.sendall(data)
            s.settimeout(15)
            while s.recv(65536):
                pass
        except socket.timeout:
            raise case.Failed("the connection was not closed") from None
        except OSError:
            pass


def client_context(cert=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(f"{cert}/cert.pem", f"{cert}/key.pem")
    return context


def test_bad_peers_lose_their_link():
    two = ready()
    before = len(two.b.log())
    hostile(two, data=b"GET / HTTP/1.0\r\n\r\n")
    hostile(two, data=os.urandom(5000))
    hostile(two, client_context(), b"x" * 100)
    stranger = case.folder()
    pair.ok("keygen", stranger)
    hostile(two, client_context(stranger), b"x" * 100)
    text = two.b.log()[before:]
    case.check("ertificate" in text or "fingerprint" in text,
               f"the unknown certificate is not in the log: {text}")
    # One with the right key that talks nonsense: garbage, an oversized frame, zeros.
    for data in (os.urandom(2000), b"\xff" * 64, bytes(4096)):
        hostile(two, client_context(two.a.state), data)
    deliver(two, "good", 1, 3)
    two.settle()


def test_many_silent_connections_do_not_block_the_peer():
    two = ready()
    silent = [socket.create_connection(("127.0.0.1", two.b.port)) for _ in range(64)]
    two.a.kill()
    two.server.stop(hard=True)
    two.a.start()
    two.server.start()
    deliver(two, "good", 1, 3)
    two.settle()
    for s in silent:
        s.close()


def test_full_disk_on_the_standby():
    two = pair.Pair()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=755", "none", two.b.spool],
                   check=True)
    case.later(subprocess.run, ["umount", "-l", two.b.spool])
    shutil.chown(two.b.spool, "cyrus", "mail")
    two.start()
    two.cyrus().add_user("good")
    deliver(two, "good", 1, 40, 200_000)
    case.wait_for(lambda: "space" in str(two.b.status()).lower()
                  or "full" in str(two.b.status()).lower(), "the standby to say so")
    # The active side goes on.
    deliver(two, "good", 100, 5)
    with two.server.imap("good") as c:
        case.equal(c.select(), 45, "messages")
    subprocess.run(["mount", "-o", "remount,size=100m", two.b.spool], check=True)
    two.settle()
    two.umount()


def test_full_state_disk_on_the_standby():
    two = pair.Pair()
    state, keys = two.b.state, case.folder()
    shutil.copytree(state, keys, dirs_exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "none", state],
                   check=True)
    case.later(subprocess.run, ["umount", "-l", state])
    shutil.copytree(keys, state, dirs_exist_ok=True)
    two.start()
    two.cyrus().add_user("good")
    deliver(two, "good", 1, 3)
    two.wait()
    with open(f"{state}/ballast", "wb", buffering=0) as f:
        try:
            while f.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    # The active side goes on, and the standby says why it does not.
    deliver(two, "good", 10, 40, 50_000)
    with two.server.imap("good") as c:
        case.equal(c.select(), 43, "messages")
    case.wait_for(lambda: "full" in two.b.log() or "space" in two.b.log(),
                  "the standby to say so")
    os.unlink(f"{state}/ballast")
    two.settle()
    two.umount()


def test_both_sides_active_is_refused():
    two = pair.Pair()
    two.b.configure(role="active", imapd_conf=f"{two.base}/cyrus/imapd.conf")
    two.start()
    two.cyrus().add_user("good")
    deliver(two, "good", 1, 3)
    code, _ = pair.program("wait", "--timeout", "2", two.a.mnt)
    case.check(code != 0, "two active sides replicate")
    case.equal(spools.mailboxes(two.b.spool), [], "mailboxes on the other")
    logs = two.a.log() + two.b.log()
    case.check("active" in logs, "no log says why")


def test_an_empty_or_foreign_disk_is_not_mounted():
    two = ready()
    two.umount()
    away = two.a.spool + ".away"
    os.rename(two.a.spool, away)
    os.mkdir(two.a.spool)
    shutil.chown(two.a.spool, "cyrus", "mail")
    said = two.a.refuses()
    case.check(two.a.spool in said, f"the empty tree is not named: {said}")
    # Another installation's tree.
    other = pair.Pair()
    other.a.start()
    other.a.close()
    os.rmdir(two.a.spool)
    shutil.copytree(other.a.spool, two.a.spool, symlinks=True)
    said = two.a.refuses()
    case.check(two.a.spool in said or "id" in said, said)
    two.b.start()
    time.sleep(1)
    shutil.rmtree(two.a.spool)
    os.rename(away, two.a.spool)
    two.a.start()
    two.settle()
    case.equal(spools.count(two.b.spool), (2, 3), "what the standby has")


def test_wrong_places_are_refused():
    two = pair.Pair()
    full = two.a.mnt + "/something"
    open(full, "w").close()
    case.check(two.a.mnt in two.a.refuses(), "a mount point that is not empty")
    os.unlink(full)
    two.a.configure(spool=two.a.mnt, imapd_conf="/dev/null")
    case.check(two.a.mnt in two.a.refuses(), "the tree is the mount itself")


def test_wrong_configuration_lines():
    two = pair.Pair()
    for line, words in (("durability: sometimes", ["durability"]),
                        ("colour: blue", ["colour"]),
                        ("journal_size: many", ["journal_size"]),
                        ("peer: c", ["peer"]),
                        ("no colon here", [])):
        two.a.configure(imapd_conf="/dev/null")
        with open(two.a.conf, "a") as f:
            f.write(line + "\n")
        where = len(open(two.a.conf).read().splitlines())
        said = two.a.refuses()
        for word in [f"{two.a.conf}:{where}:", *words, "expected"]:
            case.check(word in said, f"{line}: no {word!r} in {said}")


def tests():
    for damage in DAMAGE:
        yield f"damage: {damage.__name__}", damage_test(damage)
    for name, function in list(globals().items()):
        if name.startswith("test_"):
            yield name, function


case.main(list(tests()))
