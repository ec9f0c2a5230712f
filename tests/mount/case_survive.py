#!/usr/bin/env python3
"""The server process is killed again and again, and programs on the mount notice nothing.

TWINSPOOL_SURVIVE_SECONDS (20) is how long each run takes, TWINSPOOL_FILES (40000) how many
files the big find looks at: a million takes some minutes.
"""
# limit: 1800

import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import slot  # noqa: E402

SECONDS = int(os.environ.get("TWINSPOOL_SURVIVE_SECONDS", "20"))
FILES = int(os.environ.get("TWINSPOOL_FILES", "40000"))
SEED = int(os.environ.get("T_SEED", str(random.randrange(1 << 30))))


def mounted(**keys):
    s = slot.Slot(case.folder(), **keys)
    case.later(s.stop)
    return s.start()


def churners(s, n, *options):
    started = []
    for i in range(n):
        folder = os.path.join(s.mnt, f"c{i}")
        os.mkdir(folder)
        p = subprocess.Popen(
            [os.path.join(case.BUILD, "tests/mount/churn"), folder, str(SEED + i),
             str(SECONDS), *options], stdout=subprocess.PIPE, text=True)
        case.later(lambda p=p: (p.poll() is None and p.kill(), p.wait()))
        started.append(p)
    return started


def kill_while(s, running, pause):
    """SIGKILL at random moments until running() is false; the number of kills. Every other time
    the server has served before: on a busy machine none else would ever come to it."""
    rng = random.Random(SEED)
    kills = 0
    while running():
        if rng.random() < 0.5:
            os.statvfs(s.mnt)
        time.sleep(rng.uniform(*pause))
        for pid in s.servers():
            try:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
    return kills


def survive(xattr):
    case.note(f"T_SEED={SEED}")
    s = mounted(xattr=xattr)
    procs = churners(s, 3, "xattr=" + xattr)
    kills = kill_while(s, lambda: any(p.poll() is None for p in procs), (0.02, 0.5))
    said = [p.communicate(timeout=60)[0].strip() for p in procs]
    case.note(f"{kills} kills, " + ", ".join(said))
    for p, text in zip(procs, said):
        case.equal(p.returncode, 0, text)
    case.check(kills >= SECONDS, f"only {kills} kills")
    for i in range(len(procs)):
        case.equal(os.listdir(os.path.join(s.mnt, f"c{i}")), [], "what is left")
        os.rmdir(os.path.join(s.mnt, f"c{i}"))
    case.equal(s.stop(), 0, "exit status")
    case.equal(sorted(os.listdir(s.spool)), [".twinspool"], "what is left behind")


def test_kills_under_all_kinds_of_operations():
    survive("no")


def test_kills_with_extended_attributes():
    survive("yes")


def test_a_copied_tree_is_whole():
    """tar and rm, programs that stop at the first error, over and over."""
    s = mounted()
    source = case.folder()
    rng = random.Random(SEED)
    for i in range(400):
        os.makedirs(f"{source}/d{i % 20}/e{i % 3}", exist_ok=True)
        with open(f"{source}/d{i % 20}/e{i % 3}/f{i}", "wb") as f:
            f.write(rng.randbytes(rng.randrange(30000)))
    script = (f"end=$(($(date +%s) + {SECONDS // 2})); n=0; "
              f"while [ $(date +%s) -lt $end ]; do cp -a {source} {s.mnt}/t && "
              f"diff -r {source} {s.mnt}/t && tar -C {s.mnt} -cf {s.mnt}/t.tar t && "
              f"tar -df {s.mnt}/t.tar -C {s.mnt} && "
              f"rm -r {s.mnt}/t {s.mnt}/t.tar || exit 1; "
              "n=$((n + 1)); done; echo $n rounds")
    p = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    case.later(lambda: (p.poll() is None and p.kill(), p.wait()))
    kills = kill_while(s, lambda: p.poll() is None, (0.02, 0.4))
    said = p.communicate()[0]
    case.equal(p.returncode, 0, said)
    case.note(f"{kills} kills, {said}")


def status(pid, key):
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1])
    raise case.Failed(f"no {key}")


def test_a_stop_asked_for_at_a_death_is_not_lost():
    for _ in range(8):
        s = mounted()
        s.kill_server(wait=False)
        case.equal(s.stop(), 0, "exit status")


def most_descriptors(pid, running):
    """While running() is true."""
    most = 0
    while running():
        most = max(most, len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.02)
    return most


def test_a_find_over_many_files_is_bounded():
    """What is measured is the second half: the first pays for fixed tables too."""
    s = slot.Slot(case.folder())
    per = 500
    for i in range(FILES // per):
        # below stage., so that replication has nothing to adopt
        os.makedirs(f"{s.spool}/stage./d{i % 2}/e{i}")
        for k in range(per):
            with open(f"{s.spool}/stage./d{i % 2}/e{i}/{k}.", "xb", 0) as f:
                f.write(b"hello\n")
    case.later(s.stop)
    s.start()
    server = case.wait_for(s.servers, "a server")[0]
    start = time.monotonic()
    sizes = []
    for half in range(2):
        out = subprocess.run(["find", f"{s.mnt}/stage./d{half}", "-type", "f", "-size", "-6k",
                              "-newermt", "2000-01-01", "-printf", "x"],
                             stdout=subprocess.PIPE, check=True).stdout
        case.equal(len(out), len(os.listdir(f"{s.spool}/stage./d{half}")) * per, "files found")
        sizes.append(status(server, "VmRSS"))
    spent = time.monotonic() - start
    grown = (sizes[1] - sizes[0]) * 1024 / (FILES / 2)
    fds = len(os.listdir(f"/proc/{server}/fd"))
    case.note(f"{FILES} files in {spent:.1f} s, {grown:.0f} bytes each, {fds} descriptors")
    # a sanitizer's own memory grows with every address that is touched
    if "TWINSPOOL_SLOW" not in os.environ:
        case.check(grown < 200, f"{grown:.0f} bytes for each file")
    case.check(fds < 5000, f"{fds} descriptors")
    # and one that reads them all
    grep = subprocess.Popen(["grep", "-rl", "hello", f"{s.mnt}/stage."], text=True,
                            stdout=subprocess.PIPE)
    found = []
    reader = threading.Thread(target=lambda: found.extend(grep.stdout))
    reader.start()
    fds = most_descriptors(server, reader.is_alive)
    grep.wait()
    grown = status(server, "VmRSS") - sizes[1]
    case.equal(len(found), FILES // per * per, "files that grep found")
    case.note(f"grep -r: {fds} descriptors, {grown} KB more")
    case.check(fds < 5000, f"{fds} descriptors")
    case.check(grown < 16 * 1024 + FILES * 16 // 1024, f"{grown} KB more")
    # and a server that takes over such a table serves at once
    start = time.monotonic()
    s.kill_server()
    os.stat(f"{s.mnt}/stage./d0/e0/0.")
    with open(f"{s.mnt}/stage./d0/e0/new", "w") as f:
        f.write("x")
    case.note(f"takeover in {time.monotonic() - start:.2f} s")
    case.equal(len(os.listdir(f"{s.mnt}/stage./d0/e0")), per + 1, "entries")


case.main()
