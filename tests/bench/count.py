"""What a noisy machine cannot blur: CPU time, context switches, syncs, FUSE requests, bytes.

CPU time and switches are read from /proc for whole process trees. Syncs and FUSE requests are
counted by the kernel's own trace points where it has them (ext4_sync_file_enter,
fuse_request_send), in a trace instance of our own, so that every system is counted the same
way. Bytes are those of the sockets between the two nodes, everything but TCP's own headers.
"""

import collections
import os
import re
import signal
import subprocess
import time

import contain
import names

TICK = os.sysconf("SC_CLK_TCK")


def _words(path):
    with open(path, "rb") as f:
        return f.read()


def cpu_of(pid):
    """Seconds of a process and of its ended children. Nanoseconds of the scheduler where the
    threads still live, or else ticks."""
    stat = _words(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    own, children = (int(stat[11]) + int(stat[12])) / TICK, (
        int(stat[13]) + int(stat[14])) / TICK
    exact = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            exact += int(_words(f"/proc/{pid}/task/{tid}/schedstat").split()[0])
        except OSError:
            pass
    return max(own, exact / 1e9) + children


def switches_of(pid):
    """(voluntary, involuntary) of all threads."""
    wanted = unwanted = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            text = _words(f"/proc/{pid}/task/{tid}/status")
        except OSError:
            continue
        wanted += int(re.search(rb"^voluntary_ctxt_switches:\s+(\d+)", text, re.M)[1])
        unwanted += int(re.search(rb"^nonvoluntary_ctxt_switches:\s+(\d+)", text, re.M)[1])
    return wanted, unwanted


def machine_busy():
    """Seconds that any core was busy with anything, us included."""
    with open("/proc/stat") as f:
        n = [int(x) for x in f.readline().split()[1:9]]
    return (sum(n) - n[3] - n[4]) / TICK


def kernel_thread(name):
    """The pid of a kernel thread, None if there is none."""
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if _words(f"/proc/{pid}/comm").strip().decode() == name:
                    return int(pid)
            except OSError:
                pass
    return None


class Snapshot:
    """Totals of one system at one moment; minus gives what happened in between."""

    def __init__(self, system=None):
        self.cpu = collections.Counter()
        self.switches = collections.Counter()
        self.journal = self.flushes = self.written = 0
        self.wire = None
        self.busy = 0
        if system is None:
            return
        for part, roots in system.parts().items():
            for root in roots:
                for pid in [root] + contain.descendants(root):
                    try:
                        self.cpu[part] += cpu_of(pid)
                        self.switches[part] += sum(switches_of(pid))
                    except OSError:
                        pass
        for disk in system.disks:
            self.journal += disk.commits()
            writes, written, flushes = disk.io()
            self.written += written
            self.flushes += flushes
        self.wire = system.wire()
        self.busy = machine_busy()

    def __sub__(self, before):
        d = Snapshot()
        for part in self.cpu:
            d.cpu[part] = self.cpu[part] - before.cpu[part]
            d.switches[part] = self.switches[part] - before.switches[part]
        for name in ("journal", "flushes", "written", "busy"):
            setattr(d, name, getattr(self, name) - getattr(before, name))
        d.wire = None if self.wire is None else self.wire - before.wire
        return d


def socket_bytes(port, where=()):
    """Bytes that went in either direction over connections to this local port: what their
    two ends have sent and seen acknowledged. where: a command that enters their name space."""
    text = subprocess.run([*where, "ss", "-tinH", f"( dport = :{port} or sport = :{port} )"],
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout
    return sum(int(n) for n in re.findall(rb"bytes_acked:(\d+)", text))


class Trace:
    """An instance of the kernel's trace buffer. available says whether there is one."""

    ROOT = "/sys/kernel/tracing"
    EVENTS = {"ext4/ext4_sync_file_enter": "sync", "ext4/ext4_sync_fs": "syncfs",
              "fuse/fuse_request_send": "fuse"}
    LINE = re.compile(
        rb"^\s*(.+)-\d+\s+\[\d+\].*?: (\w+): (.*)$", re.M)

    def __init__(self, name):
        self.dir = f"{self.ROOT}/instances/{name}"
        self.available = []
        self.why = ""
        if not os.path.isdir(f"{self.ROOT}/events"):
            subprocess.run(["mount", "-t", "tracefs", "none", self.ROOT],
                           stderr=subprocess.DEVNULL)
        try:
            os.mkdir(self.dir)
            self._put("trace_clock", "mono")
            self._put("buffer_size_kb", "32768")
        except OSError as why:
            self.why = f"no trace instance: {why.strerror}"
            return
        for event in self.EVENTS:
            if os.path.isdir(f"{self.dir}/events/{event}"):
                self.available.append(event)
        self._put("tracing_on", "0")

    def _put(self, name, text):
        with open(f"{self.dir}/{name}", "w") as f:
            f.write(text)

    def start(self, system):
        if not self.available:
            return
        self._put("trace", "")
        devs = " || ".join(f"dev == {os.major(d.dev) << 20 | os.minor(d.dev)}"
                           for d in system.disks)
        for event in self.available:
            wanted = devs
            if event.startswith("fuse/"):
                conn = system.connection()
                wanted = None if conn is None else f"connection == {conn}"
            if wanted is None:
                self._put(f"events/{event}/enable", "0")
                continue
            if event == "ext4/ext4_sync_fs":
                # One syncfs is two of these, and the first does not wait.
                wanted = f"({wanted}) && wait == 1"
            self._put(f"events/{event}/filter", wanted)
            self._put(f"events/{event}/enable", "1")
        self._put("tracing_on", "1")

    def stop(self):
        """List of (process name, event, text) since start."""
        if not self.available:
            return None
        self._put("tracing_on", "0")
        text = _words(f"{self.dir}/trace")
        self._put("trace", "")
        return [(m[1].decode(errors="replace").strip(), m[2].decode(), m[3].decode())
                for m in self.LINE.finditer(text)]

    def timed(self):
        """List of (process, pid, seconds of the monotonic clock, text) of the requests since
        start."""
        self._put("tracing_on", "0")
        text = _words(f"{self.dir}/trace").decode(errors="replace")
        return [(m[1].strip(), int(m[2]), float(m[3]), m[4]) for m in re.finditer(
            r"^(.*)-(\d+)\s+\[\d+\] \S+\s+(\d+\.\d+): fuse_request_send: (.*)$", text, re.M)]

    def close(self):
        try:
            os.rmdir(self.dir)
        except OSError:
            pass


class Instructions:
    """Instructions of a system's processes, where the machine lets them be counted."""

    EVENT = "instructions"

    def __init__(self):
        self.why, self.procs = "", {}
        try:
            said = subprocess.run(
                ["perf", "stat", "-x,", "-e", self.EVENT, "true"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE).stderr.decode(errors="replace")
        except OSError:
            self.why = "perf is not installed"
            return
        if self._read(said) is None:
            self.why = "this machine shows no hardware counters"

    @staticmethod
    def _read(text):
        """perf's own form: value, unit, event, ... The value is a word if there is none."""
        for line in text.splitlines():
            field = line.split(",")
            if len(field) > 2 and "instructions" in field[2] and field[0].isdigit():
                return int(field[0])
        return None

    def start(self, system):
        if self.why:
            return
        for part, roots in system.parts().items():
            pids = [p for root in roots for p in [root] + contain.descendants(root)]
            self.procs[part] = subprocess.Popen(
                ["perf", "stat", "-x,", "-e", self.EVENT, "-p", ",".join(map(str, pids))],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.2)

    def stop(self):
        """How many since start by part of the system, or None."""
        procs, self.procs = self.procs, {}
        for proc in procs.values():
            proc.send_signal(signal.SIGINT)
        found = {part: self._read(proc.communicate(timeout=20)[1].decode(errors="replace"))
                 for part, proc in procs.items()}
        return {part: n for part, n in found.items() if n} or None


def traced(events, disks):
    """Counters of a trace: FUSE requests by kind, syncs by what was synced."""
    fuse, syncs = collections.Counter(), collections.Counter()
    known = None
    for _, event, text in events or ():
        if event == "fuse_request_send":
            fuse[re.search(r"\(FUSE_(\w+)\)", text)[1]] += 1
        else:
            known = known or names.Names(disks)
            syncs[names.word(known.synced(text)[1])] += 1
    return fuse, syncs


class Changes:
    """What the active side sends, by kind of change, as it says itself: ten times a second it tells
    what it has counted."""

    def start(self, system):
        self.system, self.before = system, system.changes()

    def stop(self):
        """Bytes since start by kind of change; none for a system that does not say."""
        if self.before is None:
            return {}
        time.sleep(0.2)
        return {k: n - self.before[k] for k, n in self.system.changes().items()
                if n != self.before[k]}
