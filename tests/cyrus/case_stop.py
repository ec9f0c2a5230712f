#!/usr/bin/env python3
"""The clean stop with a peer: it proves, or says what the peer lacks and stays."""
# limit: 240

import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402


class Two:
    """A pair with a Cyrus, one user, and a count of what was delivered."""

    def __init__(self, **keys):
        self.pair = pair.Pair(keys={"stop_wait": "3s", **keys}).start()
        self.a, self.b = self.pair.a, self.pair.b
        self.cyrus = self.pair.cyrus()
        self.cyrus.add_user("alice")
        self.sent = 0

    def deliver(self, count=5):
        with self.cyrus.lmtp() as c:
            for _ in range(count):
                c.deliver(["alice"], mail.message(self.sent))
                self.sent += 1

    def have(self, slot, count):
        case.equal(spools.count(slot.spool)[1], count, f"messages of {slot.name}")

    def end(self):
        self.pair.umount()
        spools.assert_equal(self.a.spool, self.b.spool)
        for slot in (self.a, self.b):
            self.have(slot, self.sent)


def journal(slot):
    s = slot.status()
    return s["epoch"], s["run"]


def test_it_proves_and_goes_on_without_a_look():
    t = Two()
    t.deliver(20)
    t.cyrus.stop()
    t.a.umount()
    # No wait, no settle: the exit status was the proof.
    t.have(t.b, 20)
    spools.assert_equal(t.a.spool, t.b.spool)
    t.a.start()
    pair.wait_connected(t.a)
    case.check("unclean" not in t.a.log(), "a clean stop is taken for a crash")
    case.check("comparing" not in t.b.log().rpartition("session: up")[2],
               "a peer that had everything is compared")
    t.cyrus.start()
    t.deliver()
    t.pair.settle()
    t.end()


def test_what_the_proof_finds_is_mended_and_told():
    t = Two()
    t.deliver(20)
    t.pair.wait()
    t.b.umount()
    db = sqlite3.connect(f"{t.b.state}/journal.db")
    with db:
        db.execute("DELETE FROM mbox WHERE dir NOT LIKE '/%'")
    db.close()
    t.b.start()
    t.cyrus.stop()
    text = t.a.umount()
    case.check("peer b differed, and was compared: mailboxes=" in text, f"umount: {text}")
    t.b.umount()
    t.have(t.b, 20)
    spools.assert_equal(t.a.spool, t.b.spool)


def test_a_peer_that_is_away():
    t = Two()
    t.deliver()
    t.pair.wait()
    t.b.kill()
    t.deliver()
    code, text = pair.program("wait", "--timeout", "1", t.a.mnt)
    case.check(code == 1 and "peer b" in text, f"wait: {code} {text}")
    t.cyrus.stop()
    code, text = pair.program("umount", t.a.mnt)
    case.equal(code, 1, "umount without the peer")
    case.check("peer b is not connected" in text and "--force" in text, text)
    case.check(t.a.mounted() and t.a.status()["gate"] == "open", "it did not stay")
    t.cyrus.start()
    t.deliver()
    t.cyrus.stop()
    code, text = pair.program("umount", "--force", t.a.mnt)
    case.equal(code, 1, "umount by force")
    case.check("without proof" in text and "peer b" in text, text)
    t.a.ended()
    t.have(t.b, 5)
    t.pair.start()
    t.pair.settle()
    t.end()


def test_a_peer_that_comes_back_in_time():
    t = Two(stop_wait="30s")
    t.b.umount()
    t.deliver()
    t.cyrus.stop()
    p = subprocess.Popen([case.PROGRAM, "umount", t.a.mnt], cwd="/", text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    case.later(lambda: (p.kill(), p.wait()))
    case.wait_for(lambda: t.a.status()["gate"] == "shut", "the gate to shut")
    t.b.start()
    text = p.communicate(timeout=40)[0]
    case.equal(p.returncode, 0, f"umount, which said {text!r}")
    t.a.ended()
    t.have(t.b, 5)
    t.b.umount()


def test_an_interrupted_umount_opens_again():
    t = Two(stop_wait="60s")
    t.b.umount()
    t.deliver()
    t.cyrus.stop()
    p = subprocess.Popen([case.PROGRAM, "umount", t.a.mnt], cwd="/",
                         stderr=subprocess.DEVNULL)
    case.wait_for(lambda: t.a.status()["gate"] == "shut", "the gate to shut")
    p.send_signal(signal.SIGINT)
    p.wait(10)
    case.wait_for(lambda: t.a.status()["gate"] == "open", "the gate to open")
    t.cyrus.start()
    t.deliver()
    t.b.start()
    t.pair.settle()
    t.end()


def test_sigterm():
    t = Two(stop_wait="6s")
    t.deliver()
    t.cyrus.stop()
    t.b.kill()
    case.wait_for(lambda: not t.a.peer()["connected"], "a to notice", limit=60)
    os.kill(t.a.proc.pid, signal.SIGTERM)
    case.wait_for(lambda: "not drained: " in t.a.log(), "the drain to give up", limit=60)
    case.check("not drained: peer b is not connected" in t.a.log(), t.a.log_tail())
    case.wait_for(lambda: t.a.status()["gate"] == "open", "the gate to open")
    t.b.start()
    t.a.wait()      # the time of the stop is for the stop
    os.kill(t.a.proc.pid, signal.SIGTERM)
    case.equal(t.a.ended(60), 0, "exit status")
    t.have(t.b, 5)
    t.b.umount()


def test_plain_umount():
    link = "/sbin/umount.fuse.twinspool"
    try:
        os.symlink(os.path.join(os.path.dirname(os.path.realpath(case.PROGRAM)),
                                "umount.fuse.twinspool"), link)
        case.later(os.unlink, link)
    except FileExistsError:
        pass
    t = Two()
    t.deliver()
    t.cyrus.stop()
    t.b.kill()
    done = subprocess.run(["umount", t.a.mnt], capture_output=True, text=True, timeout=60)
    case.check(done.returncode != 0 and "peer b is not connected" in done.stderr,
               f"umount without the peer: {done.returncode} {done.stderr}")
    case.check(t.a.mounted(), "it has gone all the same")
    t.b.start()
    pair.wait_connected(t.a)
    done = subprocess.run(["umount", t.a.mnt], capture_output=True, text=True, timeout=60)
    case.equal(done.returncode, 0, f"umount, which said {done.stderr!r}")
    t.a.ended()
    t.have(t.b, 5)
    t.b.umount()


case.main()
