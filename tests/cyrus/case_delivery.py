#!/usr/bin/env python3
"""The thinnest whole path: two mounts, a real Cyrus on one, mail arrives on both."""
# limit: 120

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402


def test_deliveries_arrive_on_the_standby():
    two = pair.Pair().start()
    server = two.cyrus()
    server.add_user("alice", "bob")
    with server.lmtp() as c:
        for n in range(20):
            c.deliver(["alice"] if n % 3 else ["alice", "bob"], mail.message(n))
    with server.imap("alice") as c:
        case.equal(c.select(), 20, "messages that IMAP shows")
    two.settle()
    boxes, messages = spools.count(two.b.spool)
    case.equal((boxes, messages), (2, 27), "mailboxes and messages on the standby")
    two.umount()
    spools.assert_equal(two.a.spool, two.b.spool)


case.main()
