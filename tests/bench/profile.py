"""Where one operation spends: each FUSE request with the system call of Cyrus that led to it,
each sync with the file, and the functions that take the processor time.

Requests come from the kernel's trace points; what the process was doing at that moment, from
strace beside it. Both read the monotonic clock of the machine.
"""

import bisect
import collections
import os
import re
import signal
import subprocess
import time

import case
import contain
import count
import names


def syncs(events, disks):
    """Counter of (process, disk, what)."""
    known = names.Names(disks)
    found = collections.Counter()
    for who, event, text in events:
        if event == "fuse_request_send":
            continue
        d, what = known.synced(text)
        node = os.path.basename(d.where).rpartition("-")[2]
        found[who, node, what if event == "ext4_sync_fs" else (
            ("fdatasync " if "datasync 1" in text else "fsync ") + what)] += 1
    return found


class Strace:
    """What processes call, with paths. Descriptors are followed here: strace -y would ask the
    file system for their names, which is what we count."""

    LINE = re.compile(r"(\d+)\s+(\d+\.\d+) (\w+)\((.*)")
    RESUMED = re.compile(r"(\d+)\s+\d+\.\d+ <\.\.\. (\w+) resumed>.*= (-?\d+)")

    def __init__(self, pids, path):
        self.path = path
        args = ["strace", "-f", "-ttt", "-o", path]
        for pid in pids:
            args += ["-p", str(pid)]
        self.proc = subprocess.Popen(args, stdin=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
        time.sleep(1)

    def calls(self):
        """pid -> list of (time, call, paths), by time."""
        self.proc.send_signal(signal.SIGINT)
        self.proc.wait(20)
        found = collections.defaultdict(list)
        files, begun = collections.defaultdict(dict), {}
        with open(self.path, errors="replace") as f:
            for line in f:
                m = self.RESUMED.match(line)
                if m and begun.get(m[1]) and m[2] == "openat":
                    files[m[1]][m[3]] = begun[m[1]]
                m = self.LINE.match(line)
                if not m:
                    continue
                pid, when, call, args = m.groups()
                paths = re.findall(r'"(/[^"]*)"', args)
                fd = re.match(r"\d+", args)
                if call == "mmap":
                    fd = re.search(r"(?<=, )\d+(?=, \d+\) )", args)
                if not paths and fd and fd[0] in files[pid]:
                    paths = [files[pid][fd[0]]]
                if call == "openat" and paths:
                    begun[pid] = paths[0]
                    result = re.search(r"= (\d+)$", line.rstrip())
                    if result:
                        files[pid][result[1]] = paths[0]
                found[int(pid)].append((float(when), call, paths))
        return found


def requests(system, run, count_ops):
    """Counter of (kind of request, system call, kind of file)."""
    # The master too: what it starts meanwhile is followed.
    master = system.server.proc.pid
    pids = [master] + contain.descendants(master)
    trace = count.Trace(f"bench-origin-{os.getpid()}")
    if "fuse/fuse_request_send" not in trace.available or not case.shutil.which("strace"):
        return None
    try:
        offset = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(
            time.CLOCK_MONOTONIC)
        tracer = Strace(pids, f"{system.folder}/strace")
        trace.start(system)
        run(count_ops)
        time.sleep(0.2)
        events = trace.timed()
    finally:
        trace.close()
    calls = tracer.calls()
    found = collections.Counter()
    for comm, pid, when, text in events:
        kind = re.search(r"\(FUSE_(\w+)\)", text)[1]
        mine = calls.get(pid)
        if not mine:
            found[kind, f"({comm})", ""] += 1
            continue
        i = bisect.bisect([c[0] for c in mine], when + offset + 5e-6) - 1
        call, paths = mine[i][1:] if i >= 0 else ("?", [])
        paths = [p for p in paths if p.startswith(system.spool)]
        found[kind, call, " -> ".join(names.kind_of(p) for p in paths[:2])] += 1
    return found


def functions(pids, run, count_ops, folder, top=40):
    """Lines of perf: share, library, then share, library, function."""
    data = f"{folder}/perf.data"
    proc = subprocess.Popen(
        ["perf", "record", "-q", "-e", "cpu-clock", "-F", "5000", "-o", data, "-p",
         ",".join(map(str, pids))], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    for _ in range(3):
        run(count_ops)
    proc.send_signal(signal.SIGINT)
    proc.wait(30)
    lines = []
    for sort, most in (("dso", 10), ("dso,symbol", top)):
        text = subprocess.run(
            ["perf", "report", "-i", data, "--stdio", "--sort", sort, "-g", "none"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL).stdout.decode(errors="replace")
        lines += [re.sub(r"\s+-\s+-$", "", line.rstrip()) for line in text.splitlines()
                  if line.strip() and not line.startswith("#")][:most]
    os.unlink(data)
    return lines


def show(work, system, trace, ops, say):
    """Prints all of it for one workload on one system."""
    def run(n):
        work.run(system, n, lambda: None)
        system.drain()
    work.prepare(system)
    run(ops)
    run(ops)
    say(f"\n{work.title} on {system.title}")
    found = requests(system, run, ops) if system.connection() is not None else None
    if found:
        say(f"FUSE requests of an operation: {sum(found.values()) / ops:.2f}")
        for (kind, call, what), n in found.most_common():
            if n >= ops / 50:
                say(f"  {n / ops:6.2f}  {kind:12} {call:18} {what}")
    trace.start(system)
    run(ops)
    events = trace.stop()
    if events:
        say("syncs of an operation, by process, node and file")
        for (who, node, what), n in syncs(events, system.disks).most_common():
            if n >= ops / 100:
                say(f"  {n / ops:6.2f}  {who:16} {node}  {what}")
    if case.shutil.which("perf"):
        for part, roots in system.parts().items():
            pids = [p for root in roots for p in [root] + contain.descendants(root)]
            say(f"functions of {part} (share of its processor time)")
            for line in functions(pids, run, ops, system.folder, 30):
                say("  " + line)
