#!/usr/bin/env python3
"""No false alarm: while clients are at work and the administrator's tools run over the same
mailboxes, neither side calls anything damaged."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import random  # noqa: E402
import re  # noqa: E402
import threading  # noqa: E402

import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402

USERS = [f"u{n}" for n in range(5)]
DELIVERIES = int(os.environ.get("TWINSPOOL_DELIVERIES", "250"))

# What has nothing to do with what is in a mailbox.
HARMLESS = re.compile(r"hub: cannot reach|session: ended")


def alarms(slot):
    return [line for line in slot.log().splitlines()
            if re.search(r"\b(warning|error): ", line) and not HARMLESS.search(line)]


class Upkeep(threading.Thread):
    """Everything that an administrator or a cron job does, over and over, one by one."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.rounds, self.error = server, 0, None
        self.stopping = threading.Event()

    def run(self):
        rng = random.Random(1)
        work = [self.expire, self.reconstruct, self.acl, self.comments, self.rename,
                self.folders]
        try:
            while not self.stopping.is_set():
                for one in rng.sample(work, len(work)):
                    one(rng.choice(USERS))
                self.rounds += 1
        except Exception as why:
            self.error = f"{type(why).__name__}: {why}"

    def expire(self, _):
        self.server.run("cyr_expire", "-E", "1", "-X", "0", "-D", "0")

    def reconstruct(self, user):
        self.server.run("reconstruct", "-r", f"user/{user}")

    def acl(self, user):
        with self.server.imap(user) as c:
            c.setacl("INBOX", "friend", "lrs")
            c.deleteacl("INBOX", "friend")

    def comments(self, user):
        with self.server.imap(user) as c:
            c.setmetadata("INBOX", "/private/comment", f"round {self.rounds}")
            c.select("INBOX/Shelf")
            c.annotate("1:*", "/comment", f"round {self.rounds} " + "x" * 400)

    def rename(self, user):
        with self.server.imap(user) as c:
            c.rename("INBOX/Shelf", "INBOX/Other")
            c.append("INBOX/Other", mail.message(self.rounds))
            c.rename("INBOX/Other", "INBOX/Shelf")

    def folders(self, user):
        with self.server.imap(user) as c:
            c.create("INBOX/Short")
            c.append("INBOX/Short", mail.message(self.rounds), "\\Seen short$lived")
            c.delete("INBOX/Short")


def quiet_upkeep(layout):
    two = pair.Pair().start()
    server = two.cyrus(layout=layout)
    server.add_user(*USERS, folders=["Old", "Shelf"])
    for user in USERS:
        with server.imap(user) as c:
            for n in range(3):
                c.append("INBOX/Shelf", mail.message(n))
    work = load.Load(server, USERS, deliveries=DELIVERIES).start()
    upkeep = Upkeep(server)
    upkeep.start()
    work.finish(200)
    upkeep.stopping.set()
    upkeep.join(60)
    case.equal(upkeep.error, None, "upkeep")
    case.note(f"{upkeep.rounds} rounds of upkeep")
    two.settle()
    work.verify(two.a.spool, two.b.spool)
    for slot in two.slots:
        case.check(not alarms(slot), lambda: f"{slot.name} said\n" + "\n".join(alarms(slot)))
    two.umount()


def test_layout_by_id():
    quiet_upkeep("uuid")


def test_layout_by_name():
    quiet_upkeep("legacy")


case.main()
