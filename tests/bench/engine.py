"""Rounds: every workload on one system after the other, again and again, in turning order.

All servers are up for the whole run, one at a time has work. Before a round the system's
disks are synced, after it the second node catches up; both are outside of the time measured,
but what the catching up costs in processor time is counted. The first round of each workload
is not timed: it warms up and counts syncs and FUSE requests.
"""

import collections
import os
import statistics
import time

import case
import count
import imap
import lmtp

FAILURES = (case.Failed, imap.Error, lmtp.Error, OSError)


class Sample:
    """One round of one system."""

    def __init__(self, ops, seconds, client, delta, drained, work):
        self.ops, self.seconds, self.client = ops, seconds, client
        self.delta, self.drained = delta, drained
        self.value = ops / seconds if work.unit == "op/s" else seconds
        self.us_50, self.us_99 = work.last.get("us_50"), work.last.get("us_99")


class Cell:
    """All rounds of one workload on one system."""

    def __init__(self):
        self.samples, self.counted = [], 0
        self.instructions, self.changes = None, {}
        self.fuse, self.syncs = collections.Counter(), collections.Counter()
        self.refused = None

    def median(self, get):
        values = [v for v in (get(s) for s in self.samples) if v is not None]
        return statistics.median(values) if values else None

    @property
    def value(self):
        return self.median(lambda s: s.value)


class Engine:
    def __init__(self, systems, rounds, seconds, trace, say):
        self.systems, self.rounds, self.seconds = systems, rounds, seconds
        self.trace, self.say = trace, say
        self.instructions = count.Instructions()
        self.changes = count.Changes()
        self.cells = {}      # (workload name, system name) -> Cell
        self.foreign = []    # processor time of others, as a share of the machine

    def once(self, work, system, ops, traced=False):
        cell = self.cells[work.name, system.name]
        for d in system.disks:
            d.sync()
        start = []

        def go():
            if traced:
                self.changes.start(system)
                self.instructions.start(system)
                self.trace.start(system)
            start.append((count.Snapshot(system), time.monotonic()))
        done, seconds, client = work.run(system, ops, go)
        drained = time.monotonic()
        system.drain()
        now = time.monotonic()
        drained = now - drained
        delta = count.Snapshot(system) - start[0][0]
        if traced:
            cell.fuse, cell.syncs = count.traced(self.trace.stop(), system.disks)
            cell.instructions = self.instructions.stop()
            cell.changes = self.changes.stop()
            cell.counted = done
        else:
            if work.lone:
                delta.cpu["client"] = client
            cell.samples.append(Sample(done, seconds, client, delta, drained, work))
            span = (now - start[0][1]) * os.cpu_count()
            own = sum(delta.cpu.values()) + (0 if work.lone else client)
            if span > 0.1:
                self.foreign.append(min(1, max(0, delta.busy - own) / span))
        return done / seconds

    def measure(self, work, until=None):
        """until: a time.monotonic() to be done by; rounds get fewer and shorter for it."""
        running, rates, took = [], {}, 0
        for system in self.systems:
            self.cells[work.name, system.name] = Cell()
            try:
                work.prepare(system)
                start = time.monotonic()
                rates[system] = self.once(work, system, work.fixed or self.first(until),
                                          traced=True)
                took += time.monotonic() - start
                running.append(system)
            except FAILURES as why:
                self.fails(work, system, why)
        seconds, rounds = self.seconds, self.rounds
        if until is not None:
            left = max(until - time.monotonic(), 1)
            # Beside the work itself a round costs what is around it: log-in, syncs, counts.
            each = took if work.fixed else len(running) * (seconds + 0.4)
            rounds = max(1, min(rounds, int(left / each)))
            seconds = min(seconds, max(0.2, left / rounds / len(running) - 0.4))
        ops = {}
        for system in running:
            # The same for all, but one that is much slower need not do it to the end.
            most = min(rates[running[0]], 3 * rates[system]) * seconds
            ops[system] = work.fixed or int(max(20, min(work.most, most)))
        for n in range(rounds):
            turn = n % len(running)
            for system in running[turn:] + running[:turn]:
                try:
                    self.once(work, system, ops[system])
                except FAILURES as why:
                    self.fails(work, system, why)
                    running.remove(system)

    def fails(self, work, system, why):
        """One system does not stop the others, but bare, which all are compared with."""
        self.cells[work.name, system.name].refused = str(why).splitlines()[0]
        self.say(f"{work.title} on {system.title}: {why}")
        if system is self.systems[0]:
            raise case.Failed(f"{work.title} on {system.title}: {why}")

    @staticmethod
    def first(until):
        """Operations of the round that warms up and counts."""
        return 120 if until is None else 40

    def ratio(self, work, system, base):
        """Median over the rounds of how this system compares with base in the same round;
        above 1 is better than base. Returns (median, lowest, highest) or None."""
        a = self.cells.get((work.name, system.name))
        b = self.cells.get((work.name, base.name))
        if not a or not b or not a.samples or not b.samples:
            return None
        pairs = list(zip(a.samples, b.samples))
        ratios = [x.value / y.value if work.unit == "op/s" else y.value / x.value
                  for x, y in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)
