#!/usr/bin/env python3
"""Requests by io_uring (`transport: uring`): what a mount promises by the device holds by ring,
but for the server's death. Where the kernel has no rings, the same tests show the way back to
the device."""
# limit: 600

import errno
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import exercise  # noqa: E402
import slot  # noqa: E402
import uring  # noqa: E402


def start(s, on=True):
    """Mounted; returns whether requests come by ring, as the slot itself says."""
    with uring.parameter(on) as can:
        s.start()
        by = transport(s)
    case.equal(by, "uring" if can else "dev", "transport\n" + s.tail())
    return by == "uring"


def new(on=True, **keys):
    s = slot.Slot(case.folder(), transport="uring", **keys)
    case.later(s.stop)
    return s, start(s, on)


def transport(s):
    done = subprocess.run([case.PROGRAM, "status", "--json", s.conf],
                          stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["transport"]


def metric(s, name):
    with open(os.path.join(s.mnt, ".twinspool/metrics")) as f:
        for line in f:
            if line.startswith(name + "{") or line.startswith(name + " "):
                return float(line.split()[-1])
    raise case.Failed(f"no metric {name}")


def errno_of(path):
    try:
        os.statvfs(path)
    except OSError as why:
        return why.errno
    return 0


def exercised(xattr):
    s, by_ring = new(xattr=xattr)
    case.equal(metric(s, "twinspool_uring"), float(by_ring), "the metric")
    os.chmod(s.mnt, 0o755)
    exercise.run(s.mnt, "xattr=" + xattr)
    case.equal(os.listdir(s.mnt), [], "what is left")
    case.equal(s.stop(), 0, "exit status")
    case.equal(sorted(os.listdir(s.spool)), [".twinspool"], "what is left behind")


def test_without_extended_attributes():
    exercised("no")


def test_with_extended_attributes():
    exercised("yes")


def write(s, name, text):
    with open(os.path.join(s.mnt, name), "w") as f:
        f.write(text)
        os.fsync(f.fileno())


def read(s, name):
    with open(os.path.join(s.mnt, name)) as f:
        return f.read()


def survives(s):
    """By the device nobody notices a server's death."""
    write(s, "before", "before")
    s.kill_server()
    case.equal(read(s, "before"), "before", "after the server's death")
    case.equal(transport(s), "dev", "transport of the next server")
    case.equal(s.stop(), 0, "exit status")


def test_without_the_parameter_the_device_is_used():
    s, _ = new(on=False)
    case.check("transport=dev" in s.tail(), "the log does not say so:\n" + s.tail())
    case.equal(metric(s, "twinspool_uring"), 0.0, "the metric")
    survives(s)


def test_where_io_uring_is_forbidden_the_device_is_used():
    s = slot.Slot(case.folder(), transport="uring")
    s.confine = uring.forbid
    case.later(s.stop)
    with uring.parameter(True) as can:
        s.start()
    case.check("transport=dev" in s.tail(), "the log does not say so:\n" + s.tail())
    if can:
        case.check("cannot be had" in s.tail(), s.tail())
    case.equal(metric(s, "twinspool_uring"), 0.0, "the metric")
    survives(s)


def test_the_default_is_the_device():
    s = slot.Slot(case.folder())
    case.later(s.stop)
    with uring.parameter(True):
        s.start()
    case.equal(transport(s), "dev", "transport")
    survives(s)


def ended(s, what):
    """The mount is dead and says so, and the supervisor did not call that a success."""
    case.check(s.process.wait(20) != 0, f"{what}: the end was called a success")
    case.equal(slot.mounts(s.mnt), ["fuse.twinspool"], "the dead mount")
    case.equal(errno_of(s.mnt), errno.ENOTCONN, "errno of the dead mount")


def test_a_servers_death_ends_the_mount_and_the_next_one_covers_it():
    s, by_ring = new()
    if not by_ring:
        return survives(s)
    written = {}
    for n in range(3):
        write(s, f"kept{n}", f"kept{n}")
        written[f"kept{n}"] = f"kept{n}"
        server = case.wait_for(s.servers, "a server")[0]
        busy = [subprocess.Popen(
            [os.path.join(case.BUILD, "tests/mount/churn"), s.mnt, str(n * 10 + i), "60"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(4)]
        for p in busy:
            case.later(lambda p=p: (p.poll() is None and p.kill(), p.wait()))
        asked = metric(s, "twinspool_fuse_requests_total{slot=\"a\",kind=\"LOOKUP\"}")
        case.wait_for(lambda: metric(s, "twinspool_fuse_requests_total{slot=\"a\",kind=\"LOOKUP\"}")
                      > asked + 100, "the load")
        os.kill(server, signal.SIGKILL)
        ended(s, "kill under load")
        for p in busy:
            case.check(p.wait(20) != 0, "a program on the dead mount saw no error")
        start(s)
        for name, text in written.items():
            case.equal(read(s, name), text, name)
        case.equal(slot.mounts(s.mnt), ["fuse.twinspool"], "mounts after the next start")
    case.equal(s.stop(), 0, "exit status")


def test_a_request_under_way_at_the_death_ends_with_an_error():
    s, by_ring = new()
    if not by_ring:
        return survives(s)
    server = case.wait_for(s.servers, "a server")[0]
    os.kill(server, signal.SIGSTOP)
    asks = [subprocess.Popen([sys.executable, "-c", "import os, sys\n"
                              f"try: os.statvfs({s.mnt!r})\n"
                              "except OSError as why: sys.exit(why.errno)"])
            for _ in range(8)]
    for p in asks:
        case.later(lambda p=p: (p.poll() is None and p.kill(), p.wait()))
    case.wait_for(lambda: all(waits_in_fuse(p.pid) for p in asks), "eight waiting requests")
    os.kill(server, signal.SIGKILL)
    for p in asks:
        # which one depends on how far it had come
        case.check(p.wait(20) in (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED),
                   f"a request ended with {p.returncode}")
    ended(s, "kill of a stopped server")
    start(s)
    case.equal(s.stop(), 0, "exit status of the next one")


def waits_in_fuse(pid):
    try:
        with open(f"/proc/{pid}/stack") as f:
            return "fuse_" in f.read()
    except OSError:
        return False


def test_a_fork_of_the_server_does_not_hold_the_rings():
    """A child of the server that asks the mount something waited for ever after a death: it held
    the rings by what it had inherited, these the device, and so nothing was given up."""
    s, by_ring = new()
    flags, ring = [], False
    with open(f"/proc/{case.wait_for(s.servers, 'a server')[0]}/smaps") as f:
        for line in f:
            if line.startswith("VmFlags:") and ring:
                flags.append(line.split()[1:])
            elif "-" in line.split()[0]:
                ring = "io_uring" in line
    case.equal(len(flags) > 0, by_ring, "mappings of rings")
    case.check(all("dc" in one for one in flags), "a mapping that a child inherits")
    case.equal(s.stop(), 0, "exit status")


def test_more_requests_than_threads_wait_their_turn():
    """Far more writers than ring entries, all in fsync, while others read."""
    s, by_ring = new(sync="each")
    write(s, "read", "x" * 100_000)
    script = ("import os, sys\n"
              "f = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\n"
              "for i in range(20):\n"
              " os.pwrite(f, b'%d' % i * 100, i * 100)\n"
              " os.fsync(f)\n")
    procs = [subprocess.Popen([sys.executable, "-c", script, f"{s.mnt}/w{i}"])
             for i in range(100)]
    for p in procs:
        case.later(lambda p=p: (p.poll() is None and p.kill(), p.wait()))
    while any(p.poll() is None for p in procs):
        case.equal(len(read(s, "read")), 100_000, "a file that is read meanwhile")
        time.sleep(0.01)
    for i, p in enumerate(procs):
        case.equal(p.returncode, 0, f"writer {i}")
        case.equal(os.path.getsize(os.path.join(s.spool, f"w{i}")),
                   19 * 100 + 200, f"w{i}")
    case.equal(s.stop(), 0, "exit status")


def test_it_is_not_unmounted_while_busy_and_goes_on():
    s, _ = new()
    with open(os.path.join(s.mnt, "open"), "w") as f:
        done = subprocess.run([case.PROGRAM, "umount", "--timeout", "2", s.mnt], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        case.check(done.returncode != 0, "unmounted below an open file")
        f.write("goes on")
    case.equal(read(s, "open"), "goes on", "what was written after it")
    case.equal(s.stop(), 0, "exit status")
    case.equal(open(os.path.join(s.spool, "open")).read(), "goes on", "behind the mount")


case.main()
