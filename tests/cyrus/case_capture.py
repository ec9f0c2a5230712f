#!/usr/bin/env python3
"""What a writer of cyrus.index can do to be lost, step by step: no sync, no header, a death
between any two writes, a change behind our back. A hand plays the writer on mailboxes that a
real Cyrus made."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import sqlite3  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

import hand  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import witness  # noqa: E402

BOXES = 6


class Stage:
    """A pair with mail in some mailboxes; the Cyrus that made them rests. Used by test after
    test; one that fails costs a new one."""

    def __init__(self):
        self.two = pair.Pair().start()
        self.server = self.two.cyrus()
        users = [f"u{n}" for n in range(BOXES)]
        self.server.add_user(*users)
        with self.server.lmtp() as c:
            for n in range(4):
                c.deliver(users, mail.message(n))
        self.boxes = [os.path.relpath(self.server.mailbox_dir(f"user.{u}"), self.two.a.mnt)
                      for u in users]
        self.server.stop()
        self.a, self.b = self.two.a, self.two.b
        self.two.settle()

    def hand(self, n=0):
        return hand.Hand(f"{self.a.mnt}/{self.boxes[n]}")

    def index(self, slot, n=0):
        return witness.Index(witness.read(f"{slot.spool}/{self.boxes[n]}/cyrus.index"))

    def flags(self, slot, uid, n=0):
        return self.index(slot, n).records[uid]["flags"]

    def same(self, n=0):
        """The standby has every record as it is here."""
        x, y = self.index(self.a, n).records, self.index(self.b, n).records
        return x.keys() == y.keys() and all(
            x[uid][k] == y[uid][k] for uid in x
            for k in ("modseq", "flags", "last_updated", "guid"))


    def settle(self):
        self.two.settle()


get = case.Stage(Stage)


def no_alarm(s, start):
    """Nothing was called damaged since then."""
    said = [line for line in s.a.log()[start:].splitlines()
            if re.search("does not add up|set aside", line)]
    case.check(not said, lambda: "\n".join(said))


# ---- a header without its sync


def test_a_header_that_its_writer_never_synced():
    s = get()
    syncs, start = s.a.syncs(), time.monotonic()
    with s.hand() as h:
        h.flag(2, hand.FLAGGED)
        h.header()
    case.wait_for(lambda: s.flags(s.b, 2) & hand.FLAGGED, "the flag on the standby", 10)
    spent = time.monotonic() - start
    case.check(spent > 0.8, f"it was there after {spent:.2f} s, before its index was synced")
    case.check(s.a.syncs()["index"] > syncs["index"], "the index was not synced")
    s.settle()


def test_nothing_is_sent_of_an_index_that_cannot_be_synced():
    case.need("strace")
    s = get()
    server = s.a.server_pid()
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync",
         "-e", "inject=fsync:error=EIO", "-p", str(server)], stderr=subprocess.DEVNULL)
    try:
        case.wait_for(lambda: re.search(r"^TracerPid:\s*[1-9]", witness.read(
            f"/proc/{server}/status").decode(), re.M), "strace")
        start = len(s.a.log())
        with s.hand() as h:
            h.flag(3, hand.FLAGGED)
            h.header()
        case.wait_for(lambda: s.a.log().count("sync of an index failed", start) >= 2,
                      "two attempts")
        case.check(not s.flags(s.b, 3) & hand.FLAGGED, "it is on the standby all the same")
    finally:
        tracer.terminate()
        tracer.wait()
    case.wait_for(lambda: s.flags(s.b, 3) & hand.FLAGGED, "the flag on the standby", 10)
    s.settle()


# ---- records without a header


def test_touched_records_wait_for_a_header_written_by_another_descriptor():
    s = get()
    start = len(s.a.log())
    with s.hand() as h:
        h.flag(1, hand.FLAGGED)
        other = os.open(f"{h.path}/cyrus.index", os.O_RDWR)
        os.close(h.fd)      # and with it the lock; nobody sees a close
        h.fd = other
        h.flag(4, hand.FLAGGED)
        h.commit()
    s.two.wait()
    case.check(s.flags(s.b, 1) & s.flags(s.b, 4) & hand.FLAGGED, "a touched record was lost")
    no_alarm(s, start)
    s.settle()


def test_a_transaction_is_not_aborted_while_its_index_is_locked():
    s = get()
    start = len(s.a.log())
    before = witness.read(f"{s.b.spool}/{s.boxes[1]}/cyrus.index")
    with s.hand(1) as h:
        h.flag(1, hand.FLAGGED)
        time.sleep(1.0)     # five times as long as an abort takes
        s.two.wait()
        case.check(witness.read(f"{s.b.spool}/{s.boxes[1]}/cyrus.index") == before,
                   "half a transaction is on the standby")
        h.flag(2, hand.FLAGGED)
        h.commit()
    s.two.wait()
    case.check(s.same(1), "the standby has not all of it")
    no_alarm(s, start)
    s.settle()


def test_an_aborted_transaction_is_stated_as_it_is_left():
    s = get()
    with s.hand(2) as h:
        h.flag(1, hand.FLAGGED)
    case.wait_for(lambda: s.flags(s.b, 1, 2) & hand.FLAGGED, "the record on the standby", 10)
    case.check(s.same(2), "the standby has it otherwise")
    s.server.start()
    s.server.run("reconstruct", "user/u2")
    s.server.stop()
    s.settle()


def test_a_new_server_waits_for_the_writer_that_the_old_one_left():
    s = get()
    start = len(s.a.log())
    with s.hand(3) as h:
        h.flag(1, hand.FLAGGED)
        old = s.a.kill_server()
        case.wait_for(lambda: s.a.server_pid() != old, "a new server")
        s.two.wait()
        time.sleep(0.5)
        case.check(not s.flags(s.b, 1, 3) & hand.FLAGGED,
                   "half a transaction is on the standby")
        h.flag(2, hand.FLAGGED)
        h.commit()
    s.two.wait()
    case.check(s.flags(s.b, 1, 3) & s.flags(s.b, 2, 3) & hand.FLAGGED, "not all of it came")
    no_alarm(s, start)
    s.settle()


# ---- an index that is empty


def test_an_empty_index_holds_nobody():
    s = get()
    start = len(s.a.log())
    box = f"{s.a.mnt}/uuid/e/m/empty"
    os.makedirs(box)
    like = f"{s.a.mnt}/{s.boxes[0]}"
    for path in (f"{s.a.mnt}/uuid/e", f"{s.a.mnt}/uuid/e/m", box):
        os.chown(path, os.stat(like).st_uid, os.stat(like).st_gid)
    # Killed in the middle of a CREATE.
    fd = os.open(f"{box}/cyrus.index", os.O_CREAT | os.O_RDWR, 0o600)
    os.fchown(fd, os.stat(like).st_uid, os.stat(like).st_gid)
    os.close(fd)
    time.sleep(1.0)
    began = time.monotonic()
    s.two.wait()
    s.a.umount()
    spent = time.monotonic() - began
    case.check(spent < 3, f"wait and a clean stop took {spent:.1f} s")
    no_alarm(s, start)
    s.a.start()
    pair.wait_connected(s.a)
    # And then it becomes one.
    name = s.boxes[0]
    for file in ("cyrus.header", "cyrus.cache", "1.", "2.", "3.", "4."):
        with open(f"{box}/{file}", "wb") as f:
            f.write(witness.read(f"{s.a.spool}/{name}/{file}"))
        st = os.stat(f"{s.a.spool}/{name}/{file}")
        os.chown(f"{box}/{file}", st.st_uid, st.st_gid)
        os.chmod(f"{box}/{file}", st.st_mode & 0o7777)
        os.utime(f"{box}/{file}", (st.st_mtime, st.st_mtime))
    with open(f"{box}/cyrus.index", "r+b", buffering=0) as f:
        f.write(witness.read(f"{s.a.spool}/{name}/cyrus.index"))
        os.fsync(f.fileno())
    case.wait_for(lambda: os.path.exists(f"{s.b.spool}/uuid/e/m/empty/cyrus.index"),
                  "the mailbox on the standby")
    s.two.wait()
    case.equal(sorted(os.listdir(f"{s.b.spool}/uuid/e/m/empty")), sorted(os.listdir(box)),
               "files of the mailbox on the standby")
    shutil.rmtree(f"{s.a.mnt}/uuid/e")
    s.two.wait()
    s.settle()


# ---- starts


def shift_journal(slot, seconds):
    """The slot ended that much later than its journal's last entry."""
    db = sqlite3.connect(f"{slot.state}/journal.db")
    with db:
        db.execute("UPDATE journal SET time = time - ?", (seconds * 10 ** 9,))
        db.execute("UPDATE meta SET v = v - ? WHERE key = 'trimmed_time'",
                   (seconds * 10 ** 9,))
    db.close()


def set_back(s, n, seconds):
    """The index of that mailbox was last written that long ago, and the journal knows."""
    when = time.time() - seconds
    for name in ("cyrus.header", "cyrus.annotations", "cyrus.index"):
        if os.path.exists(f"{s.a.mnt}/{s.boxes[n]}/{name}"):
            os.utime(f"{s.a.mnt}/{s.boxes[n]}/{name}", (when, when))
    s.two.wait()
    time.sleep(0.4)
    s.two.wait()


def change_in_place(s, n, uid):
    """The same size, inode and times, other content: what a power cut may leave, or two writes
    within one tick of the clock."""
    path = f"{s.a.spool}/{s.boxes[n]}"
    st = os.stat(f"{path}/cyrus.index")
    with hand.Hand(path) as h:
        h.flag(uid, hand.FLAGGED)
        h.commit()
    os.utime(f"{path}/cyrus.index", ns=(st.st_atime_ns, st.st_mtime_ns))


def moved(s, start):
    return int(re.search(r"own gap closed.* moved=(\d+)", s.a.log()[start:])[1])


def test_a_young_index_is_read_after_a_crash():
    s = get()
    for n, seconds in enumerate((1000, 1000, 1000, 1000, 200, 300)):
        set_back(s, n, seconds)
    s.a.kill()
    # The last entry was made 30 seconds after mailbox 4 was written; that is a while ago.
    shift_journal(s.a, 170)
    change_in_place(s, 4, 4)
    start = len(s.a.log())
    s.a.start()
    pair.wait_connected(s.a)
    s.two.wait()
    case.check(s.flags(s.b, 4, 4) & hand.FLAGGED, "what a stat does not show was not found")
    case.equal(moved(s, start), 1, "mailboxes read")
    s.settle()


class Traced:
    """The slot's next start under strace, which counts."""

    def __init__(self, slot):
        self.slot = slot
        self.out = f"{slot.base}/trace"
        self.program = f"{slot.base}/traced"
        with open(self.program, "w") as f:
            f.write(f'#!/bin/sh\nexec strace -f -qq -o {self.out} -e trace=file,getdents64,'
                    f'fstat,open_by_handle_at,openat2 {case.PROGRAM} "$@"\n')
        os.chmod(self.program, 0o755)

    def start(self):
        real, case.PROGRAM = case.PROGRAM, self.program
        try:
            self.slot.start(asks=False, limit=60)
        finally:
            case.PROGRAM = real
        return self

    def calls(self):
        with open(self.out, errors="replace") as f:
            return f.read().splitlines()

    def of_mailboxes(self):
        return [c for c in self.calls() if '"cyrus.index"' in c or "/cyrus.index" in c]


def test_after_a_clean_stop_an_index_is_looked_at_when_it_is_opened():
    case.need("strace")
    s = get()
    s.a.umount()
    with hand.Hand(f"{s.a.spool}/{s.boxes[5]}") as h:
        h.flag(4, hand.FLAGGED)
        h.commit()
    trace = Traced(s.a).start()
    pair.wait_connected(s.a)
    s.two.wait()
    case.equal(trace.of_mailboxes(), [], "calls about an index before anybody asked")
    case.equal([c for c in trace.calls() if "getdents" in c and "uuid" in c], [], "listings")
    case.check(not s.flags(s.b, 4, 5) & hand.FLAGGED, "it is on the standby already")
    os.stat(f"{s.a.mnt}/{s.boxes[5]}/cyrus.index")
    s.two.wait()
    case.check(s.flags(s.b, 4, 5) & hand.FLAGGED, "what was changed while away was not found")
    s.settle()
    s.a.umount()
    s.a.start()
    pair.wait_connected(s.a)


def test_after_a_crash_there_are_three_stats_for_a_mailbox():
    """Decision 0020."""
    case.need("strace")
    s = get()
    s.a.umount()    # no note is left over
    s.a.start()
    pair.wait_connected(s.a)
    for n in range(BOXES):
        set_back(s, n, 1000)
    s.a.kill()
    start = len(s.a.log())
    trace = Traced(s.a).start()
    pair.wait_connected(s.a)
    calls = trace.of_mailboxes()
    case.equal(moved(s, start), 0, "mailboxes read")
    case.check(0 < len(calls) <= 3 * BOXES, "\n".join(calls))
    case.equal([c for c in trace.calls() if re.search(r"getdents64\(\d+<[^>]*uuid", c)], [],
               "listings")
    s.settle()
    s.a.umount()
    s.a.start()
    pair.wait_connected(s.a)


case.main(stage=get)
