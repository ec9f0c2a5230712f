#!/usr/bin/env python3
"""A real Cyrus on a pair whose requests come by io_uring: mail arrives, levels are kept, the
standby shows what is new. After a server's death the next mount has what was answered."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import load  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402
import uring  # noqa: E402

USERS = [f"u{n}" for n in range(8)]


def serve(two, *slots):
    """Starts them; whether their requests come by ring, as all must that this kernel can."""
    with uring.parameter(True) as can:
        for one in slots:
            one.start()
    for one in slots:
        case.equal(one.status()["transport"], "uring" if can else "dev", one.log_tail())
    return can


def ready(**keys):
    two = pair.Pair(keys={"transport": "uring", **keys})
    two.by_ring = serve(two, two.b, two.a)
    two.cyrus()
    two.server.add_user(*USERS, folders=["Old"])
    return two


def worked(two, deliveries, seed):
    work = load.Load(two.server, USERS, lmtp_connections=8, imap_connections=8,
                     deliveries=deliveries, seed=seed).start()
    work.finish()
    work.verify(two.a.spool)
    two.settle()
    work.verify(two.b.spool)


def seen(two):
    """All of the standby's files as its kernel shows them, which must be what is on disk."""
    for base, _, names in os.walk(two.b.spool):
        if ".twinspool" in base:
            continue
        for name in names:
            below = os.path.join(base, name)
            above = os.path.join(two.b.mnt, os.path.relpath(below, two.b.spool))
            case.check(spools.same_bytes(below, above), f"{above} shows something else")


def test_mail_and_changes_arrive_and_the_standby_shows_them():
    two = ready()
    worked(two, 200, 1)
    seen(two)
    # Now that kernel knows each file, and replay must tell it what has changed.
    worked(two, 200, 2)
    seen(two)
    two.umount()
    spools.assert_equal(two.a.spool, two.b.spool)


def test_answers_wait_for_the_peers_disk():
    """Syncs that wait keep their ring entry; there are enough for these connections."""
    two = ready(durability="flushed")
    worked(two, 300, 3)
    case.equal(two.a.status()["durability"]["state"], "waiting", "the level's state")
    two.umount()
    spools.assert_equal(two.a.spool, two.b.spool)


def test_what_was_answered_outlives_the_mount():
    two = ready()
    work = load.Load(two.server, USERS, lmtp_connections=4, imap_connections=2,
                     deliveries=400, seed=4).start()
    case.wait_for(lambda: len(work.stored) > 100, "some mail")
    two.a.kill_server()
    if not two.by_ring:
        work.finish()
        work.verify(two.a.spool)
        return two.settle()
    case.check(two.a.proc.wait(20) != 0, "the end of the mount was called a success")
    two.a.proc = None
    work.left = 0
    work.stopping.set()
    two.server.stop(hard=True)
    work.stop()
    work.errors.clear()
    serve(two, two.a)
    two.server.start()
    case.note(f"{two.mend()} mailboxes mended")
    work.verify(two.a.spool)
    worked(two, 50, 5)
    two.umount()
    spools.assert_equal(two.a.spool, two.b.spool)


case.main()
