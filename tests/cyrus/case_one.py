#!/usr/bin/env python3
"""One mount without peers under a real Cyrus: mail and changes in each layout, the spool sound
afterwards; what a delivery asks of us; and the server killed again and again without a client noticing."""
# limit: 240

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import random  # noqa: E402
import re  # noqa: E402
import time  # noqa: E402

import cyrus  # noqa: E402
import load  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402

USERS = [f"u{n}" for n in range(8)]
KILLS = int(os.environ.get("TWINSPOOL_KILLS", "20"))
SEED = int(os.environ.get("TWINSPOOL_SEED", str(int(time.time()))))


def mounted(keys=None, **kw):
    base = case.folder()
    slot = pair.Slot(f"{base}/a", "a", "active")
    slot.keygen()
    slot.configure(start_wait="100ms", **(keys or {}))
    case.later(slot.close)
    slot.start()
    server = cyrus.Cyrus(f"{base}/cyrus", slot.mnt, **kw).start()
    server.add_user(*USERS, folders=["Old"])
    return slot, server


def test_load_in_each_layout():
    for options in ({"layout": "uuid"}, {"layout": "legacy"},
                    {"layout": "legacy", "hashed": False}):
        slot, server = mounted(**options)
        work = load.Load(server, USERS, deliveries=200).start()
        work.finish()
        server.run("cyr_expire", "-E", "1", "-X", "0")
        server.stop()
        try:
            work.verify(slot.mnt, slot.spool)
            spools.assert_sound(slot.spool)
            spools.assert_equal(slot.mnt, slot.spool)
        except case.Failed:
            case.note(slot.log_tail())
            raise
        slot.umount()


def requests(slot):
    text = pair.ok("status", "--metrics", slot.conf)
    return {kind: int(n) for kind, n in
            re.findall(r'^twinspool_fuse_requests_total\{.*kind="(\w+)"\} (\d+)$', text, re.M)
            if "FORGET" not in kind and kind != "STATFS"}


def test_requests_of_a_delivery():
    """docs/performance.md names each of them: one connection, a mailbox that is open."""
    for xattr, most in (("no", 22), ("yes", 26)):
        slot, server = mounted({"xattr": xattr})
        with server.lmtp() as c:
            for n in range(60):
                if n == 20:
                    before = requests(slot)
                c.deliver(USERS[:1], mail.message(n))
            did = {k: (n - before.get(k, 0)) / 40 for k, n in requests(slot).items()}
        did = {k: n for k, n in sorted(did.items()) if n}
        case.note(f"xattr: {xattr}: {sum(did.values()):.2f} requests: {did}")
        server.stop()
        slot.umount()
        # Some kernels from 6.9 on send a RELEASE for what a CREATE opened.
        case.equal(did.get("CREATE"), 1, "CREATE of a delivery")
        case.check(sum(did.values()) - did.get("RELEASE", 0) < most, f"xattr: {xattr}: {did}")


def test_killed_server_goes_unnoticed():
    rng = random.Random(SEED)
    case.note(f"TWINSPOOL_SEED={SEED}")
    slot, server = mounted()
    work = load.Load(server, USERS, seed=SEED % 1000).start()
    actions = 0
    for n in range(KILLS):
        time.sleep(rng.uniform(0.05, 0.4))
        old = slot.kill_server()
        case.wait_for(lambda: slot.server_pid() != old, "a new server")
        case.wait_for(lambda: work.actions > actions or work.errors, "the load to go on",
                      limit=30)
        case.check(not work.errors, lambda: f"after kill {n + 1}: {work.errors[:5]}\n"
                   f"{slot.log_tail()}")
        actions = work.actions
    work.stop()
    server.stop()
    work.verify(slot.mnt, slot.spool)
    spools.assert_sound(slot.spool)
    spools.assert_equal(slot.mnt, slot.spool)
    slot.umount()


case.main()
