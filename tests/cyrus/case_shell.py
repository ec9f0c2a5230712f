#!/usr/bin/env python3
"""What an administrator sees from a shell: status, wait, dump, fsck, and .twinspool/."""
# limit: 120

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import json  # noqa: E402
import pwd  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

import mail  # noqa: E402
import metrics  # noqa: E402
import pair  # noqa: E402
import witness  # noqa: E402

here = {}


def two():
    """One pair with some mail for all the tests here."""
    if "two" not in here:
        here["two"] = made = pair.Pair().start()
        made.cyrus().add_user("alice", "bob")
        with made.server.lmtp() as c:
            for n in range(6):
                c.deliver(["alice", "bob"], mail.message(n))
        made.wait()
    return here["two"]


def as_user(user, *command):
    who = pwd.getpwnam(user)
    return subprocess.run(command, user=who.pw_uid, group=who.pw_gid, extra_groups=[],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_status():
    for slot, role in ((two().a, "active"), (two().b, "standby")):
        facts = slot.status()
        case.equal(facts["role"], role, "role")
        case.equal(len(facts["peers"]), 1, "peers")
        text = pair.ok("status", slot.mnt)
        case.check(role in text and facts["peers"][0]["name"] in text, text)
    peer = two().a.peer("b")
    case.check(peer["connected"], peer)
    case.check(peer["applied"] == peer["sent"] > 0, peer)


def test_wait_is_quick_when_all_is_there_and_fails_when_the_peer_is_gone():
    start = time.monotonic()
    pair.ok("wait", two().a.mnt)
    case.check(time.monotonic() - start < 2, "wait took long")
    two().b.kill()
    with two().server.lmtp() as c:
        c.deliver("bob", mail.message(50))
    code, text = pair.program("wait", "--timeout", "1", two().a.mnt)
    case.check(code != 0 and "b" in text, f"{code} {text}")
    two().b.start()
    two().settle()


def test_the_hidden_folder():
    for slot in two().slots:
        root = slot.mnt + "/.twinspool"
        case.check(".twinspool" not in os.listdir(slot.mnt), "it is listed")
        names = set(os.listdir(root))
        case.check({"status", "peers", "metrics", "quarantine", "mailboxes"} <= names, names)
        for name in ("status", "peers", "metrics", "quarantine"):
            text = subprocess.run(["cat", f"{root}/{name}"], check=True,
                                  stdout=subprocess.PIPE, text=True).stdout
            size = os.stat(f"{root}/{name}").st_size
            case.check(name == "quarantine" or size > 0, f"{name} is empty")
            case.check(name != "status" or slot.status()["role"] in text, text)
        case.check(as_user("nobody", "ls", root).returncode != 0, "nobody may look")
        case.equal(as_user("cyrus", "cat", root + "/status").returncode, 0, "cyrus may look")
        try:
            open(root + "/status", "w").close()
            raise case.Failed("it can be written")
        except OSError:
            pass


def test_content_is_of_the_moment():
    path = two().a.mnt + "/.twinspool/status"
    before = witness.read(path)
    with two().server.lmtp() as c:
        c.deliver("alice", mail.message(51))
    two().wait()
    case.check(witness.read(path) != before, "the first content stays for ever")


def test_metrics_are_prometheus_text():
    text = witness.read(two().a.mnt + "/.twinspool/metrics").decode()
    line = re.compile(r"# (HELP|TYPE) \w+ .+|\w+(\{[^}]*\})? [-+0-9.e]+(NaN|Inf)?")
    for one in text.splitlines():
        case.check(line.fullmatch(one), f"no Prometheus line: {one}")
    case.check("twinspool_" in text, text)
    one = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        one[name] = value

    def kind(name, rest=""):
        return int(one.get(f'twinspool_{name}{{slot="a",kind="FSYNC"{rest}}}', 0))
    # Every request that came has its place in the histogram: none is under way now.
    case.check(kind("fuse_requests_total") > 0, "no FSYNC was counted")
    case.equal(kind("fuse_request_seconds_count"), kind("fuse_requests_total"), "answers")
    case.equal(kind("fuse_request_seconds_bucket", ',le="+Inf"'),
               kind("fuse_requests_total"), "answers in the histogram")
    for name in ("messages", "message_bytes"):
        got = int(one.get('twinspool_peer_sent_%s_total{slot="a",peer="b",'
                          'message="BATCH"}' % name, 0))
        case.check(got > 0, f"no batch in peer_sent_{name}_total")
    cpu = one['twinspool_cpu_seconds_total{slot="a",mode="system"}']
    case.check(float(cpu) > 0, "no CPU time")
    bare = [m for m in one if m.startswith("twinspool_") and '{slot="a"' not in m]
    case.equal(bare, [], "metrics that two slots in one scrape would share")


def test_what_is_sent_is_counted_by_what_it_says():
    def value(text, name, label="peer", key="b"):
        return metrics.by(text, name, label).get(key, 0)

    def unsaid(text):
        """Counts are published some time behind positions, so that rows seem not to be sent."""
        return value(text, "peer_sent_seq") - value(text, "batches_sent_total", "slot", "a")

    def beats():
        return value(metrics.of(two().a.mnt), "peer_sent_messages_total", "message", "HEARTBEAT")

    def published():
        text = metrics.of(two().a.mnt)
        return text if unsaid(text) == none else None

    def now():
        two().wait()
        text = case.wait_for(published, "all counts to be published")
        return (metrics.by(text, "peer_sent_changes_total", "change"),
                metrics.by(text, "peer_sent_change_bytes_total", "change"),
                sum(metrics.by(text, "peer_wire_sent_bytes_total", "peer").values()))

    def since(before, *kinds):
        """Counts of that moment, once these kinds have moved on: they are published now and then."""
        case.wait_for(lambda: all(now()[0][k] > before[0][k] for k in kinds),
                      f"{kinds} to be counted, before: {before[0]}")
        after = now()
        return {k: after[0][k] - n for k, n in before[0].items() if after[0][k] != n}

    server = two().server
    two().wait()
    beat = beats()
    case.wait_for(lambda: beats() > beat, "a heartbeat: nothing is left to publish")
    none = unsaid(metrics.of(two().a.mnt))
    before = now()
    with server.lmtp() as c:
        c.deliver("alice", mail.message(70))
    did = since(before, "append", "body")
    case.equal((did["append"], did["body"]), (1, 1), f"a delivery: {did}")
    for kinds, act in (
            (("create",), lambda c: c.create("INBOX/Kinds")),
            (("append", "body"), lambda c: c.append("INBOX/Kinds", mail.message(71))),
            (("header",), lambda c: c.setacl("INBOX/Kinds", "bob", "lrs")),
            (("annotation",), lambda c: (c.select("INBOX/Kinds"),
                                         c.annotate("1", "/comment", "seen"))),
            (("flags",), lambda c: (c.select("INBOX/Kinds"), c.store("1", "+FLAGS", r"\Flagged"))),
            (("expunge",), lambda c: (c.select("INBOX/Kinds"),
                                      c.store("1", "+FLAGS", r"\Deleted"), c.expunge())),
            (("header", "remove"), lambda c: (c.delete("INBOX/Kinds"), server.run(
                "cyr_expire", "-E", "1", "-D", "0"))),
            (("file",), lambda c: os.mkdir(f"{two().a.mnt}/one")),
            (("rename",), lambda c: os.rename(f"{two().a.mnt}/one", f"{two().a.mnt}/two"))):
        before = now()
        with server.imap("alice") as c:
            act(c)
        did = since(before, *kinds)
        case.note(f"{kinds[0]}: {did}")
        odd = set(did) & {"create", "append", "body", "header", "annotation", "expunge", "remove", "rename"}
        case.equal(odd - set(kinds), set(), f"{kinds[0]}: {did}")
    two().settle()
    _, sent, wire = now()
    case.equal(sum(sent.values()), wire, f"all bytes that left: {sent}")
    case.check(all(sent[k] > 0 for k in ("append", "body", "flags", "expunge", "other")), sent)


def test_mailboxes():
    path = two().server.mailbox_dir("user.alice", two().a.spool)
    uniqueid = witness.Mailbox(path).header["I"].decode()
    for slot in two().slots:
        root = f"{slot.mnt}/.twinspool/mailboxes"
        case.check(uniqueid in os.listdir(root), "the mailbox is not listed")
        names = set(os.listdir(f"{root}/{uniqueid}"))
        case.check({"state", "name", "index"} <= names, names)
        case.check("alice" in witness.read(f"{root}/{uniqueid}/name").decode(), "name")
    # One that comes later is in the next listing.
    two().server.add_user("later")
    two().wait()
    path = two().server.mailbox_dir("user.later", two().a.spool)
    uniqueid = witness.Mailbox(path).header["I"].decode()
    for slot in two().slots:
        root = f"{slot.mnt}/.twinspool/mailboxes"
        case.check(uniqueid in os.listdir(root), f"not listed on {slot.name}")


def test_dump():
    path = two().server.mailbox_dir("user.alice", two().b.spool)
    box = witness.Mailbox(path)
    for name in ("cyrus.index", "cyrus.header", "cyrus.cache"):
        case.check(pair.ok("dump", f"{path}/{name}").strip(), f"no text for {name}")
    # Cyrus makes this one without need; a peer has it when there is something in it.
    active = two().server.mailbox_dir("user.alice", two().a.spool)
    pair.ok("dump", f"{active}/cyrus.annotations")
    text = pair.ok("dump", f"{path}/cyrus.index")
    for rec in box.index.records.values():
        case.check(rec["guid"].hex() in text, "a GUID is missing from the dump")
    facts = json.loads(pair.ok("dump", "--json", f"{path}/cyrus.index"))
    case.check(facts, "no JSON")


def test_dump_of_a_journal_that_is_being_written():
    def journal():
        rows = json.loads(pair.ok("dump", "--json", f"{two().a.state}/journal.db"))
        case.check(not any("damage" in row for row in rows), f"damage in {rows}")
        return rows

    two().settle()
    two().b.kill()      # what it has not confirmed is kept for it
    # What it has confirmed leaves the journal when the active side gets round to it.
    old = max([row["seq"] for row in journal()], default=0)
    with two().server.lmtp() as c:
        for n in range(60, 64):
            c.deliver("bob", mail.message(n))
    os.mkdir(f"{two().a.mnt}/shelf")

    def appended():
        rows = [row for row in journal() if row["seq"] > old]
        return len([line for row in rows for line in row["changes"]
                    if re.match(r"record uid=\d+ append", line)]) == 4 and rows
    rows = case.wait_for(appended, "the four messages in the journal")
    bob = two().server.mailbox_dir("user.bob", two().a.spool)
    case.check([row for row in rows if bob.endswith(row.get("dir", "?"))], rows)
    case.wait_for(lambda: [row for row in appended() if row.get("path") == "shelf"],
                  "the folder in the journal")
    text = pair.ok("dump", f"{two().a.state}/journal.db")
    shown = [int(n) for n in re.findall(r"^batch .* seq=(\d+)", text, re.M)]
    case.equal([n for n in shown if n > old], [row["seq"] for row in appended()],
               "batches as text")
    two().b.start()
    two().settle()


def test_fsck_names_what_is_wrong():
    two().settle()
    copy = case.folder()
    subprocess.run(["cp", "-a", two().b.spool + "/.", copy], check=True)
    pair.ok("fsck", copy)
    path = two().server.mailbox_dir("user.alice", copy)
    with open(f"{path}/2.", "r+b") as f:
        f.seek(50)
        f.write(b"#")
    os.unlink(f"{path}/3.")
    code, text = pair.program("fsck", copy)
    case.check(code != 0, "damage was not found")
    case.check("2" in text and "3" in text, text)


def test_clean_end():
    two().umount()


case.main(shared=True)
