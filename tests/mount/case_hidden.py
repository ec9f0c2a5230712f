#!/usr/bin/env python3
"""The hidden folder .twinspool/: there for who knows it, fresh each time, closed to others."""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import slot  # noqa: E402

OWNER, OTHER = 54001, 54002


def sh(line, user=None):
    return subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, user=user,
                          group=user, extra_groups=[] if user else None)


def mounted(**keys):
    s = slot.Slot(case.folder(), **keys)
    os.chown(s.spool, OWNER, OWNER)
    case.later(s.stop)
    s.start()
    s.own = os.path.join(s.mnt, ".twinspool")
    return s


def counted(s, kind):
    with open(f"{s.own}/metrics") as f:
        found = re.search(r'^twinspool_fuse_requests_total\{slot="a",kind="%s"\} (\d+)$' % kind,
                          f.read(), re.M)
    return int(found[1]) if found else 0


def test_not_listed_but_there():
    s = mounted()
    open(f"{s.mnt}/file", "w").close()
    case.equal(os.listdir(s.mnt), ["file"], "the root")
    case.equal(sh(f"find {s.mnt} | wc -l").stdout.strip(), "2", "find")
    case.equal(sh(f"ls -a {s.mnt}").stdout.split(), [".", "..", "file"], "ls -a")
    st = os.stat(s.own)
    case.equal((st.st_mode, st.st_uid), (0o40700, OWNER), "mode and owner")
    names = os.listdir(s.own)
    for name in ("status", "peers", "metrics", "quarantine", "mailboxes"):
        case.check(name in names, f"{name} is missing in {names}")
        case.check(os.path.exists(f"{s.own}/{name}"), name)
    case.check(not os.path.exists(f"{s.own}/id"), "the backing folder shows")
    case.check(not os.path.exists(f"{s.own}/none"), "a file that is not there")


def test_only_root_and_the_owner_may_look():
    s = mounted()
    case.equal(sh(f"cat {s.own}/status >/dev/null").returncode, 0, "root")
    # The folders above the mount are open to all.
    case.equal(sh(f"cat {s.own}/status >/dev/null", OWNER).returncode, 0, "owner")
    for command in (f"ls {s.own}", f"cat {s.own}/status"):
        case.check(sh(command, OTHER).returncode != 0, command)


def test_fresh_at_each_look_and_whole():
    s = mounted()
    sizes = set()
    for i in range(30):
        with open(f"{s.mnt}/f{i}", "w") as f:
            f.write("x")
        before = counted(s, "CREATE")
        case.equal(before, i + 1, "CREATE requests in the metrics")
        # by cat, which asks the size first, and by cp, which trusts it
        text = sh(f"cat {s.own}/metrics").stdout
        sizes.add(len(text))
        case.check(text.endswith("\n"), "cut short")
        sh(f"cp {s.own}/metrics {s.folder}/copy")
        with open(f"{s.folder}/copy") as f:
            case.check(f.read().endswith("\n"), "copied short")
    # what is open stays as it was
    with open(f"{s.own}/metrics") as old:
        first = old.read()
        open(f"{s.mnt}/g", "w").close()
        case.equal(counted(s, "CREATE"), 31, "CREATE")
        old.seek(0)
        case.equal(old.read(), first, "an open file")


def test_bytes_and_syncs_are_counted():
    s = mounted()

    def count(name):
        with open(f"{s.own}/metrics") as f:
            return int(re.search(rf"^twinspool_{name}_total\S* (\d+)$", f.read(), re.M)[1])

    with open(f"{s.mnt}/f", "wb", buffering=0) as f:
        written, before = count("written_bytes"), s.syncs()
        f.write(b"x" * 5000)
        for _ in range(3):
            os.fsync(f.fileno())
    case.equal(count("written_bytes") - written, 5000, "bytes written")
    after = s.syncs()
    case.equal({kind: after[kind] - before[kind] for kind in ("file", "index", "spool")},
               {"file": 3, "index": 0, "spool": 0}, "syncs of the spool")


def test_nothing_can_be_changed():
    for xattr in ("no", "yes"):
        s = mounted(xattr=xattr)
        for command in (f"touch {s.own}/new", f"mkdir {s.own}/new", f"rm {s.own}/status",
                        f"rmdir {s.own}", f"rm -r {s.own}", f"mv {s.own} {s.mnt}/x",
                        f"mv {s.own}/status {s.mnt}/x", f"ln {s.own}/status {s.mnt}/x",
                        f"echo x >{s.own}/status", f"echo x >>{s.own}/status",
                        f"chmod 777 {s.own}/status", f"chown 0 {s.own}",
                        f"mkdir {s.mnt}/.twinspool", f"touch {s.mnt}/y; "
                        f"mv -T {s.mnt}/y {s.own}"):
            done = sh(command)
            case.check(done.returncode != 0, f"{command} was allowed")
            case.check("Stale" not in done.stdout, f"{command}: {done.stdout}")
        case.check(os.path.exists(f"{s.own}/status"), "gone")
        case.equal(sh(f"ls -lR {s.own} && grep -q twinspool {s.own}/metrics && "
                      f"cp -a {s.own}/status {s.folder}/st").stdout.count("denied"), 0,
                   "ls and grep")
        case.equal(s.stop(), 0, "exit status")


def test_many_looks_leave_nothing_behind():
    s = mounted()
    for _ in range(6000):  # more than nodes are allowed at once
        open(f"{s.own}/status").close()
    with open(f"{s.own}/status") as f:
        case.check(f.read(), "nothing to read any more")


def test_after_the_death_of_the_server():
    s = mounted()
    here = os.open(s.own, os.O_RDONLY)
    for _ in range(5):
        open(f"{s.mnt}/x", "a").close()
        count = counted(s, "CREATE")
        s.kill_server()
        case.check("status" in os.listdir(here), "an open folder")
        with open(f"{s.own}/status") as f:
            case.check(f.read(), "status")
        case.equal(counted(s, "CREATE"), count, "counters begin again")
    with open(f"{s.own}/metrics") as f:
        case.check('twinspool_server_starts_total{slot="a"} 6\n' in f.read(), "starts")
    os.close(here)


def golden_mailbox(s, path):
    """A mailbox that a real Cyrus wrote, put into the backing tree before the start."""
    source = os.path.join(case.ROOT, "tests/golden/v17")
    case.check(os.path.isdir(source), "no golden mailbox")
    shutil.copytree(source, os.path.join(s.spool, path))
    header = subprocess.run([case.PROGRAM, "dump", os.path.join(source, "cyrus.header")],
                            stdout=subprocess.PIPE, text=True, check=True).stdout
    return (re.search('uniqueid: "(.*)"', header)[1], re.search('name: "(.*)"', header)[1])


def test_a_mailbox_by_its_id():
    s = slot.Slot(case.folder())
    ident, name = golden_mailbox(s, "user/golden")
    case.later(s.stop)
    s.start()
    boxes = f"{s.mnt}/.twinspool/mailboxes"
    case.wait_for(lambda: os.listdir(boxes), "a mailbox")
    case.equal(os.listdir(boxes), [ident], "mailboxes")
    case.equal(sorted(os.listdir(f"{boxes}/{ident}")), ["index", "name", "state"], "files")
    with open(f"{boxes}/{ident}/name") as f:
        case.equal(f.read(), name + "\n", "name")
    with open(f"{boxes}/{ident}/state") as f:
        text = f.read()
    for word in ('dir: "user/golden"', "sum: ", "uidvalidity: "):
        case.check(word in text, text)
    index = f"{s.spool}/user/golden/cyrus.index"
    with open(f"{boxes}/{ident}/index") as f:
        case.equal(f.read(), sh(f"{case.PROGRAM} dump {index}").stdout, "index")
    case.check(not os.path.exists(f"{boxes}/none"), "an id that is not there")
    case.check(not os.path.exists(f"{boxes}/{ident}/none"), "a file that is not there")
    # a shell that stands in it stays there, also over a death of the server
    here = os.open(f"{boxes}/{ident}", os.O_RDONLY)
    case.check("state" in os.listdir(here), "by descriptor")
    s.kill_server()
    case.wait_for(lambda: os.listdir(boxes) == [ident], "the mailbox after a death")
    with open(f"{boxes}/{ident}/name") as f:
        case.equal(f.read(), name + "\n", "name after a death")
    os.close(here)


case.main()
