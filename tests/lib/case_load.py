#!/usr/bin/env python3
"""The load generator on a Cyrus without us: its ledger is right, and notices loss."""
# limit: 120

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import case  # noqa: E402
import cyrus  # noqa: E402
import load  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402


def test_ledger_on_plain_folders():
    root = case.folder()
    server = cyrus.Cyrus(case.folder(), root).start()
    users = [f"u{n}" for n in range(8)]
    server.add_user(*users, folders=["Old"])
    work = load.Load(server, users, deliveries=400).start()
    work.finish(60)
    server.stop()
    work.verify(root)
    spools.assert_sound(root)
    case.check(work.actions > 300, f"only {work.actions} actions")
    # Take one visible message away: the ledger must miss it.
    user, number = next(iter(work.stored - work.removed))
    for where in spools.mailboxes(root):
        box = witness.Mailbox(os.path.join(root, where))
        if box.header["N"].decode().split(".")[1] == user:
            for rec in box.index.records.values():
                path = os.path.join(root, where, f"{rec['uid']}.")
                if os.path.exists(path):
                    with open(path, "rb") as f:
                        text = f.read()
                    if b"<m%d." % number in text:
                        os.unlink(path)
                        with open(path, "wb") as f:
                            f.write(text.replace(b"<m%d." % number, b"<m0."))
    try:
        work.verify(root)
    except case.Failed:
        return
    raise case.Failed("a lost message went unnoticed")


case.main()
