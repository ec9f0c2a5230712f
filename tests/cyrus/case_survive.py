#!/usr/bin/env python3
"""Killed servers under load. The server process of either side dies again and again: no
client notices. Supervisor and server die together: nothing answered is lost.

TWINSPOOL_KILLS, TWINSPOOL_DOUBLE_KILLS: how many (tests/long runs 200 and 50)."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402

import load  # noqa: E402
import pair  # noqa: E402

USERS = [f"u{n}" for n in range(12)]
KILLS = int(os.environ.get("TWINSPOOL_KILLS", "20"))
DOUBLE = int(os.environ.get("TWINSPOOL_DOUBLE_KILLS", "3"))
SEED = int(os.environ.get("TWINSPOOL_SEED", str(int(time.time()))))


def ready():
    two = pair.Pair().start()
    two.cyrus()
    two.server.add_user(*USERS, folders=["Old"])
    return two


def kill_again_and_again(pick):
    rng = random.Random(SEED)
    case.note(f"TWINSPOOL_SEED={SEED}")
    two = ready()
    work = load.Load(two.server, USERS, seed=SEED % 1000).start()
    actions = 0
    for n in range(KILLS):
        time.sleep(rng.uniform(0.1, 0.6))
        slot = pick(two, rng)
        old = slot.kill_server()
        case.wait_for(lambda: slot.server_pid() != old, "a new server")
        case.check(not work.errors, lambda: f"after kill {n + 1} of {slot.name}: "
                   f"{work.errors[:5]}\n{slot.log_tail()}")
        # The load must go on before the next one.
        case.wait_for(lambda: work.actions > actions, "the load to go on", limit=30)
        actions = work.actions
    time.sleep(0.5)
    work.stop()
    two.settle()
    work.verify(two.a.spool, two.b.spool)
    # No lookup was counted twice, no descriptor left behind.
    two.server.stop()
    for slot in two.slots:
        slot.forget(read_only=slot is two.b)
        case.wait_for(lambda: slot.known() < 20 and not slot.held(),
                      f"{slot.name} to let go of all files", limit=30, step=0.5)
    two.umount()


def test_servers_killed_on_the_active():
    kill_again_and_again(lambda two, rng: two.a)


def test_servers_killed_on_the_standby():
    kill_again_and_again(lambda two, rng: two.b)


def test_servers_killed_on_either_side():
    kill_again_and_again(lambda two, rng: rng.choice(two.slots))


def test_supervisor_and_server_killed_together():
    rng = random.Random(SEED)
    case.note(f"TWINSPOOL_SEED={SEED}")
    two = ready()
    done = []
    for n in range(DOUBLE):
        work = load.Load(two.server, USERS, seed=n + 1).start()
        time.sleep(rng.uniform(0.3, 1.2))
        slot = rng.choice(two.slots) if n else two.a
        slot.kill()
        if slot is two.a:
            two.server.stop(hard=True)
            work.stop()
            work.errors.clear()
            slot.start()
            two.server.start()
            two.mend()
        else:
            slot.start()
            time.sleep(0.3)
            work.stop()
        done.append(work)
        two.wait()
        # An earlier round's messages may have been expunged by a later one.
        for one in done[:-1]:
            one.removed |= work.removed
        for one in done:
            one.removed |= set().union(*(w.removed for w in done))
            one.verify(two.a.spool, two.b.spool)
    two.server.stop()
    two.settle()
    two.umount()


case.main()
