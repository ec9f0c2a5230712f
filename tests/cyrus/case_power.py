#!/usr/bin/env python3
"""The power of the active is cut: no index names a body that is not there, and everything
answered is there. With `sync: commit`, which puts syncs off, and with `sync: each`.

TWINSPOOL_CUTS: power cuts tried for each (tests/long power runs many)."""
# limit: 400

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import hashlib  # noqa: E402
import random  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import threading  # noqa: E402

import cyrus  # noqa: E402
import imap  # noqa: E402
import lmtp  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import power  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

CUTS = int(os.environ.get("TWINSPOOL_CUTS", "40"))
NUMBER = re.compile(rb"^Message-ID: <m(\d+)\.", re.M | re.I)
USERS = [f"u{n}" for n in range(6)]


def deliver(server, disk, errors, first):
    rng = random.Random(first)
    try:
        with lmtp.Lmtp(server.lmtp_port) as c:
            for n in range(first, first + 40):
                to = rng.sample(USERS, rng.choice((1, 1, 1, 2, 3)))
                answers = c.send(to, mail.message(n, rng.randrange(400, 30000)))
                for who, (code, why) in answers.items():
                    if code == 250:
                        disk.mark(f"{who} {n}")
                    else:
                        errors.append(f"{who} {n}: {code} {why}")
    except Exception as why:
        errors.append(f"deliver: {why!r}")


def change(server, disk, errors, first):
    """APPEND, COPY and flags; nothing is removed, so that what is marked must be there."""
    try:
        with imap.Imap(server.imap_port, "u0") as c:
            for n in range(first, first + 30):
                c.append("INBOX", mail.message(n, 5000))
                disk.mark(f"u0 {n}")
                c.select("INBOX")
                uids = c.search()
                c.store(str(uids[-1]), "+FLAGS", "\\Flagged")
                c.copy(str(uids[len(uids) // 2]), "INBOX/Old")
    except Exception as why:
        errors.append(f"change: {why!r}")


def recorded_pair(mode):
    """A pair whose active has its spool on a recorded disk, and a Cyrus on it."""
    base = case.folder()
    disk = power.Disk(f"{base}/power")
    os.makedirs(f"{base}/pair")
    two = pair.Pair(base=f"{base}/pair", keys={"sync": mode})
    spool = f"{disk.mnt}/spool"
    shutil.move(two.a.spool, spool)
    two.a.spool = spool
    two.a.configure(spool=spool)
    two.start()
    two.cyrus().add_user(*USERS)
    return disk, two


def record(mode):
    """A load on a slot whose disk is recorded; the disk, afterwards."""
    disk, two = recorded_pair(mode)
    server = two.server
    with server.imap("u0") as c:
        c.create("INBOX/Old")
    two.wait()
    disk.mark("start")
    errors = []
    threads = [threading.Thread(target=deliver, args=(server, disk, errors, 1000 * n))
               for n in range(1, 5)]
    threads.append(threading.Thread(target=change, args=(server, disk, errors, 9000)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    case.check(not errors, f"client errors: {errors[:5]}")
    two.settle()
    server.stop()
    two.close()
    disk.close()
    return disk


def bodies(folder):
    """Faults of one mailbox, the numbers of its messages, and how many records are half written
    (their CRC says so): Cyrus itself writes records and header without a sync in between."""
    box = witness.Index(witness.read(f"{folder}/cyrus.index"), broken=True)
    faults, found = [], set()
    for rec in box.records.values():
        if rec["flags"] & witness.UNLINKED:
            continue
        path = f"{folder}/{rec['uid']}."
        try:
            data = witness.read(path)
        except OSError as why:
            faults.append(f"{path}: {why.strerror}")
            continue
        if hashlib.sha1(data).digest() != rec["guid"]:
            faults.append(f"{path}: {len(data)} bytes of {rec['size']}, not what was delivered")
        number = NUMBER.search(data[:4096])
        if number:
            found.add(int(number.group(1)))
    return faults, found, box.broken


def user_of(folder):
    name = (witness.parse_header(witness.read(f"{folder}/cyrus.header"))["N"] or b"").decode()
    return name.split(".")[1]


def judge(disk):
    faults, answered, torn = [], 0, 0
    for cut in disk.cuts(CUTS):
        with cut.mounted() as root:
            held, half = {}, set()
            for where in spools.mailboxes(f"{root}/spool"):
                bad, found, broken = bodies(f"{root}/spool/{where}")
                faults += [f"{cut}: {line}" for line in bad]
                user = user_of(f"{root}/spool/{where}")
                held.setdefault(user, set()).update(found)
                if broken:
                    half.add(user)
            told = [m.split() for m in cut.marks if m != "start"]
            faults += [f"{cut}: {who} lacks {n}" for who, n in told
                       if int(n) not in held.get(who, ()) and who not in half]
            answered += len(told)
            torn += len(half)
    case.check(answered > 0, "no cut fell behind an answer")
    case.note(f"{answered} answered messages looked for; {torn} mailboxes with a record "
              f"half written")
    case.check(not faults, lambda: f"{len(faults)} faults\n" + spools.listed(faults, 20))


def test_syncs_put_off():
    judge(record("commit"))


def test_each_sync_as_it_comes():
    judge(record("each"))


def failing_disk(mode):
    disk, two = recorded_pair(mode)
    told = []
    with two.server.lmtp() as c:
        for n in range(1, 31):
            c.deliver(USERS[n % 6], mail.message(n, 8000))
            told.append((USERS[n % 6], n))
    disk.mark("broken")
    disk.fail()
    taken = []
    for n in range(31, 43):
        try:
            with two.server.lmtp() as c:
                c.deliver(USERS[n % 6], mail.message(n, 8000))
            taken.append(n)
        except (lmtp.Error, OSError):
            pass
    case.equal(taken, [], "messages accepted by a disk that keeps nothing")
    log = two.a.log()
    two.server.stop()
    two.close()
    disk.close()
    with disk.last().mounted() as root:
        held = {}
        for where in spools.mailboxes(f"{root}/spool"):
            bad, found, _ = bodies(f"{root}/spool/{where}")
            case.check(not bad, lambda: "\n".join(bad))
            held.setdefault(user_of(f"{root}/spool/{where}"), set()).update(found)
        lost = [(who, n) for who, n in told if n not in held.get(who, ())]
        case.equal(lost, [], "answered messages that are not on the disk")
    return log


def test_a_disk_that_fails_is_no_answer():
    log = failing_disk("commit")
    case.check("did not keep what was written" in log, f"nothing of it in the log:\n{log}")


def test_a_disk_that_fails_is_no_answer_with_each_sync():
    failing_disk("each")


case.main()
