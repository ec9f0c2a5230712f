#!/usr/bin/env python3
"""The clean stop while clients are at work, and while somebody sits in the mount."""
# limit: 300

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import subprocess  # noqa: E402

import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402

USERS = ["alice", "bob", "carol"]


def ready(keys=None):
    two = pair.Pair(keys).start()
    two.cyrus()
    two.server.add_user(*USERS, folders=["Old"])
    return two


def test_under_load_clients_see_clean_refusals():
    """The gate shuts while clients are at work: what was answered is on both sides."""
    two = ready()
    work = load.Load(two.server, USERS).start()
    case.wait_for(lambda: work.actions > 100, "some load")
    # An imapd that was refused an index may keep its user's lock (3.6.1), and another one then waits
    # for that with a file open for writing: no patience helps.
    code, text = pair.program("umount", "--timeout", "10s", two.a.mnt)
    work.stop()
    two.server.stop()
    if code != 0:
        # Cyrus's processes kept it busy; without them it must succeed.
        two.a.umount()
    else:
        two.a.ended()
    spools.assert_equal(two.a.spool, two.b.spool)
    work.errors.clear()
    work.verify(two.a.spool, two.b.spool)


def test_busy_says_who_and_goes_on():
    two = ready()
    holder = subprocess.Popen(["sleep", "300"], cwd=two.a.mnt)
    case.later(holder.kill)
    code, text = pair.program("umount", two.a.mnt)
    case.check(code != 0, "a busy mount was unmounted")
    case.check(str(holder.pid) in text, f"the holder {holder.pid} is not named: {text}")
    with two.server.lmtp() as c:
        c.deliver("alice", mail.message(1))
    two.settle()
    holder.kill()
    holder.wait()
    two.umount()
    spools.assert_equal(two.a.spool, two.b.spool)


case.main()
