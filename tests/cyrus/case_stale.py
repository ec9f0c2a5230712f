#!/usr/bin/env python3
"""An active side that was passed over: it meets a later epoch, and from then on lets nothing in,
also in its next lives. Its files can be read."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import errno  # noqa: E402
import sqlite3  # noqa: E402

import imap  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7f | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def give_later_epoch(slot, epoch):
    """As if that side had been promoted, and made a standby again: one more entry in its stored
    history of epochs (sync/epoch.c). It must be down."""
    db = sqlite3.connect(f"{slot.state}/state.db")
    old, = db.execute("SELECT v FROM kv WHERE key = 'epochs'").fetchone()
    count = old[2]      # role, version, then a number below 128
    case.check(count < 127, "a long history")
    entry = varint(epoch) + os.urandom(8) + varint(0) * 3 + varint(1) + b"b"
    new = old[:2] + bytes([count + 1]) + old[3:] + entry
    db.execute("UPDATE kv SET v = ? WHERE key = 'epochs'", (new,))
    db.commit()
    db.close()


def refused(two, n):
    """A delivery is put off with a temporary failure."""
    with two.server.lmtp() as c:
        try:
            c.deliver("u", mail.message(n))
        except Exception as why:
            case.check(" 4" in str(why) or str(why).startswith("4"), f"answer: {why}")
            return True
    return False


def index_bits(two):
    path = f"{two.server.mailbox_dir('user.u')}/cyrus.index"
    return os.stat(path).st_mode & 0o222


def stage_is_shut(two):
    """While somebody has an index open for writing the mount cannot be read-only, and the gate
    alone keeps new messages out."""
    case.check(not os.statvfs(two.a.mnt).f_flag & os.ST_RDONLY, "nobody holds the mount")
    stage = f"{two.a.mnt}/stage."
    case.check(os.path.isdir(stage), "no stage folder")
    for n in range(2):
        try:
            os.close(os.open(f"{stage}/new{n}", os.O_CREAT | os.O_WRONLY))
            raise case.Failed("a stale active takes a file into its stage folder")
        except OSError as why:
            case.equal(why.errno, errno.EACCES, "CREATE in stage.")


def is_stale(two):
    facts = two.a.status()
    case.equal(facts["gate"], "stale", "gate")
    case.equal(facts["later_epoch"], 5, "the epoch it met")
    case.check("join it anew" in facts["stale"], f"no cure in {facts['stale']!r}")
    text = pair.ok("status", two.a.conf)
    case.check("stale: this side is stale" in text and "gate stale" in text, text)
    case.equal(index_bits(two), 0, "write bits of the index")
    case.check(refused(two, 50), "a stale active takes mail")
    with two.server.imap("u") as c:
        try:
            c.select()      # opens the index for writing
            raise case.Failed("a stale active lets a client change flags")
        except imap.Error as why:
            case.check("System I/O error" in str(why), f"SELECT: {why}")
    case.equal(spools.count(two.a.mnt)[1], 3, "messages that can be read")
    code, said = pair.program("wait", "--timeout", "30", two.a.conf, limit=20)
    case.check(code != 0 and "stale" in said, f"wait: {code} {said}")


def test_a_stale_active_shuts_its_gate():
    two = pair.Pair().start()
    two.cyrus().add_user("u")
    with two.server.lmtp() as c:
        for n in range(3):
            c.deliver("u", mail.message(n))
    two.settle()
    two.b.umount()
    give_later_epoch(two.b, 5)
    index = f"{two.server.mailbox_dir('user.u')}/cyrus.index"
    with open(index, "r+b"):
        two.b.start()
        case.wait_for(lambda: two.a.status()["gate"] == "stale", "the gate to shut")
        stage_is_shut(two)
        case.check(refused(two, 49), "a stale active takes mail")
    case.check("this side is stale" in two.a.log(), "the log does not say so")
    is_stale(two)
    # A server that dies does not open it, nor does a new mount without the peer.
    was = two.a.kill_server()
    case.wait_for(lambda: two.a.server_pid() != was, "the next server")
    case.wait_for(lambda: pair.program("status", two.a.conf)[0] == 0, "its answer")
    is_stale(two)
    two.b.umount()
    two.server.stop(hard=True)
    two.a.kill()
    two.a.start(asks=False)
    case.wait_for(lambda: pair.program("status", two.a.conf)[0] == 0, "its answer")
    two.server.start()
    is_stale(two)
    case.equal(spools.count(two.b.spool)[1], 3, "messages on the other side")
    two.server.stop()
    code, said = pair.program("umount", two.a.mnt)
    case.check(code != 0 and "stale" in said, f"umount: {code} {said}")
    code, said = pair.program("umount", "--force", two.a.mnt)
    case.check(code != 0 and "without proof" in said, f"umount --force: {code} {said}")
    two.a.ended()


case.main()
