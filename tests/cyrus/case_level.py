#!/usr/bin/env python3
"""Durability levels: when a client gets its OK, and what is left when a side dies.

TWINSPOOL_LEVEL_KILLS: how many deaths at each level (tests/long runs more)."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

import contain  # noqa: E402
import faults  # noqa: E402
import hand  # noqa: E402
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


def seq(slot):
    return slot.status()["journal"]["last"]


def deliver(two, user, n, size=3000):
    def do():
        with two.server.lmtp() as c:
            c.deliver(user, mail.message(n, size))
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


# ---- a side dies ----

def destroy(slot):
    """Nothing of it is looked at any more."""
    shutil.rmtree(slot.spool)
    shutil.rmtree(slot.state)


def killed_together(*slots):
    """All their processes stop in one instant and never go on."""
    for slot in slots:
        each_stopped(slot, signal.SIGSTOP)
    for slot in slots:
        slot.kill()


def replayed(slot):
    held = slot.status()["held"]
    return held["pending"] == 0 and held["applied"] == held["received"]


def survivor_has_it(level):
    """The active dies under load, and but for `received` the standby with it. What a client had
    an OK for is on the standby's disk, and for `applied` in its spool, with no help from the
    active: that is destroyed."""
    for n in range(KILLS):
        two = ready(level, folders=["Old"], durability_timeout="60s")
        work = load.Load(two.server, USERS, lmtp_connections=4, imap_connections=2,
                         seed=n + 1).start()
        case.wait_for(lambda: len(work.stored) > 30 + 25 * n, "some deliveries", limit=60)
        # Held still, the standby hears nothing: whoever gets an OK now was lied to.
        each_stopped(two.b, signal.SIGSTOP)
        time.sleep(0.5)
        if level == "received":
            two.a.kill()
            each_stopped(two.b, signal.SIGCONT)
        else:
            killed_together(two.a, two.b)
        two.server.stop(hard=True)
        work.stop()
        destroy(two.a)
        work.errors.clear()
        if level == "flushed":
            two.b.start()
        if level != "applied":
            case.wait_for(lambda: replayed(two.b), "the standby to replay", limit=60)
        work.verify(two.b.spool)
        two.close()


def test_survivor_has_what_was_received():
    survivor_has_it("received")


def test_survivor_has_what_was_flushed():
    survivor_has_it("flushed")


def test_survivor_has_what_was_applied():
    survivor_has_it("applied")


def flushed_and_nothing_more(size):
    """The standby dies right after it has confirmed, with the message in no inbox and no spool,
    and the active is gone: the log alone has it."""
    two = ready("flushed", durability_timeout="60s")
    deliver(two, "u0", 1).join()
    two.wait()
    two.b.umount()
    with faults.armed("recv.confirmed"):
        two.b.start()
    pair.wait_connected(two.a)
    server = two.b.server_pid()
    os.kill(two.b.proc.pid, signal.SIGSTOP)     # no new server
    one = deliver(two, "u0", 2, size)
    one.join(20)
    case.check(one.answered(), "no OK")
    case.wait_for(lambda: open(f"/proc/{server}/stat").read().split()[2] == "Z",
                  "the standby to die")
    case.equal(numbers(two.b, "u0"), {1}, "on the standby before its replay")
    two.a.kill()
    two.server.stop(hard=True)
    destroy(two.a)
    two.b.kill()
    two.b.start()
    case.wait_for(lambda: replayed(two.b), "the standby to replay", limit=60)
    case.equal(numbers(two.b, "u0"), {1, 2}, "on the standby")


def test_flushed_and_nothing_more():
    flushed_and_nothing_more(3000)


def test_flushed_and_nothing_more_of_a_large_one():
    flushed_and_nothing_more(600_000)


def test_server_dies_between_header_and_journal():
    """Cyrus waits in its sync, with the index locked, while there is a new server. That one knows
    of the commit; at the OK it is on the standby, and no other delivery has brought it."""
    two = ready("flushed", durability_timeout="60s")
    two.server.stop()
    two.a.umount()
    with faults.armed("capture.before-journal:2"):
        two.a.start()
    pair.wait_connected(two.a)
    two.server.start()
    deliver(two, "u0", 1).join()
    two.wait()
    one = deliver(two, "u0", 2)
    one.join(30)
    killed_together(two.a, two.b)
    case.check(one.answered(), "no OK")
    case.check("derived after the last server's death" in two.a.log(), "nobody died")
    two.server.stop(hard=True)
    destroy(two.a)
    two.b.start()
    case.wait_for(lambda: replayed(two.b), "the standby to replay", limit=60)
    case.equal(numbers(two.b, "u0"), {1, 2}, "on the standby")


def test_servers_die_while_answers_wait():
    """Server processes of both sides are killed again and again at level flushed. Each request is
    answered once and after its change is safe; no client notices anything else."""
    two = ready("flushed", folders=["Old"], durability_timeout="60s")
    work = load.Load(two.server, USERS, lmtp_connections=4, imap_connections=2).start()
    for n in range(3 * KILLS):
        done = work.actions
        slot = two.slots[n % 2]
        if slot is two.a:
            # Held still, the standby makes everybody wait, and so they do at the death.
            each_stopped(two.b, signal.SIGSTOP)
            case.wait_for(lambda: durability(two.a)["waiting"] > 2, "answers to wait")
            before = len(work.stored)
        old = slot.kill_server()
        case.wait_for(lambda: slot.server_pid() != old, "a new server")
        if slot is two.a:
            case.wait_for(lambda: durability(two.a)["waiting"] > 2,
                          "what waited to wait again")
            time.sleep(0.3)
            case.equal(len(work.stored), before, "OKs without a peer")
            each_stopped(two.b, signal.SIGCONT)
        case.wait_for(lambda: work.actions > done + 5, "the load to go on", limit=60)
    work.stop()
    two.settle()
    work.verify(two.a.spool, two.b.spool)
    two.umount()


def test_a_server_dies_while_one_answer_waits():
    """And nothing else happens: what waited is answered though no row comes behind it. Cyrus would
    bring one, so a hand writes."""
    two = ready("flushed", durability_timeout="60s")
    deliver(two, "u0", 1).join()
    box = two.server.mailbox_dir("user.u0")
    two.server.stop()
    two.a.umount()      # no note of the delivery is left, which the next server would look at
    two.a.start()
    pair.wait_connected(two.a)
    each_stopped(two.b, signal.SIGSTOP)
    case.later(lambda: two.b.proc and each_stopped(two.b, signal.SIGCONT))
    before = seq(two.a)
    with hand.Hand(box) as h:
        h.flag(1, hand.FLAGGED)
        one = Later(h.commit)
        case.wait_for(lambda: durability(two.a)["waiting"] == 1, "the answer to wait")
        case.wait_for(lambda: seq(two.a) == before + 1, "the row")
        old = two.a.kill_server()
        case.wait_for(lambda: two.a.server_pid() != old, "a new server")
        case.wait_for(lambda: durability(two.a)["waiting"] == 1, "what waited to wait again")
        case.check(not one.answered(), "an OK without the peer")
        each_stopped(two.b, signal.SIGCONT)
        one.join(20)
        case.check(one.answered(), "no OK with the peer")
        case.equal(seq(two.a), before + 1, "rows")
    two.settle()
    two.umount()


def test_standby_dies_and_comes_back():
    two = ready("applied", folders=["Old"], durability_timeout="60s")
    work = load.Load(two.server, USERS, lmtp_connections=4, imap_connections=2).start()
    for _ in range(KILLS):
        done = work.actions
        case.wait_for(lambda: work.actions > done + 20, "the load", limit=60)
        two.b.kill()
        case.wait_for(lambda: durability(two.a)["waiting"] > 2, "answers to wait")
        time.sleep(0.3)
        before = len(work.stored)
        time.sleep(0.5)
        case.equal(len(work.stored), before, "OKs without a peer")
        two.b.start()
    done = work.actions
    case.wait_for(lambda: work.actions > done + 20, "the load to go on", limit=60)
    work.stop()
    two.settle()
    work.verify(two.a.spool, two.b.spool)
    case.equal(durability(two.a)["unconfirmed"], 0, "OKs without a peer")


# ---- alone ----

def test_alone_it_continues():
    two = ready("flushed", durability_timeout="1s", when_alone="continue")
    deliver(two, "u0", 1).join()
    two.b.kill()
    start = time.monotonic()
    first = deliver(two, "u0", 2)
    first.join(20)
    case.check(first.answered(), "no OK")
    case.check(0.2 < first.done_at - start < 5, lambda: "OK after "
               f"{first.done_at - start:.2f} s alone, the limit is 1 s")
    # Nobody waits any more.
    for n in range(10, 20):
        start = time.monotonic()
        one = deliver(two, "u1", n)
        one.join(20)
        case.check(one.answered() and one.done_at - start < 1, "an OK that still waits")
    state = durability(two.a)
    case.equal(state["state"], "alone", "state")
    case.check(state["unconfirmed"] >= 11 and state["alone_since"] > 0, str(state))
    text = pair.ok("status", two.a.conf)
    case.check("ALONE" in text, text)
    metrics = pair.ok("status", "--metrics", two.a.conf)
    case.check('twinspool_durability_alone{slot="a"} 1' in metrics, metrics)
    case.check(two.a.log().count("no peer has confirmed") == 1, two.a.log())
    two.b.start()
    case.wait_for(lambda: durability(two.a)["state"] == "waiting", "the peer to be waited for")
    each_stopped(two.b, signal.SIGSTOP)
    again = deliver(two, "u2", 30)
    again.join(0.5)
    case.check(not again.answered(), "an OK without the peer")
    each_stopped(two.b, signal.SIGCONT)
    again.join(20)
    case.check(again.answered(), "no OK with the peer")
    two.settle()
    two.umount()


def refused(two, user, n):
    """What the client hears when it tries to deliver now."""
    with two.server.lmtp() as c:
        return c.send([user], mail.message(n, 2000))[user]


def refusing(**keys):
    """A pair that refuses, with a delivery to u0 that waits."""
    two = ready("flushed", durability_timeout="1s", when_alone="refuse", **keys)
    deliver(two, "u0", 1).join()
    two.b.kill()
    waits = deliver(two, "u0", 2)
    case.wait_for(lambda: two.a.status()["gate"] == "refusing", "the gate to refuse")
    case.equal(durability(two.a)["state"], "refusing", "state")
    return two, waits


def test_alone_it_refuses():
    two, waits = refusing()
    code, why = refused(two, "u1", 3)
    case.check(400 <= code < 500, f"{code} {why}")
    old = two.a.kill_server()
    case.wait_for(lambda: two.a.server_pid() != old, "a new server")
    case.wait_for(lambda: durability(two.a)["waiting"] == 1, "what waited to wait again")
    case.equal(two.a.status()["gate"], "refusing", "gate")
    time.sleep(1.5)
    case.check(not waits.answered(), "an OK without the peer")
    code, why = refused(two, "u1", 4)
    case.check(400 <= code < 500, f"{code} {why}")
    two.b.start()
    waits.join(30)
    case.check(waits.answered(), "no OK with the peer")
    case.wait_for(lambda: two.a.status()["gate"] == "open", "the gate to open")
    deliver(two, "u1", 5).join(20)
    two.settle()
    case.equal(numbers(two.b, "u0"), {1, 2}, "u0's messages")
    two.umount()


def test_alone_it_is_forced():
    two, waits = refusing()
    text = pair.ok("continue", two.a.conf)
    case.check("1 answered" in text, text)
    waits.join(20)
    case.check(waits.answered(), "no OK by force")
    case.equal(durability(two.a)["state"], "forced", "state")
    case.wait_for(lambda: two.a.status()["gate"] == "open", "the gate to open")
    one = deliver(two, "u1", 3)
    one.join(20)
    case.check(one.answered(), "no OK by force")
    two.b.start()
    case.wait_for(lambda: durability(two.a)["state"] == "waiting", "the peer to be waited for")
    two.settle()
    two.umount()


def test_stopped_while_answers_wait():
    """A clean stop does not succeed, says so, and answers nobody; once the waits are ended by
    force the mount can go by force."""
    two, waits = refusing(stop_wait="2s")
    code, text = pair.program("umount", two.a.mnt)
    case.check(code != 0 and "busy" in text, f"{code} {text}")
    case.wait_for(lambda: two.a.status()["gate"] == "refusing", "the gate to refuse again")
    two.a.proc.send_signal(signal.SIGTERM)
    case.wait_for(lambda: "does it all the same" in two.a.log(),
                  "the end of the drain")
    case.check(not waits.answered(), "an OK without the peer")
    case.wait_for(lambda: two.a.status()["gate"] == "refusing", "the gate to refuse again")
    pair.ok("continue", two.a.conf)
    waits.join(20)
    case.check(waits.answered(), "no OK by force")
    two.server.stop()
    code, text = pair.program("umount", "--force", two.a.mnt)
    case.check(code != 0 and "without proof" in text, f"{code} {text}")
    two.a.ended()
    # What was answered is there, and catches up.
    two.b.start()
    two.a.start()
    two.settle()
    case.equal(numbers(two.b, "u0"), {1, 2}, "u0's messages")


case.main()
