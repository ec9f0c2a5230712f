#!/usr/bin/env python3
"""Durability levels: when a client gets its OK, and what is left when a side dies.

TWINSPOOL_LEVEL_KILLS: how many deaths at each level (tests/long runs more)."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

import contain  # noqa: E402
import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402

USERS = [f"u{n}" for n in range(8)]
KILLS = int(os.environ.get("TWINSPOOL_LEVEL_KILLS", "2"))


def ready(level, users=USERS, folders=(), **keys):
    two = pair.Pair(keys={"durability": level, **keys}).start()
    two.cyrus()
    two.server.add_user(*users, folders=folders)
    return two


def durability(slot):
    return slot.status()["durability"]


class Later(threading.Thread):
    """Something that a client does, which may have to wait."""

    def __init__(self, do):
        super().__init__(daemon=True)
        self.do, self.error, self.done_at = do, None, None
        self.start()

    def run(self):
        try:
            self.do()
            self.done_at = time.monotonic()
        except Exception as why:
            self.error = why

    def answered(self):
        if self.error:
            raise self.error
        return self.done_at is not None


def deliver(two, user, n):
    def do():
        with two.server.lmtp() as c:
            c.deliver(user, mail.message(n, 3000))
    return Later(do)


def each_stopped(slot, number):
    for pid in [slot.proc.pid] + contain.descendants(slot.proc.pid):
        os.kill(pid, number)


def numbers(slot, user):
    return load.contents(slot.spool).get(user, set())


def answers_wait_at(level):
    """With the standby held still there is no OK; when it goes on, there is."""
    two = ready(level, users=USERS + ["idle"], durability_timeout="60s")
    deliver(two, "u0", 1).join()
    each_stopped(two.b, signal.SIGSTOP)
    case.later(lambda: two.b.proc and each_stopped(two.b, signal.SIGCONT))
    sent = [deliver(two, user, 100 + n) for n, user in enumerate(USERS)]
    case.wait_for(lambda: durability(two.a)["waiting"] == len(USERS), "all to wait")
    case.check(not any(one.answered() for one in sent), "an OK without the peer")
    # Whoever only reads is not held up.
    with two.server.imap("idle") as c:
        c.select(readonly=True)
    each_stopped(two.b, signal.SIGCONT)
    for one in sent:
        one.join(30)
        case.check(one.answered(), "no OK with the peer")
    state = durability(two.a)
    case.equal((state["waiting"], state["state"], state["unconfirmed"]),
               (0, "waiting", 0), "durability")
    two.settle()
    two.umount()


def test_answers_wait_received():
    answers_wait_at("received")


def test_answers_wait_flushed():
    answers_wait_at("flushed")


def test_answers_wait_applied():
    answers_wait_at("applied")


def test_kinds_differ():
    two = ready("flushed, flags=local", durability_timeout="60s")
    with two.server.imap("u0") as c:
        deliver(two, "u0", 1).join()
        c.select()
        each_stopped(two.b, signal.SIGSTOP)
        case.later(lambda: two.b.proc and each_stopped(two.b, signal.SIGCONT))
        c.store("1", "+FLAGS", "\\Seen $new")
        late = deliver(two, "u1", 2)
        case.wait_for(lambda: durability(two.a)["waiting"] == 1, "the delivery to wait")
        each_stopped(two.b, signal.SIGCONT)
        late.join(30)
        case.check(late.answered(), "no OK with the peer")
    two.settle()


def test_more_wait_than_there_are_slots():
    """Sixty writers wait; the mount still answers everybody else, and all get their OK."""
    users = [f"w{n}" for n in range(60)]
    two = ready("received", users=users, durability_timeout="120s")
    each_stopped(two.b, signal.SIGSTOP)
    case.later(lambda: two.b.proc and each_stopped(two.b, signal.SIGCONT))
    sent = [deliver(two, user, n) for n, user in enumerate(users)]
    case.wait_for(lambda: durability(two.a)["waiting"] == len(users), "all to wait",
                  limit=60)
    case.check(len(os.listdir(two.a.mnt)) > 0, "the mount does not answer")
    each_stopped(two.b, signal.SIGCONT)
    for one in sent:
        one.join(60)
        case.check(one.answered(), "no OK with the peer")
    two.settle()
    two.umount()


case.main()
