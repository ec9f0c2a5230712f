#!/usr/bin/env python3
"""What Cyrus leaves when it is killed in the middle of a commit, and goes on with by itself: so
do we, without a command. And a mailbox that was set aside is released by itself."""
# limit: 240

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import fcntl  # noqa: E402
import struct  # noqa: E402
import time  # noqa: E402

import hand  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

PATIENCE = 6    # seconds; longer than capture gives files that do not add up


def ready():
    two = pair.Pair().start()
    two.cyrus().add_user("one")
    with two.server.lmtp() as c:
        for n in range(3):
            c.deliver("one", mail.message(n))
    two.wait()
    return two, two.server.mailbox_dir("user.one")


def killed_after_rename(path, word="spare"):
    """As an imapd that is killed between cyrus.header and the index header."""
    with hand.Hand(path) as h:
        h.keyword(word)


def killed_in_store(path, records=1, word=0x2):
    """As an imapd that is killed between records (flagged, by default) and the index header."""
    with open(f"{path}/cyrus.index", "r+b", buffering=0) as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        data = bytearray(f.read())
        for at in range(160, 160 + 112 * records, 112):
            rec = data[at:at + 112]
            struct.pack_into(">Q", rec, 80, int.from_bytes(data[68:76], "big") + 1)
            flags, = struct.unpack_from(">I", rec, 32)
            struct.pack_into(">I", rec, 32, flags ^ word)
            struct.pack_into(">I", rec, 108, witness.crc(rec[:108]))
            f.seek(at)
            f.write(rec)


def never_aside(two):
    """For as long as it would take us to set it aside."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for slot in two.slots:
            found = slot.status()["quarantine"]
            case.check(not found, lambda: f"{slot.name}: {found}\n{slot.log_tail()}")
        time.sleep(0.2)


def same(two, *but):
    """Both trees say the same; what Cyrus itself leaves as it is apart."""
    two.wait()
    found = [line for line in spools.compare(two.a.spool, two.b.spool)
             if not any(word in line for word in but)]
    case.check(not found, lambda: f"{found}\n{two.a.log_tail()}\n{two.b.log_tail()}")


def use(two, keyword):
    with two.server.imap("one") as c:
        c.select("INBOX")
        c.store("1", "+FLAGS", keyword)
        c.store("2", "+FLAGS", "\\Answered")
    with two.server.lmtp() as c:
        c.deliver("one", mail.message(9))


def test_killed_between_names_and_index():
    two, path = ready()
    killed_after_rename(path)
    never_aside(two)
    same(two, "header_file_crc")
    # Cyrus knows the keyword, so it writes no cyrus.header, and the index never confirms it.
    use(two, "spare")
    same(two, "header_file_crc")
    # The next new keyword does.
    use(two, "other")
    two.settle()


def test_killed_between_names_and_index_and_used_at_once():
    two, path = ready()
    with two.server.imap("one") as c:
        c.select("INBOX")
        killed_after_rename(path)
        c.store("1", "+FLAGS", "spare")
    never_aside(two)
    same(two, "header_file_crc")
    use(two, "other")
    two.settle()


def test_killed_between_names_and_index_with_the_machine():
    two, path = ready()
    below = os.path.relpath(path, two.a.mnt)
    two.server.stop()
    # Old enough that a start goes by the stamps.
    old = time.time() - 600
    os.utime(f"{path}/cyrus.header", (old, old))
    os.utime(f"{path}/cyrus.index", (old, old))
    time.sleep(1)
    two.wait()
    two.a.kill()
    killed_after_rename(f"{two.a.spool}/{below}")
    two.a.start()
    two.server.start()
    use(two, "spare")
    never_aside(two)
    same(two, "header_file_crc")
    use(two, "other")
    two.settle()


def test_killed_between_the_last_expunge_and_index():
    """The header counts messages of which none is left: no CRC of theirs tells."""
    two, path = ready()
    killed_in_store(path, 3, witness.EXPUNGED)
    never_aside(two)
    same(two, "header basic", "header annot")
    two.mend()
    two.settle()


def test_killed_between_record_and_index():
    two, path = ready()
    killed_in_store(path)
    never_aside(two)
    use(two, "other")
    never_aside(two)
    same(two)


def test_released_by_its_own_commit():
    two, path = ready()
    with open(f"{path}/cyrus.index", "r+b", buffering=0) as f:
        data = bytearray(f.read())
        data[40] ^= 1       # the header's CRC is wrong now
        f.seek(0)
        f.write(data[:160])
        os.fsync(f.fileno())
    case.wait_for(lambda: two.a.status()["quarantine"], "the mailbox to be set aside")
    with open(f"{path}/cyrus.index", "r+b", buffering=0) as f:
        data[40] ^= 1
        f.write(data[:160])
        os.fsync(f.fileno())
    began = time.monotonic()
    case.wait_for(lambda: not two.a.status()["quarantine"], "the release")
    # By the commit, not by the look that is taken every five seconds.
    case.check(time.monotonic() - began < 3, "it took the regular look to release it")
    with two.server.lmtp() as c:
        c.deliver("one", mail.message(9))
    same(two)


case.main()
