#!/usr/bin/env python3
"""A line of 100 ms there and back and 100 Mbit/s between the two nodes: it is kept full, and
nothing waits for an answer that need not.

TWINSPOOL_LONGLINE_MB (60) is how much travels each time.
"""
# limit: 600
# alone: how full a line is

import base64
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import cyrus  # noqa: E402
import longline  # noqa: E402
import pair  # noqa: E402

MEGABYTES = int(os.environ.get("TWINSPOOL_LONGLINE_MB", "60"))
SIZE = 60_000
RTT = 0.1


def message(n):
    """What a line cannot be spared by deflating: base64 gives back a quarter."""
    text = base64.encodebytes(os.urandom(SIZE * 3 // 4)).replace(b"\n", b"\r\n")
    return f"From: <a@example.org>\r\nSubject: message {n}\r\n\r\n".encode() + text


def watch(line, done):
    """(time, bytes through) from now until done() is true."""
    seen = [(time.monotonic(), line.count().sent)]
    while not done():
        time.sleep(0.1)
        seen.append((time.monotonic(), line.count().sent))
    return seen


def share(line, seen):
    """How full the line was between the first and the last tenth of what went through."""
    low, high = seen[0][1], seen[-1][1]
    middle = [s for s in seen if low + (high - low) * 0.1 <= s[1] <= low + (high - low) * 0.9]
    (t0, n0), (t1, n1) = middle[0], middle[-1]
    return (n1 - n0) / (t1 - t0) / line.bytes_per_second


def made(base, spool, boxes, megabytes=MEGABYTES):
    """Mailboxes with messages, made by Cyrus without us."""
    plain = cyrus.Cyrus(f"{base}/cyrus", spool).start()
    users = [f"u{n}" for n in range(boxes)]
    plain.add_user(*users)
    each = megabytes * 1_000_000 // SIZE // boxes
    for user in users:
        path = plain.mailbox_dir(f"user.{user}")
        owner = os.stat(path)
        for uid in range(1, each + 1):
            with open(f"{path}/{uid}.", "wb") as f:
                f.write(message(uid))
            os.chown(f.name, owner.st_uid, owner.st_gid)
            os.chmod(f.name, 0o600)
    plain.stop()
    for user in users:
        plain.run("reconstruct", f"user/{user}", limit=300)
    return each * boxes


def in_background(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def growth(slot):
    """Bytes that the server process holds beyond what it did at the last call."""
    with open(f"/proc/{slot.server_pid()}/status") as f:
        peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM:")) * 1024
    before, slot.peak = getattr(slot, "peak", 0), peak
    return peak - before


def judged(two, line, what):
    """Until b has everything: the line is full and memory is not."""
    for slot in two.slots:
        growth(slot)
    work = in_background(lambda: two.a.wait(300))
    seen = watch(line, lambda: not work.is_alive())
    work.join()
    full = share(line, seen)
    grown = [growth(slot) for slot in two.slots]
    case.note(f"{what}: {(seen[-1][1] - seen[0][1]) / 1e6:.0f} MB in "
              f"{seen[-1][0] - seen[0][0]:.1f} s, line {full * 100:.0f} % full, {line.count()}; "
              f"memory grew by {grown[0] / 1e6:.0f} and {grown[1] / 1e6:.0f} MB")
    case.check(full >= 0.8, f"{what}: the line is {full * 100:.0f} % full")
    # 2 MB queued and as much deflated here, 32 MB of bodies that wait for replay there.
    case.check(grown[0] < 24e6 and grown[1] < 64e6, f"{what}: memory grew by {grown}")


def test_a_first_synchronisation_and_a_backlog_fill_the_line():
    line = longline.Line(RTT * 1000 // 2, 100)
    two = pair.Pair(line=line)
    made(two.base, two.a.spool, 8)
    two.a.start(limit=120)
    two.b.start()
    judged(two, line, "first synchronisation")
    two.b.umount()
    two.cyrus()

    def deliver(user):
        with two.server.lmtp() as c:
            for n in range(MEGABYTES * 1_000_000 // SIZE // 4):
                c.deliver(user, message(n))
    threads = [in_background(lambda n=n: deliver(f"u{n}")) for n in range(4)]
    for thread in threads:
        thread.join()
    two.b.start()
    judged(two, line, "backlog")
    two.settle(limit=120)
    two.umount()


def test_a_lost_connection_sends_nothing_twice():
    """What was asked for before and has not come yet is asked for once."""
    line = longline.Line(RTT * 1000 // 2, 100)
    two = pair.Pair(line=line)
    made(two.base, two.a.spool, 24)
    two.a.start(limit=120)
    two.b.start()
    whole = MEGABYTES * 1_000_000
    case.wait_for(lambda: line.count().sent > whole * 0.15, "a part of it", 60)
    two.a.kill_server()
    case.wait_for(lambda: line.count().sent > whole * 0.4, "more of it", 60)
    two.wait(300)
    sent = line.count().sent
    case.note(f"{sent / whole:.2f} times what there is")
    case.check(sent < 1.5 * whole, f"{sent / whole:.2f} times what there is was sent")
    two.settle()
    two.umount()


def test_what_is_new_does_not_wait_for_a_first_synchronisation():
    """Under a rate of 1 MB a second, which is kept."""
    two = pair.Pair()
    two.a.configure(rate="1M")
    made(two.base, two.a.spool, 8, megabytes=12)
    two.a.start(limit=120)
    two.cyrus()
    two.b.start()
    case.wait_for(lambda: two.a.peer("b")["wire"]["sent"] > 2_000_000, "a part of it", 60)
    began, sent = time.monotonic(), two.a.peer("b")["wire"]["sent"]
    two.server.add_user("late")
    with two.server.lmtp() as c:
        c.deliver("late", b"Subject: new\r\n\r\nhello\r\n")
    ok = time.monotonic()
    new = f"{two.server.mailbox_dir('user.late', two.b.spool)}/1."
    case.wait_for(lambda: os.path.exists(new), "the new message", 30)
    spent = time.monotonic() - ok
    peer = two.a.peer("b")
    case.note(f"there after {spent:.2f} s, while the rest is {peer['state']}: {peer['catchup']}")
    case.equal(peer["state"], "comparing", "the first synchronisation")
    case.check(spent < 2.5, f"{spent:.2f} s")
    two.wait(60)
    rate = (two.a.peer("b")["wire"]["sent"] - sent) / (time.monotonic() - began)
    case.note(f"{rate / (1 << 20):.2f} MB a second")
    case.check(rate < 1.15 * (1 << 20), f"{rate:.0f} bytes a second")
    two.settle()
    two.umount()


def test_small_changes_do_not_wait_for_each_other():
    """500 transactions of which each would take a round trip, were it waited for: 50 s."""
    line = longline.Line(RTT * 1000 // 2, 100)
    two = pair.Pair(line=line).start()
    pair.wait_connected(two.a)
    two.cyrus().add_user("alice")
    with two.server.lmtp() as c:
        for n in range(250):
            c.deliver("alice", b"Subject: %d\r\n\r\nhello\r\n" % n)
    two.wait()
    with two.server.imap("alice") as c:
        c.select()
        before = two.a.status()["journal"]["last"]
        start = time.monotonic()
        for sign in "+-":
            for n in range(1, 251):
                c.store(str(n), sign + "FLAGS", "\\Seen")
        changed = time.monotonic()
        two.a.wait(60)
        there = time.monotonic()
    rows = two.a.status()["journal"]["last"] - before
    case.note(f"{rows} changes in {changed - start:.2f} s, {there - changed:.2f} s later they are "
              "applied over there, and it is known here")
    case.check(rows >= 500, f"only {rows} transactions")
    case.check(there - changed < 10 * RTT, f"{there - changed:.2f} s behind")
    two.settle()
    two.umount()


case.main()
