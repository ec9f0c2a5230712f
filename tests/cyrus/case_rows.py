#!/usr/bin/env python3
"""Each kind of transaction that Cyrus makes, in each layout: after it, both spools are equal
record by record and byte by byte, and both are sound."""
# limit: 600

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import shutil  # noqa: E402
import time  # noqa: E402

import imap  # noqa: E402
import lmtp  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

LAYOUTS = {
    "uuid": {"layout": "uuid"},
    "legacy": {"layout": "legacy", "hashed": True},
    "legacy unhashed": {"layout": "legacy", "hashed": False},
}
ROWS = []
number = iter(range(1, 1_000_000))


def row(function):
    ROWS.append(function)
    return function


class Stage:
    """A pair with a Cyrus, used by row after row; a row that fails costs a new one."""

    def __init__(self, options):
        self.options = options
        self.two = None

    def get(self):
        if self.two is None:
            self.two = pair.Pair().start()
            self.server = self.two.cyrus(config={
                "allowusermoves": "yes", "lmtp_strict_quota": "yes"}, **self.options)
            self.users = 0
        return self

    def user(self, *folders, messages=4):
        """A fresh user with some mail."""
        self.users += 1
        name = f"user{self.users}"
        self.server.add_user(name, folders=folders)
        if messages:
            with self.server.lmtp() as c:
                for _ in range(messages):
                    c.deliver(name, mail.message(next(number)))
        return name

    def restart(self, **changed):
        self.server.stop()
        self.server.write_conf(**changed)
        self.server.start()

    def box(self, name):
        """The mailbox of this internal name as the standby's backing tree has it."""
        path = self.server.mailbox_dir(name, self.two.b.spool)
        return witness.Mailbox(path)

    def drop(self):
        if self.two is not None:
            self.two.close()
        self.two = None


@row
def delivery(s):
    who = s.user(messages=0)
    with s.server.lmtp() as c:
        for n in (300, 4000, 70_000, 1_500_000):
            c.deliver(who, mail.message(next(number), n))
    s.two.settle()
    case.equal(len(s.box(f"user.{who}").live()), 4, "messages on the standby")


@row
def delivery_to_many(s):
    who = [s.user(messages=0) for _ in range(5)]
    with s.server.lmtp() as c:
        c.deliver(who, mail.message(next(number), 20_000))
    s.two.settle()
    groups = [g for g in spools.link_groups(s.two.b.spool) if len(g) == 5]
    case.check(groups, "the five copies share no inode on the standby")


@row
def append(s):
    who = s.user("Sent", messages=1)
    with s.server.imap(who) as c:
        c.append("INBOX/Sent", mail.message(next(number)), "\\Seen \\Flagged important")
        c.append("INBOX", mail.message(next(number), 200_000),
                 when='"01-Feb-2020 10:00:00 +0000"')
    s.two.settle()
    when = s.box(f"user.{who}").index.records[2]["internaldate"]
    case.equal(when, 1580551200, "internal date on the standby")


@row
def copy(s):
    who = s.user("Box")
    with s.server.imap(who) as c:
        c.select()
        c.store("2", "+FLAGS", "\\Answered key1 key2")
        c.copy("1:3", "INBOX/Box")
        c.copy("2", "INBOX")
    s.two.settle()
    mine = [g for g in spools.link_groups(s.two.b.spool) if len(g) >= 2]
    case.check(len(mine) >= 3, "copies are not links on the standby")


@row
def move(s):
    who = s.user("Box")
    with s.server.imap(who) as c:
        c.select()
        c.move("1:3", "INBOX/Box")
        c.select("INBOX/Box")
        c.move("2", "INBOX")
    s.two.settle()
    case.equal(len([r for r in s.box(f"user.{who}.Box").index.records.values()
                    if not r["flags"] & witness.EXPUNGED]), 2, "messages moved")


@row
def flags_and_keywords(s):
    who = s.user(messages=6)
    with s.server.imap(who) as c:
        c.select()
        c.store("1:3", "+FLAGS", "\\Seen \\Flagged")
        c.store("2", "-FLAGS", "\\Seen")
        c.store("4", "FLAGS", "\\Draft \\Answered")
        for n in range(12):
            c.store("1:*", "+FLAGS", f"keyword{n}")
        c.store("1", "-FLAGS", "keyword3 keyword5")
        c.store("5", "+FLAGS", "\\Deleted")
        c.fetch("6", "(BODY[])")
    s.two.settle()
    case.equal(len(s.box(f"user.{who}").header["U"]), 12, "keywords on the standby")


@row
def expunge_delayed(s):
    who = s.user()
    with s.server.imap(who) as c:
        c.select()
        c.store("1:2", "+FLAGS", "\\Deleted")
        c.expunge()
    s.two.settle()
    case.equal([r["uid"] for r in s.box(f"user.{who}").index.records.values()
                if r["flags"] & witness.EXPUNGED], [1, 2], "expunged on the standby")


@row
def cyr_expire(s):
    who = s.user("Old")
    with s.server.imap(who) as c:
        c.select()
        c.copy("1:4", "INBOX/Old")
        c.annotate("2", "/comment", "to go")
        c.store("2:3", "+FLAGS", "\\Deleted")
        c.expunge()
    s.two.wait()
    time.sleep(1.1)     # -X 0 spares what was expunged in this second
    s.server.run("cyr_expire", "-E", "1", "-X", "0")
    s.two.settle()
    box = s.box(f"user.{who}")
    case.equal(sorted(box.index.records), [1, 4], "records left on the standby")
    case.check("2." not in box.names, "the expired message lies on the standby still")


@row
def expunge_immediate(s):
    who = s.user(messages=5)
    s.restart(expunge_mode="immediate")
    try:
        with s.server.imap(who) as c:
            c.select()
            c.store("2,4", "+FLAGS", "\\Deleted")
            c.expunge()
            c.noop()
            c.unselect()
    finally:
        s.restart(expunge_mode="delayed")
    s.two.settle()
    case.check("2." not in s.box(f"user.{who}").names, "the message is still there")


@row
def repack(s):
    who = s.user(messages=6)
    with s.server.imap(who) as c:
        c.select()
        c.store("1:4", "+FLAGS", "\\Deleted")
        c.expunge()
    time.sleep(1.1)
    s.server.run("cyr_expire", "-E", "1", "-X", "0", "-p", f"user/{who}")
    with s.server.imap(who) as c:
        c.append("INBOX", mail.message(next(number)))
        c.select()
        c.store("5", "+FLAGS", "\\Deleted $after")
        c.expunge()
    time.sleep(1.1)
    s.server.run("cyr_expire", "-E", "1", "-X", "0", "-p", f"user/{who}")
    s.two.settle()


@row
def create(s):
    who = s.user("A", "A/B", "A/B/C", "with space", "dots.in.it", messages=0)
    with s.server.imap(who) as c:
        c.append("INBOX/A/B", mail.message(next(number)))
        c.append("INBOX/dots.in.it", mail.message(next(number)))
    s.two.settle()


@row
def rename_a_folder(s):
    who = s.user("A", "A/B")
    with s.server.imap(who) as c:
        c.select()
        c.copy("1:3", "INBOX/A")
        c.copy("2:4", "INBOX/A/B")
        c.rename("INBOX/A", "INBOX/Z")
        c.append("INBOX/Z/B", mail.message(next(number)))
        c.select("INBOX/Z")
        c.store("1", "+FLAGS", "\\Flagged after")
    s.two.settle()


@row
def rename_a_user(s):
    who = s.user("A")
    with s.server.imap(who) as c:
        c.select()
        c.copy("1:3", "INBOX/A")
    with s.server.imap() as c:
        c.rename(f"user/{who}", f"user/{who}new")
    with s.server.lmtp() as c:
        c.deliver(f"{who}new", mail.message(next(number)))
    s.two.settle()


@row
def delete_delayed(s):
    who = s.user("Gone", "Stays")
    with s.server.imap(who) as c:
        c.select()
        c.copy("1:3", "INBOX/Gone")
        c.delete("INBOX/Gone")
        c.create("INBOX/Gone")
        c.append("INBOX/Gone", mail.message(next(number)))
    s.two.settle()


@row
def delete_then_expire(s):
    who = s.user("Gone")
    with s.server.imap(who) as c:
        c.select()
        c.copy("1:3", "INBOX/Gone")
        c.delete("INBOX/Gone")
    time.sleep(1.1)
    s.server.run("cyr_expire", "-E", "1", "-D", "0")
    s.two.settle()


@row
def delete_immediate(s):
    who = s.user("Gone", "Gone/Sub")
    s.restart(delete_mode="immediate")
    try:
        with s.server.imap(who) as c:
            c.select()
            c.copy("1:4", "INBOX/Gone")
            c.copy("1:2", "INBOX/Gone/Sub")
            c.delete("INBOX/Gone/Sub")
            c.delete("INBOX/Gone")
        with s.server.imap() as c:
            c.setacl(f"user/{who}", "cyrus", "lrswipkxtecda")
            c.delete(f"user/{who}")
    finally:
        s.restart(delete_mode="delayed")
    s.two.settle()


@row
def acl_change(s):
    who = s.user("Shared")
    with s.server.imap(who) as c:
        c.setacl("INBOX/Shared", "friend", "lrs")
        c.setacl("INBOX/Shared", "anyone", "p")
        c.deleteacl("INBOX/Shared", "friend")
    s.two.settle()


@row
def quota_root(s):
    who = s.user("A")
    with s.server.imap() as c:
        c.setquota(f"user/{who}", 10_000)
    with s.server.lmtp() as c:
        c.deliver(who, mail.message(next(number)))
    s.two.settle()
    case.check(s.box(f"user.{who}").header.get("Q"), "no quota root on the standby")


@row
def message_annotation(s):
    who = s.user()
    with s.server.imap(who) as c:
        c.select()
        c.annotate("1:3", "/comment", "first")
        c.annotate("2", "/comment", "second " + "x" * 3000)
        c.annotate("3", "/comment", None)
        c.annotate("4", "/altsubject", "mine", "value.priv")
        # Enough of them that the database checkpoints.
        for n in range(60):
            c.annotate("1", "/comment", f"again {n} " + "y" * 500)
    s.two.settle()
    case.check(len(s.box(f"user.{who}").annotations) == 4, "annotations on the standby")


@row
def mailbox_annotation(s):
    who = s.user()
    with s.server.imap(who) as c:
        c.setmetadata("INBOX", "/private/comment", "private words")
        c.setmetadata("INBOX", "/shared/comment", "shared words")
    s.two.settle()


@row
def reconstruct(s):
    who = s.user(messages=5)
    s.two.wait()
    path = s.server.mailbox_dir(f"user.{who}")
    # A message that only lies there, one that vanished, one that was changed.
    with open(f"{path}/9.", "wb") as f:
        f.write(mail.message(next(number)))
    like = os.stat(f"{path}/1.")
    os.chown(f"{path}/9.", like.st_uid, like.st_gid)
    # Another mode than Cyrus gives its own: it travels with the message.
    os.chmod(f"{path}/9.", 0o644)
    os.unlink(f"{path}/2.")
    s.server.run("reconstruct", "-G", f"user/{who}")
    with s.server.imap(who) as c:
        case.equal(c.select(), 5, "messages after reconstruct")
    s.two.settle()


@row
def reconstruct_another_version(s):
    who = s.user()
    for version in ("16", "13", "max"):
        s.server.run("reconstruct", "-V", version, f"user/{who}")
        with s.server.lmtp() as c:
            c.deliver(who, mail.message(next(number)))
        s.two.settle()


@row
def header_only_commits(s):
    who = s.user(messages=3)
    for _ in range(3):
        with s.server.imap(who) as c:
            c.select()
    s.two.settle()
    case.equal(s.box(f"user.{who}").index.header["recentuid"], 3, "recent on the standby")


@row
def failed_appends(s):
    who = s.user(messages=2)
    with s.server.imap() as c:
        c.setquota(f"user/{who}", 20)
    with s.server.lmtp() as c:
        answer = c.send([who], mail.message(next(number), 100_000))
        case.check(answer[who][0] >= 400, f"over quota: {answer}")
        c.deliver(who, mail.message(next(number), 1000))
    with s.server.imap(who) as c:
        try:
            c.append("INBOX", mail.message(next(number), 100_000))
            raise case.Failed("APPEND over quota was accepted")
        except imap.Error:
            pass
        try:
            c.append("INBOX", b"no header\0 but a NUL\r\n\r\nx\r\n")
            raise case.Failed("APPEND with a NUL was accepted")
        except imap.Error:
            pass
    # The client goes away in the middle of its message.
    c = lmtp.Lmtp(s.server.lmtp_port)
    c._say("MAIL FROM:<>", 250)
    c._say(f"RCPT TO:<{who}>", 250)
    c._say("DATA", 354)
    c.s.sendall(b"Subject: cut\r\n\r\nhalf of")
    c.close(True)
    with s.server.lmtp() as c:
        c.deliver(who, mail.message(next(number), 1000))
    s.two.settle()
    case.equal(len(s.box(f"user.{who}").live()), 4, "messages on the standby")


@row
def unexpunge(s):
    who = s.user()
    with s.server.imap(who) as c:
        c.select()
        c.store("1:2", "+FLAGS", "\\Deleted")
        c.expunge()
    s.server.run("unexpunge", "-a", "-d", f"user/{who}")
    s.two.settle()
    with s.server.imap(who) as c:
        case.equal(c.select(), 4, "messages after unexpunge")


@row
def files_that_are_no_mail(s):
    who = s.user()
    path = s.server.mailbox_dir(f"user.{who}")
    uid, gid = os.stat(path).st_uid, os.stat(path).st_gid

    def put(name, data):
        with open(f"{path}/{name}", "wb") as f:
            f.write(data)
        os.chown(f"{path}/{name}", uid, gid)

    put("notes.txt", b"first")
    put("cyrus.squat", os.urandom(50_000))
    put("big", os.urandom(3_000_000))
    os.mkdir(f"{s.two.a.mnt}/shared")
    with open(f"{s.two.a.mnt}/shared/x", "w") as f:
        f.write("x")
    os.symlink("notes.txt", f"{path}/link")
    s.two.settle()
    os.makedirs(f"{path}/folder.NEW/below")
    for name in ("cyrus.squat.NEW", "7.NEW", "folder.NEW/below/x"):
        put(name, b"a rewrite in flight")
    s.two.wait()
    case.equal(spools.local_things(s.two.b.spool), [], "on the standby")
    os.unlink(f"{path}/7.NEW")
    os.rename(f"{path}/cyrus.squat.NEW", f"{path}/cyrus.squat")
    shutil.rmtree(f"{path}/folder.NEW")
    put("notes.txt.tmp", b"second")
    os.rename(f"{path}/notes.txt.tmp", f"{path}/notes.txt")
    os.chmod(f"{path}/big", 0o600)
    os.unlink(f"{path}/cyrus.squat")
    os.unlink(f"{path}/link")
    os.unlink(f"{s.two.a.mnt}/shared/x")
    os.rmdir(f"{s.two.a.mnt}/shared")
    s.two.settle()


@row
def the_standby_keeps_up_with_a_mix(s):
    import load
    users = [s.user("Old") for _ in range(6)]
    work = load.Load(s.server, users, deliveries=200).start()
    work.finish(90)
    s.two.settle()
    work.verify(s.two.a.spool, s.two.b.spool)


def tests():
    for layout, options in LAYOUTS.items():
        stage = Stage(options)
        for function in ROWS:
            def one(function=function, stage=stage):
                try:
                    function(stage.get())
                    case.equal(spools.local_things(stage.two.b.spool), [], "on the standby")
                except BaseException:
                    if stage.two is not None:
                        stage.two.tell()
                    stage.drop()
                    raise
            yield f"{layout}: {function.__name__}", one

        def end(stage=stage):
            if stage.two is not None:
                stage.two.umount()
                spools.assert_equal(stage.two.a.spool, stage.two.b.spool)
                stage.drop()
        yield f"{layout}: clean stop", end


# The stage outlives one test, so what it registers is undone by its own end.
case.main(list(tests()), shared=True)
