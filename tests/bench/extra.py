"""What does not fit into rounds of operations: the first synchronisation, and the lag."""

import functools
import os
import shutil
import statistics
import threading
import time

import case
import count
import disk
import golden
import lmtp
import mail
import pair
import rsync
import systems
import work


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


# ---- first synchronisation ----

class Source:
    """A slot with the golden mail, and servers for rsync over the same tree."""

    def __init__(self, folder, image):
        self.folder = folder
        self.disk = disk.Disk(folder, "sync-a", of=image).mount()
        self.a = pair.Slot(self.disk.path, "a", "active")
        # The second node is made anew for each round, with the key it had.
        self.b = pair.Slot(f"{folder}/sync-key", "b", "standby")
        prints = {s.name: s.keygen() for s in (self.a, self.b)}
        self.a.meets(self.b, prints["b"])
        self.fingerprint = prints["a"]
        self.a.configure(imapd_conf=f"{self.disk.path}/c/imapd.conf")
        case.later(self.a.close)
        self.servers = rsync.servers(folder, f"{self.disk.path}/spool")

    @staticmethod
    def by_rsync(server, target):
        """(seconds, seconds of processor time)"""
        before = count.cpu_of(server.daemon.pid)
        own = os.times()
        start = time.monotonic()
        server.copy(f"{target.path}/spool/")
        spent = time.monotonic() - start
        now = os.times()
        used = now.children_user + now.children_system - (
            own.children_user + own.children_system)
        return spent, used + count.cpu_of(server.daemon.pid) - before

    def by_us(self, target):
        b = pair.Slot(target.path, "b", "standby")
        b.port = self.b.port
        shutil.rmtree(b.state)
        shutil.copytree(self.b.state, b.state)
        b.meets(self.a, self.fingerprint)
        b.configure(imapd_conf=f"{self.disk.path}/c/imapd.conf")
        before = self._used(self.a)
        start = time.monotonic()
        try:
            b.start()
            self.a.wait(limit=900)
            spent = time.monotonic() - start
            used = self._used(self.a) - before + self._used(b)
            held = len(os.listdir(f"{target.path}/spool"))
            case.check(held, "nothing was synchronised")
        finally:
            b.close()
        return spent, used

    @staticmethod
    def _used(slot):
        import contain
        return sum(count.cpu_of(p)
                   for p in [slot.proc.pid] + contain.descendants(slot.proc.pid))


def fresh(folder, name):
    d = disk.Disk(folder, name).mount()
    return d


def first_sync(folder, image, rounds):
    """Facts of all ways, taking turns; or why not."""
    try:
        case.need("rsync")
    except case.Skip as why:
        return {"refused": str(why)}
    source = Source(folder, image)
    source.a.start(limit=120)
    ways = [(server.name, functools.partial(source.by_rsync, server))
            for server in source.servers] + [("twinspool", source.by_us)]
    rows = {way: [] for way, _ in ways}
    for n in range(rounds):
        for i in range(len(ways)):
            way, go = ways[(n + i) % len(ways)]
            target = fresh(folder, f"sync-{i}-{n}")
            source.disk.sync()
            spent, used = go(target)
            start = time.monotonic()
            target.sync()
            rows[way].append((spent, used, time.monotonic() - start))
            target.umount()
            os.unlink(target.image)
    out = {"rounds": rounds, "ways": {}}
    for way, got in rows.items():
        ours = rows["twinspool"]
        out["ways"][way] = {
            "seconds": statistics.median(r[0] for r in got),
            "cpu_seconds": statistics.median(r[1] for r in got),
            "flush_seconds": statistics.median(r[2] for r in got),
            "ratio": statistics.median(a[0] / b[0] for a, b in zip(got, ours)),
            "ratio_flushed": statistics.median(
                (a[0] + a[2]) / (b[0] + b[2]) for a, b in zip(got, ours))}
    return out


# ---- lag ----

class Probe(threading.Thread):
    """Delivers to the user probe, and takes how long after the answer each message is on the
    second node: applied and verified, or for rolling replication, its file there."""

    def __init__(self, system, seconds):
        super().__init__(daemon=True)
        self.system, self.seconds = system, seconds
        self.lags, self.error = [], None
        self.waiting = {}      # path on the replica -> time of the answer
        self.n = 0

    def run(self):
        try:
            with lmtp.Lmtp(self.system.server.lmtp_port) as c:
                self._run(c)
        except Exception as why:  # shown by the caller
            self.error = why

    def _run(self, c):
        two = isinstance(self.system, systems.Twinspool)
        if not two:
            server = self.system.server
            path = os.path.relpath(server.mailbox_dir("user.probe"), server.spool)
            there = os.path.join(self.system.replica.spool, path)
            uid = max(int(n[:-1]) for n in os.listdir(os.path.join(server.spool, path))
                      if n[:-1].isdigit() and n.endswith("."))
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            self.n += 1
            c.deliver("probe", mail.message(2_000_000 + self.n, 4000))
            start = time.perf_counter()
            if two:
                self.system.a.ask("wait timeout=50000")
                self.lags.append(time.perf_counter() - start)
                time.sleep(0.02)
            else:
                self.waiting[f"{there}/{uid + self.n}."] = start
                self._look(0.05)
        limit = time.monotonic() + 30
        while self.waiting and time.monotonic() < limit:
            self._look(0.05)
        case.check(not self.waiting, f"{len(self.waiting)} messages never came")

    def _look(self, seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for path, start in list(self.waiting.items()):
                if os.path.exists(path):
                    self.lags.append(time.perf_counter() - start)
                    del self.waiting[path]
            time.sleep(0.002)


def lag(system, pool, rate, seconds, share=0.8):
    """Under that share of the rate: quantiles of the lag in milliseconds."""
    probe = Probe(system, seconds)
    got = work.loadgen("lmtp", f"port={system.server.lmtp_port}",
                       f"users={','.join(golden.DELIVER[:4])}", f"pool={pool}",
                       f"count={max(1, int(rate * share * seconds))}",
                       f"rate={rate * share:.1f}", "first=5000000", go=probe.start)
    probe.join(120)
    case.check(probe.error is None, lambda: f"{system.name}: {probe.error}")
    case.check(probe.lags, "no lag was measured")
    system.drain()
    ms = [x * 1000 for x in probe.lags]
    return {"rate": rate * share, "samples": len(ms), "delivery_us_50": got["us_50"],
            "delivery_us_99": got["us_99"],
            "ms_50": quantile(ms, 0.5), "ms_99": quantile(ms, 0.99), "ms_max": max(ms)}


def lags(run, pool, seconds):
    """Of every system that has a second node; the rate is that of its own four connections."""
    out = {}
    for system in run.systems:
        cell = run.cells.get(("lmtp-4-4k", system.name))
        if system.wire() is None or cell is None or not cell.samples:
            continue
        try:
            out[system.name] = lag(system, pool, cell.value, seconds)
        except case.Failed as why:
            out[system.name] = {"refused": str(why).splitlines()[0]}
    return out
