#!/usr/bin/env python3
"""`twinspool fsck` on the spool of a real Cyrus: after all that Cyrus can do to a mailbox it
finds nothing, in each layout and index version, nor against Cyrus's own databases; damage is
found and named."""
# limit: 240

import fcntl
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402

import cyrus  # noqa: E402
import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402

LAYOUTS = ({"layout": "uuid"}, {"layout": "legacy"}, {"layout": "legacy", "hashed": False},
           {"layout": "legacy", "config": {"fulldirhash": "yes"}})


def clean(server, when):
    code, text = pair.program("fsck", "--imapd-conf", server.conf, server.spool)
    case.check(code == 0 and text.endswith(" 0 findings\n"), f"{when}: exit {code}\n{text}")


def work(server):
    """Every kind of change once, on two mailboxes; fsck after each."""
    def step(name):
        clean(server, name)
    step("empty")
    server.add_user("ann", "b.ob", folders=["Old"])
    with server.imap() as admin:
        admin.setquota("user/ann", 10000)
        admin.create("shared/box")
    step("create")
    with server.lmtp() as c:
        for n in range(12):
            c.deliver(["ann", "b.ob"], mail.message(n))
    step("delivery")
    with server.imap("ann") as c, server.imap("b.ob") as other:
        for n in range(4):
            c.append("INBOX", mail.message(100 + n))
        c.select("INBOX")
        c.store("1:3", "+FLAGS", r"\Seen \Flagged $Junk Later")
        c.store("2", "-FLAGS", r"\Flagged Later")
        c.annotate("1:2", "/comment", "seen by all")
        c.annotate("2:3", "/comment", "mine", "value.priv")
        c.annotate("3", "/altsubject", "another", "value.priv")
        step("flags and annotations")
        c.copy("1:5", "INBOX/Old")
        c.move("4:5", "INBOX/Old")
        step("copy and move")
        c.store("6:8", "+FLAGS", r"\Deleted")
        c.expunge()
        step("expunge")
        c.create("INBOX/Sub")
        c.rename("INBOX/Sub", "INBOX/Sup")
        c.setacl("INBOX/Sup", "b.ob", "lrs")
        c.setmetadata("INBOX/Sup", "/private/comment", "a box")
        c.delete("INBOX/Sup")
        other.select("INBOX")
        other.store("1", "+FLAGS", r"\Answered")
        other.annotate("1", "/comment", "of b.ob", "value.priv")
        step("mailboxes")
    server.run("cyr_expire", "-E", "1", "-X", "0", "-D", "0")
    step("cyr_expire")
    server.run("reconstruct", "-r", "user/ann")
    step("reconstruct")
    for version in ("16", "15", "14", "13", "12", "17"):
        server.run("reconstruct", "-r", "-V", version, "user/ann")
        # 12 forgets the bytes of annotations, and the way up counts them once more.
        if version == "17":
            server.run("quota", "-f")
        step(f"index version {version}")


def test_healthy_spools():
    for options in LAYOUTS:
        base = case.folder()
        server = cyrus.Cyrus(base + "/cyrus", base + "/spool", **options).start()
        work(server)
        server.stop()


def test_after_a_load():
    base = case.folder()
    server = cyrus.Cyrus(base + "/cyrus", base + "/spool",
                         expunge_mode="immediate").start()
    users = [f"u{n}" for n in range(4)]
    server.add_user(*users, folders=["Old"])
    busy = load.Load(server, users, deliveries=150).start()
    busy.finish()
    server.stop()
    clean(server, "load")


def test_answers():
    base = case.folder()
    server = cyrus.Cyrus(base + "/cyrus", base + "/spool").start()
    server.add_user("ann")
    with server.lmtp() as c:
        c.deliver(["ann"], mail.message(1))
    box = server.mailbox_dir("user.ann")
    server.stop()
    then = os.stat(box + "/1.").st_mtime
    os.truncate(box + "/1.", 10)
    os.utime(box + "/1.", (then, then))
    name = os.path.relpath(box, server.spool)
    code, text = pair.program("fsck", server.spool)
    case.equal(code, 1, "exit code")
    case.check(f"{name}: UID 1: message-size (M): " in text and "cure: " in text, text)
    case.check(text.splitlines()[-1].endswith(
        " 1 findings; not compared with Cyrus's databases (--imapd-conf)"), text)
    code, text = pair.program("fsck", "--no-bodies", box)
    case.equal(code, 1, "exit code for one mailbox")
    code, text = pair.program("fsck", "--json", server.spool)
    found = json.loads(text)
    case.equal((code, [f["kind"] for f in found]), (1, ["finding", "summary"]), "json")
    case.equal((found[0]["mailbox"], found[0]["uid"], found[0]["check"], found[0]["class"]),
               (name, 1, "message-size", "M"), "finding")
    code, _ = pair.program("fsck", base + "/none")
    case.equal(code, 2, "exit code for a folder that is not there")
    code, text = pair.program("dump", "--json", box + "/cyrus.index")
    case.equal([(f["kind"], f.get("uid")) for f in json.loads(text)],
               [("index", None), ("record", 1)], "dump")


def test_damage_among_the_databases():
    base = case.folder()
    server = cyrus.Cyrus(base + "/cyrus", base + "/spool").start()
    server.add_user("ann", folders=["Old", "New"])
    with server.imap() as admin:
        admin.setquota("user/ann", 1000)
        admin.setmetadata("user/ann", "/shared/comment", "a box")
    with server.lmtp() as c:
        c.deliver(["ann"], mail.message(1))
    clean(server, "before")
    old = server.mailbox_dir("user.ann.Old")
    gone = os.path.relpath(old, server.spool)
    server.stop()

    def found(want):
        code, text = pair.program("fsck", "--imapd-conf", server.conf, server.spool)
        names = [line.split(" (")[0] for line in text.splitlines()[:-1]]
        case.equal((code, names), (1, want), text)
    os.rename(old, base + "/away")
    found([f"{gone}: mailbox-missing"])
    os.rename(base + "/away", f"{server.spool}/else")
    found(["else: mailbox-path"])
    os.rename(f"{server.spool}/else", old)
    quota = f"{server.dir}/conf/quota/a/user.ann"
    with open(quota) as f:
        line = f.read()
    with open(quota, "w") as f:
        f.write(line.replace("M (1)", "M (3)"))
    found(["user.ann: quota-usage"])
    server.run("quota", "-f")
    clean(server, "quota -f")
    os.rename(f"{server.dir}/conf/annotations.db", base + "/annotations.db")
    found([f"{os.path.relpath(server.mailbox_dir('user.ann'), server.spool)}: mailbox-annot"])
    os.rename(base + "/annotations.db", f"{server.dir}/conf/annotations.db")
    # A writer is waited for, as Cyrus's own readers do.
    with open(f"{server.dir}/conf/mailboxes.db", "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.lockf, (f, fcntl.LOCK_UN)).start()
        began = time.monotonic()
        clean(server, "a writer")
        case.check(time.monotonic() - began > 0.3, "did not wait for the lock")
    # Of a transaction that a crash cut.
    with open(f"{server.dir}/conf/mailboxes.db", "ab") as f:
        f.write(b"torn.away")
    code, text = pair.program("fsck", "--imapd-conf", server.conf, server.spool)
    case.check(code == 2 and "mailboxes.db: a transaction is not finished" in text, text)
    server.start()
    server.stop()
    clean(server, "ctl_cyrusdb -r")
    code, text = pair.program("fsck", "--imapd-conf", server.conf, server.spool + "/uuid")
    case.check(code == 2 and "no partition of it is" in text, text)
    server.write_conf(mboxlist_db="skiplist")
    code, text = pair.program("fsck", "--imapd-conf", server.conf, server.spool)
    case.check(code == 2 and "mboxlist_db: skiplist: only twoskip is read" in text, text)


def cut_in_a_commit(server, user, change):
    """What is there when Cyrus is killed just before the index header of that change, and
    reconstruct has run."""
    path = server.mailbox_dir(f"user.{user}") + "/cyrus.index"
    with open(path, "rb") as f:
        before = f.read(160)
    with server.imap(user) as c:
        c.select("INBOX")
        change(c)
    server.stop()
    with open(path, "r+b") as f:
        f.write(before)
    server.start()
    server.run("reconstruct", f"user/{user}")
    return pair.program("fsck", server.spool)


def test_what_a_killed_expunge_leaves():
    """Records expunged, the header not written. reconstruct counts again, but leaves
    first_expunged alone: the finding stays, and its cure must be a true one."""
    base = case.folder()
    server = cyrus.Cyrus(base + "/cyrus", base + "/spool").start()
    server.add_user("ann")
    with server.lmtp() as c:
        for n in range(3):
            c.deliver(["ann"], mail.message(n))

    def change(c):
        c.store("1", "+FLAGS", r"\Deleted")
        c.expunge()
    code, text = cut_in_a_commit(server, "ann", change)
    case.equal((code, text.count("cure: ")), (1, 1), text)
    case.check("first-expunged (S): " in text and "cyr_expire -X" in text, text)
    server.run("cyr_expire", "-E", "1", "-X", "0")
    clean(server, "cyr_expire")
    server.stop()


def test_what_a_killed_keyword_leaves():
    """cyrus.header is new, the index does not know; nor does reconstruct care."""
    base = case.folder()
    server = cyrus.Cyrus(base + "/cyrus", base + "/spool").start()
    server.add_user("ann")
    with server.lmtp() as c:
        c.deliver(["ann"], mail.message(1))
    code, text = cut_in_a_commit(server, "ann", lambda c: c.store("1", "+FLAGS", "$new"))
    case.equal((code, text.count("cure: ")), (1, 1), text)
    case.check("header-file-crc (S): " in text and "setacl" in text, text)
    with server.imap() as c:
        c.setacl("user/ann", "anyone", "l")
        c.deleteacl("user/ann", "anyone")
    clean(server, "setacl")
    server.stop()


def test_beside_a_live_mount_it_changes_nothing():
    two = pair.Pair().start()
    server = two.cyrus()
    server.add_user("u")
    with server.lmtp() as c:
        for n in range(5):
            c.deliver(["u"], mail.message(n))
    two.wait()
    # As replay has them while it writes.
    writing = [f"{slot.spool}/.twinspool/staging/tmp-77" for slot in two.slots]
    for path in writing:
        open(path, "w").close()
    for slot in two.slots:
        pair.ok("fsck", slot.spool)
        pair.ok("dump", f"{slot.state}/journal.db")
        # A second mount of the same slot is refused before it touches anything.
        with open(slot.conf) as f, open(f"{slot.base}/second.conf", "w") as out:
            out.write(f.read().replace(f"mountpoint: {slot.mnt}",
                                       f"mountpoint: {slot.base}/second"))
        os.makedirs(f"{slot.base}/second")
        code, text = pair.program("mount", "-f", f"{slot.base}/second.conf")
        case.check(code != 0 and "in use" in text, f"a second mount: {code} {text}")
    for path in writing:
        case.check(os.path.exists(path), f"{path} was swept")
    # The partition in imapd.conf is the mount, whose spool this is.
    case.check(pair.ok("fsck", "--imapd-conf", server.conf, two.a.spool)
               .endswith(" 0 findings\n"), "nothing compared beside a mount")
    two.settle()


case.main()
