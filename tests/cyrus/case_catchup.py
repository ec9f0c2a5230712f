#!/usr/bin/env python3
"""Catch-up: whatever stopped, and however, after the next start both sides are equal again
and nothing that was answered is lost."""
# limit: 600

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import shutil  # noqa: E402
import time  # noqa: E402

import cyrus  # noqa: E402
import hand  # noqa: E402
import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402

USERS = [f"u{n}" for n in range(6)]


def ready(keys=None, **kw):
    two = pair.Pair(keys).start()
    two.cyrus(**kw)
    two.server.add_user(*USERS, folders=["Old"])
    return two


def deliver(two, first, count, size=3000, users=USERS):
    with two.server.lmtp() as c:
        for n in range(first, first + count):
            c.deliver(users[n % len(users)], mail.message(n, size))


def test_clean_stop_of_both():
    two = ready()
    deliver(two, 1, 30)
    two.umount()
    spools.assert_equal(two.a.spool, two.b.spool)
    two.start()
    two.server.start()
    deliver(two, 100, 30)
    two.settle()


def test_standby_stopped_while_the_active_writes():
    two = ready()
    deliver(two, 1, 12)
    two.wait()
    two.b.umount()
    work = load.Load(two.server, USERS, deliveries=150).start()
    work.finish()
    two.b.start()
    two.settle()
    work.verify(two.a.spool, two.b.spool)


def test_standby_killed_under_load():
    two = ready()
    work = load.Load(two.server, USERS).start()
    for _ in range(3):
        time.sleep(0.7)
        two.b.kill()
        time.sleep(0.3)
        two.b.start()
    work.stop()
    two.settle()
    work.verify(two.a.spool, two.b.spool)


def test_active_killed_under_load():
    two = ready()
    for seed in (1, 2, 3):
        work = load.Load(two.server, USERS, seed=seed).start()
        time.sleep(1.0)
        two.a.kill()
        two.server.stop(hard=True)
        work.stop()
        two.a.start()
        two.server.start()
        two.mend()
        two.settle()
        # Clients have seen errors, of course: the mount was dead.
        work.errors.clear()
        work.verify(two.a.spool, two.b.spool)


def test_both_killed_under_load():
    two = ready()
    work = load.Load(two.server, USERS).start()
    time.sleep(1.0)
    two.b.kill()
    time.sleep(0.2)
    two.a.kill()
    two.server.stop(hard=True)
    work.stop()
    two.start()
    two.server.start()
    two.mend()
    two.settle()
    work.errors.clear()
    work.verify(two.a.spool, two.b.spool)


def test_all_killed_between_a_keyword_and_its_index():
    two = ready()
    deliver(two, 1, 6)
    with two.server.imap("u0") as c:
        c.select("INBOX")
        c.store("1", "+FLAGS", "$first")
    two.wait()
    with hand.Hand(two.server.mailbox_dir("user.u0")) as h:
        h.keyword("$new")
        two.a.kill()
    two.server.stop(hard=True)
    two.a.start()
    two.server.start()
    case.equal(two.mend(), 1, "mailboxes to be mended")
    two.settle()


def away_for_long(two, change, before=120):
    """The journal forgets while b is away; change() happens meanwhile. Returns the bytes
    that b then got."""
    deliver(two, 1, before)
    two.wait()
    two.b.umount()
    # More than the journal holds, in mail that is gone again at the end.
    with two.server.imap("u0") as c:
        c.create("INBOX/Bulk")
        for n in range(30):
            c.append("INBOX/Bulk", os.urandom(60).hex().encode() * 1000 + b"\r\n\r\n")
        c.select("INBOX/Bulk")
        c.store("1:*", "+FLAGS", "\\Deleted")
        c.expunge()
    change()
    time.sleep(2.2)
    two.server.run("cyr_expire", "-E", "1", "-X", "0", "-D", "0")
    deliver(two, 900, 6)
    two.b.start()
    two.settle()
    return sum(p["wire"]["got"] for p in two.b.status()["peers"])


SHORT = {"journal_size": "1M", "journal_age": "1s"}


def test_peer_away_for_longer_than_the_journal_keeps():
    two = ready(SHORT)

    def change():
        with two.server.imap("u1") as c:
            c.create("INBOX/New")
            c.rename("INBOX/Old", "INBOX/Renamed")
            c.select()
            c.store("1:4", "+FLAGS", "\\Seen $later")
            c.copy("2:5", "INBOX/New")
            c.move("6", "INBOX/Renamed")
            c.store("3", "+FLAGS", "\\Deleted")
            c.expunge()
            c.annotate("5", "/comment", "while away")
        with two.server.imap("u2") as c:
            c.delete("INBOX/Old")
            c.setacl("INBOX", "friend", "lr")
    away_for_long(two, change)


def test_the_same_in_the_layout_by_name():
    two = ready(SHORT, layout="legacy")

    def change():
        with two.server.imap("u1") as c:
            c.rename("INBOX/Old", "INBOX/Renamed")
            c.append("INBOX/Renamed", mail.message(5000))
        with two.server.imap("u2") as c:
            c.delete("INBOX/Old")
            c.create("INBOX/Old")
    away_for_long(two, change)


def test_only_what_differs_is_sent():
    two = ready(SHORT)
    text = os.urandom(2200).hex().encode()
    with two.server.imap("u5") as c:
        for n in range(400):
            c.append("INBOX", b"Subject: %d\r\n\r\n%s%d\r\n" % (n, text, n))

    def change():
        with two.server.imap("u5") as c:
            c.select()
            c.store("7", "+FLAGS", "\\Flagged")
            c.append("INBOX", mail.message(1, 4000))
    got = away_for_long(two, change)
    # The mailbox with 400 messages has 1.8 MB of text and 45 KB of records.
    case.check(got < 150_000, f"{got} bytes came for a few changes")


def test_empty_new_peer():
    two = pair.Pair()
    two.a.start()
    two.cyrus()
    two.server.add_user(*USERS, folders=["Old"])
    work = load.Load(two.server, USERS, deliveries=200).start()
    work.finish()
    two.b.start()
    two.settle()
    work.verify(two.b.spool)
    # A second one in its place, with an empty disk: only the key is the same.
    two.b.umount()
    shutil.rmtree(two.b.spool)
    os.mkdir(two.b.spool)
    shutil.chown(two.b.spool, "cyrus", "mail")
    for name in os.listdir(two.b.state):
        if name not in ("key.pem", "cert.pem"):
            path = f"{two.b.state}/{name}"
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    deliver(two, 7000, 10)
    two.b.start()
    two.settle()
    work.verify(two.b.spool)


def test_a_spool_that_was_there_before():
    """An existing installation: its spool becomes the backing tree."""
    for layout in ("uuid", "legacy"):
        two = pair.Pair()
        plain = cyrus.Cyrus(f"{two.base}/cyrus", two.a.spool, layout=layout).start()
        plain.add_user(*USERS, folders=["Old"])
        work = load.Load(plain, USERS, deliveries=150).start()
        work.finish()
        plain.stop()
        before = spools.count(two.a.spool)
        two.start()
        two.settle()
        plain.spool = two.a.mnt
        plain.write_conf(**{"partition__default": two.a.mnt})
        two.server = plain
        plain.start()
        deliver(two, 100, 12)
        two.settle()
        case.check(spools.count(two.b.spool)[1] >= before[1] + 12, "mail is missing")
        work.verify(two.a.spool, two.b.spool)
        two.umount()


def move_journal_away(slot):
    """As the log of a damaged one says."""
    os.makedirs(f"{slot.state}/away", exist_ok=True)
    for name in os.listdir(slot.state):
        if name.startswith("journal.db"):
            os.rename(f"{slot.state}/{name}", f"{slot.state}/away/{name}")


def test_the_active_loses_its_journal():
    two = ready()
    deliver(two, 1, 60)
    two.wait()
    two.b.umount()
    with two.server.imap("u1") as c:
        c.create("INBOX/New")
        c.rename("INBOX/Old", "INBOX/Renamed")
        c.select()
        c.store("1:4", "+FLAGS", "\\Seen $later")
        c.copy("2:5", "INBOX/New")
        c.store("3", "+FLAGS", "\\Deleted")
        c.expunge()
    time.sleep(2.2)
    two.server.run("cyr_expire", "-E", "1", "-X", "0", "-D", "0")
    deliver(two, 200, 12)
    two.server.stop()
    two.a.kill()
    move_journal_away(two.a)
    # Killed again wherever it is by then: the adoption ends at some later start.
    for wait in (0, 0.02, 0.05):
        two.a.proc = subprocess.Popen([case.PROGRAM, "mount", "-f", two.a.conf],
                                      stdin=subprocess.DEVNULL, start_new_session=True,
                                      stderr=open(two.a.logfile, "ab"), cwd="/")
        case.wait_for(lambda: os.path.exists(f"{two.a.state}/journal.db"), "a journal", step=0.001)
        time.sleep(wait)
        two.a.kill()
    two.a.start()
    two.server.start()
    two.b.start()
    deliver(two, 300, 6)
    two.settle()
    case.check("spool adopted: mailboxes=" in two.a.log(), two.a.log_tail)
    for slot in two.slots:
        case.equal(slot.status()["quarantined"], 0, f"set aside on {slot.name}")
    case.check(spools.count(two.b.spool)[1] >= 70, "mail is missing")
    two.umount()


def test_the_standby_loses_its_journal():
    two = ready()
    deliver(two, 1, 60)
    two.wait()
    two.b.kill()
    deliver(two, 200, 12)
    move_journal_away(two.b)
    two.b.start()
    two.settle()
    case.check("comparing all mailboxes" in two.b.log(), two.b.log_tail)
    case.equal(two.b.status()["quarantined"], 0, "set aside")
    two.umount()


case.main()
