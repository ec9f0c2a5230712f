#!/usr/bin/env python3
"""Measured promises: how long until the standby has it, bytes sent once, first
synchronisation against rsync.

TWINSPOOL_MESSAGES: how many for the first synchronisation (tests/long runs 40,000)."""
# limit: 400
# alone: it compares times

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import base64  # noqa: E402
import email.utils  # noqa: E402
import itertools  # noqa: E402
import random  # noqa: E402
import re  # noqa: E402
import string  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import zlib  # noqa: E402

import cyrus  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import rsync  # noqa: E402
import spools  # noqa: E402

MESSAGES = int(os.environ.get("TWINSPOOL_MESSAGES", "6000"))


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def judge(name, rounds):
    """The best of three rounds counts, and where others use the machine, they delay each of
    the ten or so hand-overs on the way as they delay that of a call which waits for nothing."""
    lags, calls = min(rounds, key=lambda one: quantile(one[0], 0.99))
    median, high = quantile(lags, 0.5), quantile(lags, 0.99)
    call, slow_call = quantile(calls, 0.5), quantile(calls, 0.99)
    case.note(f"{name}: median {median:.2f} ms, 99 % {high:.2f} ms, worst {max(lags):.2f} ms, "
              f"of {len(lags)}; a call {call:.2f} and {slow_call:.2f} ms")
    case.check(median <= 5 + 5 * call, f"{name}: median {median:.2f} ms")
    case.check(high <= 20 + 5 * slow_call, f"{name}: 99 % {high:.2f} ms")


def lag_of(two, count, act):
    """Of each act, and beside it of a call that finds nothing to wait for; in ms."""
    lags, calls = [], []
    for n in range(count):
        act(n)
        for into in (lags, calls):
            start = time.perf_counter()
            two.a.ask("wait timeout=20000")
            into.append((time.perf_counter() - start) * 1000)
    return lags, calls


def test_lag_from_ok_to_verified():
    two = pair.Pair().start()
    two.cyrus().add_user("alice")
    with two.server.lmtp() as c, two.server.imap("alice") as i:
        for n in range(100):
            c.deliver("alice", mail.message(n, 4000))
        two.wait()
        judge("delivery", [
            lag_of(two, 200, lambda n: c.deliver("alice", mail.message(1000 + n, 4000)))
            for _ in range(3)])
        i.select()
        judge("flags", [
            lag_of(two, 100, lambda n: i.store(str(n + 1), sign + "FLAGS", "\\Seen"))
            for sign in "+-+"])
    two.settle()


def sent(two):
    """Bytes on the wire so far; the counters are renewed every second at the latest."""
    time.sleep(1.2)
    return two.a.peer("b")["wire"]["sent"]


def test_bytes_travel_once():
    two = pair.Pair().start()
    users = [f"u{n}" for n in range(20)]
    two.cyrus().add_user(*users)
    with two.server.imap("u0") as c:
        for n in range(20):
            c.create(f"INBOX/f{n}")
    two.wait()
    size = 300_000
    text = base64.encodebytes(os.urandom(size * 3 // 4)).replace(b"\n", b"\r\n")
    text = b"Subject: big\r\n\r\n" + text
    before = sent(two)
    with two.server.lmtp() as c:
        c.deliver(users, text)
    two.wait()
    spent = sent(two) - before
    # base64 deflates to three quarters.
    case.note(f"{len(text)} bytes to 20 users: {spent} bytes sent")
    case.check(spent < len(text), f"{spent} bytes for one message to 20 users")
    before = sent(two)
    with two.server.imap("u0") as c:
        c.select()
        for n in range(20):
            c.copy("1", f"INBOX/f{n}")
    two.wait()
    spent = sent(two) - before
    case.note(f"copied to 20 folders: {spent} bytes sent")
    case.check(spent < 20_000, f"{spent} bytes for 20 copies")
    two.settle()


def test_flag_change_costs_few_bytes():
    two = pair.Pair().start()
    two.cyrus().add_user("alice")
    with two.server.lmtp() as c:
        for n in range(240):
            c.deliver("alice", mail.message(n, 800))
    with two.server.imap("alice") as c:
        c.select()
        c.store("1", "+FLAGS", "\\Seen")
        two.wait()
        before = sent(two)
        for n in range(2, 241):
            c.store(str(n), "+FLAGS", "\\Seen")
            two.a.ask("wait timeout=20000")
        each = (sent(two) - before) / 239
    case.note(f"one flag change: {each:.0f} bytes, heartbeats and all")
    case.check(each > 22, f"{each} bytes for one flag change cannot be")
    case.check(each <= 80, f"{each:.0f} bytes for one flag change")


def made_up(rng):
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randrange(2, 11)))


LANGUAGE = [made_up(random.Random(n)) for n in range(3000)]
OFTEN = list(itertools.accumulate(1 / (n + 1) for n in range(len(LANGUAGE))))


def strange(n, size, words=None):
    """A message about something else from and to somebody else. words: a function that gives
    some; without it, each message has a language of its own, as if it were noise."""
    rng = random.Random(n)
    own = [made_up(rng) for _ in range(120)]
    words = words or (lambda rng, k: rng.choices(own, k=k))

    def name():
        return made_up(rng)
    body = (f"From: {name()} {name()} <{name()}@{name()}.example>\r\n"
            f"To: <{name()}@{name()}.example>\r\nSubject: {' '.join(words(rng, 4))}\r\n"
            f"Date: {email.utils.formatdate(rng.randrange(1 << 30))}\r\n"
            f"Message-ID: <{rng.getrandbits(64):x}@{name()}.example>\r\n"
            f"X-{name()}: {name()}\r\n\r\n")
    while len(body) < size:
        body += " ".join(words(rng, rng.randrange(5, 12))) + "\r\n"
    return body.encode()


def unrelated(n, size):
    """The language of all is the same: some words are used often, most are not."""
    return strange(n, size, lambda rng, k: rng.choices(LANGUAGE, cum_weights=OFTEN, k=k))


def test_a_delivery_costs_less_than_its_message_deflated():
    """Everything that a sends for it, TLS and heartbeats included, once it has seen some others."""
    two = pair.Pair().start()
    two.cyrus().add_user("alice")
    path = two.server.mailbox_dir("user.alice", two.a.spool)
    uid = 0
    with two.server.lmtp() as c:
        for name, make, most in (("similar", mail.message, 0.95), ("unrelated", unrelated, 0.95),
                                 ("without a word in common", strange, 1.1)):
            for n in range(250):
                if n == 50:
                    two.wait()
                    before = sent(two)
                c.deliver("alice", make(n, 4400))
                two.a.ask("wait timeout=20000")
                uid += 1
            spent = (sent(two) - before) / 200
            alone = size = 0
            for u in range(uid - 199, uid + 1):
                with open(f"{path}/{u}.", "rb") as f:
                    text = f.read()
                alone += len(zlib.compress(text, 6)) / 200
                size += len(text) / 200
            case.note(f"{name}: {size:.0f} bytes, deflated alone {alone:.0f}, sent {spent:.0f}: "
                      f"{spent / alone:.3f} of that")
            case.check(spent <= most * alone, f"{name}: {spent / alone:.3f}")
            case.check(spent > 0.1 * alone, f"{name}: {spent:.0f} bytes cannot be all of it")
    two.settle()


def fresh_disk():
    """An ext4 of its own. On a file system where much was deleted in the last half minute,
    ext4 passes over each of those inodes at every creation, and one side gets the bill."""
    base = f"{case.ext4(3 << 10)}/x"
    os.mkdir(base)
    return base


OF_THE_SPOOL = {"index", "header", "cache", "annotations", "body", "folder", "file", "spool"}


def syncs_of(slot):
    return sum(n for kind, n in slot.syncs().items() if kind in OF_THE_SPOOL)


def test_connections_share_their_syncs():
    two = pair.Pair(base=fresh_disk()).start()
    users = [f"u{n}" for n in range(8)]
    two.cyrus(prefork=8).add_user(*users)

    def deliver(user):
        with two.server.lmtp() as c:
            for n in range(40):
                c.deliver(user, mail.message(n, 4000))

    def once():
        before = syncs_of(two.a)
        threads = [threading.Thread(target=deliver, args=(user,)) for user in users]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return (syncs_of(two.a) - before) / (8 * 40)
    # They share the more, the less else keeps the machine from running them side by side.
    each = min(once() for _ in range(4))
    case.note(f"8 connections: {each:.2f} syncs of the spool for a delivery")
    case.check(each <= 1, f"{each:.2f} syncs for a delivery")
    two.settle()


def test_first_synchronisation_against_rsync():
    case.need("rsync")
    two = pair.Pair(base=fresh_disk())
    plain = cyrus.Cyrus(f"{two.base}/cyrus", two.a.spool).start()
    boxes = max(MESSAGES // 1000, 4)
    users = [f"u{n}" for n in range(boxes)]
    plain.add_user(*users)
    for n, user in enumerate(users):
        path = plain.mailbox_dir(f"user.{user}")
        for uid in range(1, MESSAGES // boxes + 1):
            name = f"{path}/{uid}."
            with open(name, "wb") as f:
                f.write(mail.message(n * 100_000 + uid, 4000))
            os.chown(name, *[getattr(os.stat(path), f"st_{x}id") for x in "ug"])
            os.chmod(name, 0o600)   # as Cyrus makes them
    plain.stop()
    for user in users:
        plain.run("reconstruct", f"user/{user}", limit=300)
    count = spools.count(two.a.spool)[1]
    case.equal(count, MESSAGES // boxes * boxes, "messages made")
    by_rsync = {}
    for server in rsync.servers(two.base, two.a.spool):
        os.sync()
        start = time.monotonic()
        server.copy(f"{two.base}/copy {server.name}")
        by_rsync[server.name] = time.monotonic() - start
    two.a.start(limit=120)
    os.sync()
    start = time.monotonic()
    two.b.start()
    two.a.wait(limit=600)
    ours = time.monotonic() - start
    theirs = ", ".join(f"{name} {spent:.2f} s" for name, spent in by_rsync.items())
    case.note(f"{count} messages: {theirs}, twinspool {ours:.2f} s")
    two.settle()
    # Half a second of rsync is too short to hold anybody to on a busy machine: the short run
    # only guards against a blunder, the long one against the promise, which is of either way.
    factor = 1 if MESSAGES >= 40_000 else 4
    case.check(ours <= max(by_rsync.values()) * factor, f"{ours:.2f} s; {theirs}")


def waits_of(slot):
    """How often its server's threads have given up the processor by themselves."""
    pid, total = slot.server_pid(), 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M)[1])
    return total


def test_messages_on_the_disk_are_not_waited_for_one_by_one():
    """A first synchronisation of what nobody has read for long."""
    count = 3000
    two = pair.Pair(base=fresh_disk())
    plain = cyrus.Cyrus(f"{two.base}/cyrus", two.a.spool).start()
    plain.add_user("u")
    path = plain.mailbox_dir("user.u")
    owner = os.stat(path)
    for uid in range(1, count + 1):
        with open(f"{path}/{uid}.", "wb") as f:
            f.write(mail.message(uid, 4000))
            os.fchown(f.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(f.fileno(), 0o600)
    plain.stop()
    plain.run("reconstruct", "user/u", limit=300)
    two.a.start(limit=120)
    os.sync()
    for uid in range(1, count + 1):
        fd = os.open(f"{path}/{uid}.", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    before = waits_of(two.a)
    two.b.start()
    two.a.wait(limit=300)
    waits = waits_of(two.a) - before
    case.note(f"{count} messages: {waits} waits")
    # One by one it is more than one for each; what is on its way may be waited for, too.
    case.check(waits < count * 0.7, f"{waits} waits for {count} messages")
    two.settle()


def test_ten_thousand_deliveries():
    """TWINSPOOL_DELIVERIES over 8 connections to 50 users, mixed with IMAP."""
    import load
    two = pair.Pair().start()
    users = [f"u{n}" for n in range(50)]
    two.cyrus().add_user(*users, folders=["Old"])
    count = int(os.environ.get("TWINSPOOL_DELIVERIES", "1500"))
    work = load.Load(two.server, users, lmtp_connections=8, imap_connections=4,
                     deliveries=count).start()
    start = time.monotonic()
    work.finish(600)
    case.note(f"{count} deliveries and {work.actions - count} changes in "
              f"{time.monotonic() - start:.1f} s")
    two.settle(limit=120)
    work.verify(two.a.spool, two.b.spool)
    two.umount()


case.main()
