#!/usr/bin/env python3
"""The server dies at each named point of a request, again and again, under programs that know
what they must see. Needs a build with the points in it, which is made here."""
# limit: 600

import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import faults  # noqa: E402
import slot  # noqa: E402

SECONDS = int(os.environ.get("TWINSPOOL_POINT_SECONDS", "2"))

# Where, and at which time that a server comes by there. A number that every redone request
# reaches alone would be a poisoned request, which is another test.
POINTS = {
    "slot.begun": 37, "slot.before-send": 41, "slot.after-send": 43, "inode.redo": 211,
    "make.noted": 5, "make.done": 5, "link.noted": 3, "link.done": 3,
    "remove.noted": 5, "remove.done": 5, "rename.noted": 5, "rename.done": 5,
    "write.begun": 9, "write.done": 9,
}


def mounted(point, nth):
    os.environ["TWINSPOOL_FAULT"] = f"{point}:{nth}"
    s = slot.Slot(case.folder(), xattr="yes")
    case.later(s.stop)
    return s.start()


def deaths(s):
    with open(os.path.join(s.folder, "log"), errors="replace") as f:
        return sum("the server died" in line for line in f)


def die_at(point, nth):
    s = mounted(point, nth)
    procs = []
    for i in range(2):
        folder = os.path.join(s.mnt, f"c{i}")
        os.mkdir(folder)
        procs.append(subprocess.Popen(
            [os.path.join(case.BUILD, "tests/mount/churn"), folder, str(7 + i),
             str(SECONDS), "xattr=yes"], stdout=subprocess.PIPE, text=True))
    said = [p.communicate(timeout=120)[0].strip() for p in procs]
    case.note(f"{point}: {deaths(s)} deaths, " + ", ".join(said))
    for p, text in zip(procs, said):
        case.equal(p.returncode, 0, f"{point}: {text}")
    case.check(deaths(s) >= 3, f"{point}: only {deaths(s)} deaths")
    case.equal(s.stop(), 0, "exit status")


def test_a_death_at_each_point():
    case.PROGRAM = faults.build()
    for point, nth in POINTS.items():
        die_at(point, nth)


def test_a_poisoned_request_is_refused():
    """A request that kills each server that tries it gets EIO; the rest goes on."""
    s = mounted("write.begun", 1)
    start = time.monotonic()
    try:
        with open(os.path.join(s.mnt, "poison"), "wb", buffering=0) as f:
            f.write(b"x")
        raise case.Failed("the write came back without an error")
    except OSError as why:
        case.equal(why.errno, 5, "errno")
    case.note(f"refused after {deaths(s)} deaths, {time.monotonic() - start:.1f} s")
    case.equal(os.listdir(s.mnt), ["poison"], "the folder afterwards")
    case.equal(os.stat(os.path.join(s.mnt, "poison")).st_size, 0, "size")
    case.check("is refused" in s.tail(200), "the request is not named in the log")
    case.equal(s.stop(), 0, "exit status")


def redone(s):
    with open(os.path.join(s.mnt, ".twinspool/metrics")) as f:
        return next(int(line.split()[-1]) for line in f
                    if line.startswith("twinspool_requests_redone_total{"))


def has_taken_over(s, pid):
    with open(os.path.join(s.folder, "log"), errors="replace") as f:
        return any(f"[{pid}]" in line and "journal run opened" in line for line in f)


def test_deaths_before_serving_are_not_the_requests_fault():
    """More servers die while they start than a request may kill; what they had taken over
    without coming to it is carried out by the first that lives."""
    case.PROGRAM = faults.build()
    os.environ["TWINSPOOL_FAULT"] = "serve.started~400"  # waits there
    s = slot.Slot(case.folder(), xattr="yes")
    case.later(s.stop)
    s.start()
    procs = []
    for i in range(3):
        folder = os.path.join(s.mnt, f"c{i}")
        os.mkdir(folder)
        procs.append(subprocess.Popen(
            [os.path.join(case.BUILD, "tests/mount/churn"), folder, str(7 + i), "20",
             "xattr=yes"], stdout=subprocess.PIPE, text=True))
        case.later(lambda p=procs[-1]: (p.poll() is None and p.kill(), p.wait()))
    before = redone(s)
    for _ in range(2):
        s.kill_server()
        for _ in range(35):
            pid = case.wait_for(s.servers, "a server process")[0]
            case.wait_for(lambda: has_taken_over(s, pid), "a server that has taken over")
            s.kill_server()
        os.statvfs(s.mnt)
    said = [p.communicate(timeout=120)[0].strip() for p in procs]
    for p, text in zip(procs, said):
        case.equal(p.returncode, 0, text)
    case.check(redone(s) > before, "nothing was in flight")
    case.check("is refused" not in s.tail(100_000), "a request was refused")
    case.equal(s.stop(), 0, "exit status")


case.main()
