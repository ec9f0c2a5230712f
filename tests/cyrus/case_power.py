#!/usr/bin/env python3
"""The power of the active is cut: no index names a body that is not there, and everything
answered is there. With `sync: commit`, which puts syncs off, and with `sync: each`. And the
node that comes back as the cut left it makes a pair again, whatever its standby has by then.

TWINSPOOL_CUTS: power cuts tried for each (tests/long power runs many), and a tenth of it with a
node that comes back."""
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
import time  # noqa: E402

import imap  # noqa: E402
import lmtp  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import power  # noqa: E402
import spools  # noqa: E402
import witness  # noqa: E402

CUTS = int(os.environ.get("TWINSPOOL_CUTS", "40"))
BACK = max(CUTS // 10, 1)
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


def recorded_pair(mode, state=False):
    """A pair whose active has its spool (and state) on a recorded disk, and a Cyrus on it."""
    base = case.folder()
    disk = power.Disk(f"{base}/power")
    os.makedirs(f"{base}/pair")
    two = pair.Pair(base=f"{base}/pair", keys={"sync": mode})
    spool = f"{disk.mnt}/spool"
    shutil.move(two.a.spool, spool)
    two.a.spool = spool
    if state:
        shutil.move(two.a.state, f"{disk.mnt}/state")
        two.a.state = f"{disk.mnt}/state"
    two.a.configure(spool=spool, state=two.a.state)
    power.run("sync", "-f", disk.mnt)       # what was moved is not what is tried
    two.start()
    two.cyrus().add_user(*USERS)
    return disk, two


def record(mode, state=False, deliverers=4):
    """A load on a slot whose disk is recorded; the disk, afterwards, and the pair, stopped."""
    disk, two = recorded_pair(mode, state)
    server = two.server
    with server.imap("u0") as c:
        c.create("INBOX/Old")
    two.wait()
    disk.mark("start")
    errors = []
    threads = [threading.Thread(target=deliver, args=(server, disk, errors, 1000 * n))
               for n in range(1, 1 + deliverers)]
    threads.append(threading.Thread(target=change, args=(server, disk, errors, 9000)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    case.check(not errors, f"client errors: {errors[:5]}")
    two.settle()
    server.stop()
    if state:
        two.b.umount()
    two.close()
    disk.close()
    return disk, two


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


def judge(disk, _):
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
    judge(*record("commit"))


def test_each_sync_as_it_comes():
    judge(*record("each"))


# ---- the node comes back ----

def told(cut):
    return [(who, int(n)) for who, n in (m.split() for m in cut.marks if m != "start")]


def held_by(spool):
    held = {}
    for where in spools.mailboxes(spool):
        try:
            _, found, _ = bodies(f"{spool}/{where}")
        except (witness.Bad, OSError, ValueError):
            continue        # set aside, and looked for there
        held.setdefault(user_of(f"{spool}/{where}"), set()).update(found)
    return held


def holds_more(a, b, where):
    """Why the standby's mailbox is rightly set aside, or None."""
    try:
        x, y = (witness.Index(witness.read(f"{root}/{where}/cyrus.index"), broken=True)
                for root in (a.spool, b.spool))
    except OSError:
        return "one side lacks it"
    if x.broken:
        return "half written"
    for uid, rec in y.records.items():
        mine = x.records.get(uid)
        if mine is None or mine["guid"] != rec["guid"] or mine["modseq"] < rec["modseq"]:
            return f"uid {uid}"
    return "header" if y.header["highestmodseq"] > x.header["highestmodseq"] else None


def aside(slot):
    facts = slot.status()
    case.equal(len(facts["quarantine"]), facts["quarantined"], f"{slot.name}'s list")
    for q in facts["quarantine"]:
        case.check(q["mailbox"] and q["check"] and q["text"], f"no reason: {q}")
    return {q["mailbox"].lstrip("/"): q["check"] for q in facts["quarantine"]}


def is_below(path, folders):
    return any(path == f or path.startswith(f + "/") for f in folders)


def catch_up(two, cut, ahead):
    """The pair, with the active as the cut left it. Returns how many mailboxes are aside."""
    two.b.start()
    two.a.start(limit=60)
    pair.wait_connected(two.a)
    case.wait_for(lambda: two.a.peer()["state"] == "streaming", "the comparison", 60)
    two.a.wait()
    left = {}

    def unexplained():
        for slot in two.slots:
            left[slot.name] = aside(slot)
        return [line for line in spools.compare(two.a.spool, two.b.spool)
                if not is_below(line.split(": ")[0], [*left["a"], *left["b"]])]
    # What the active side says of a mailbox is no row, so nobody has waited for it yet.
    end = time.monotonic() + 10
    while (wrong := unexplained()) and time.monotonic() < end:
        time.sleep(0.05)
    case.check(not wrong, lambda: f"{cut}: unequal and not aside\n" + spools.listed(wrong))
    for where, check in left["b"].items():
        if where not in left["a"]:
            case.check(ahead and check in ("has-more", "unknown-here"),
                       f"{cut}: {where} aside without a reason: {check}")
            case.check(not os.path.exists(f"{two.b.spool}/{where}/cyrus.index")
                       or holds_more(two.a, two.b, where), f"{cut}: {where} holds no more")
    held = {slot.name: held_by(slot.spool) for slot in two.slots}
    damaged = {user_of(f"{two.a.spool}/{where}") for where in left["a"]
               if os.path.exists(f"{two.a.spool}/{where}/cyrus.header")}
    for who, n in told(cut):
        for slot in two.slots:
            if slot is two.b and ahead or who not in damaged:
                case.check(n in held[slot.name].get(who, ()),
                           f"{cut}: {slot.name} lacks {n} of {who}")
    return len(left["a"]) + len(left["b"])


def test_the_pair_comes_back():
    """Spool and state are of the same cut; the standby is as it was when the load had ended,
    ahead of that, or begins with nothing."""
    disk, two = record("commit", state=True, deliverers=2)
    keep = f"{two.base}/kept"
    power.run("cp", "-a", two.b.base, keep)
    asides = 0
    for n, cut in enumerate(disk.cuts(BACK)):
        with cut.mounted() as root:
            for slot in two.slots:
                slot.proc = None
            two.a.spool, two.a.state = f"{root}/spool", f"{root}/state"
            two.a.configure(spool=two.a.spool, state=two.a.state)
            for what in (two.b.spool, two.b.state):
                shutil.rmtree(what)
            power.run("cp", "-a", f"{keep}/spool", two.b.spool)
            power.run("cp", "-a", f"{keep}/state", two.b.state)
            if n % 2:
                for name in os.listdir(two.b.spool):
                    power.run("rm", "-r", f"{two.b.spool}/{name}")
                for name in os.listdir(two.b.state):
                    if not name.endswith(".pem"):
                        power.run("rm", "-r", f"{two.b.state}/{name}")
            try:
                asides += catch_up(two, cut, ahead=n % 2 == 0)
            except case.Failed:
                two.tell()
                raise
            finally:
                for slot in two.slots:
                    slot.kill()
                    slot.close()
    case.note(f"{asides} mailboxes set aside in {BACK} cuts")
    case.check(asides > 0, "no cut lost what the standby has")


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
