"""What is done to the servers. A workload has

    name, title, unit        of its row; unit "op/s" or "s"
    prepare(system)          before its first round, not measured
    run(system, count, go)   does count operations, calls go() when the clock starts; returns
                             (operations, seconds, seconds of processor time of the client)
    fixed                    operations of a round, if the engine may not choose
"""

import json
import subprocess
import time

import case
import disk
import golden


class Workload:
    unit = "op/s"
    fixed = None
    most = 100_000
    last = {}       # what the load generator said of the last round
    lone = False    # the client is not a client but all that there is to measure

    def prepare(self, system):
        pass


def loadgen(kind, *args, go=None, limit=300):
    """Runs the load generator; go is called between its log-in and its first operation."""
    proc = subprocess.Popen(
        [f"{case.BUILD}/tests/bench/loadgen", kind, *args], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    try:
        if kind != "list":
            proc.stdout.readline()
        if go is not None:
            go()
        out, err = proc.communicate(b"\n", timeout=limit)
    except subprocess.TimeoutExpired:
        proc.kill()
        proc.wait()
        raise case.Failed(f"loadgen {kind}: no end in {limit} s") from None
    case.check(proc.returncode == 0, lambda: err.decode(errors="replace").strip())
    return json.loads(out.decode().splitlines()[-1])


class Client(Workload):
    """Work that loadgen does over some connections."""

    def __init__(self, name, title, kind, users, pool=None, size=0, **args):
        self.name, self.title, self.kind, self.users = name, title, kind, users
        self.pool, self.size, self.args = pool, size, args
        self.number = 0

    def port(self, system):
        return system.server.lmtp_port if self.kind == "lmtp" else system.server.imap_port

    def options(self, system, count):
        self.number += count
        args = dict(self.args, port=self.port(system), users=",".join(self.users),
                    count=count)
        if self.pool:
            args.update(pool=self.pool, first=self.number)
        return args

    def run(self, system, count, go):
        args = self.options(system, count)
        got = loadgen(self.kind, *(f"{k}={v}" for k, v in args.items()), go=go)
        self.last = got
        return got["ops"], got["seconds"], got["client_cpu"]


class Flags(Client):
    """Every operation changes something: a flag is set on each message, then taken away. The
    first round uses a flag of its own, since it is of another length."""

    def __init__(self, name, title):
        super().__init__(name, title, "store", golden.FLAGS, uids=golden.PER_FLAGS)
        self.most = len(golden.FLAGS) * golden.PER_FLAGS
        self.rounds = {}

    def options(self, system, count):
        n = self.rounds.get(system, 0)
        self.rounds[system] = n + 1
        flag, sign = ("\\Draft", "+") if n == 0 else ("\\Flagged", "+-"[(n - 1) % 2])
        return dict(super().options(system, count), flag=flag, sign=sign)


class Fetch(Client):
    """All of the messages have been read once before."""

    uids = 250

    def __init__(self):
        super().__init__("fetch", "FETCH of bodies, warm", "fetch", golden.FLAGS,
                         uids=self.uids)

    def prepare(self, system):
        self.run(system, self.uids * len(self.users), lambda: None)


class Select(Client):
    """SELECT of the folder of 40,000, over one connection. With cold, nothing that could be
    forgotten is remembered."""

    unit = "s"

    def __init__(self, name, title, cold):
        super().__init__(name, title, "select", ["big"])
        self.cold = cold
        self.fixed = 1 if cold else 20

    def run(self, system, count, go):
        def begin():
            if self.cold:
                disk.drop_caches()
            go()
        _, seconds, used = super().run(system, count, begin)
        return count, seconds / count, used / count


class Listing(Workload):
    """readdir and a stat of each name, as ls -l and every backup do."""

    unit = "s"
    lone = True
    fixed = 1

    def __init__(self, name, title, cold):
        self.name, self.title, self.cold = name, title, cold
        self.where = {}

    def prepare(self, system):
        path = system.server.mailbox_dir("user.big")
        self.where[system] = path
        if not self.cold:
            loadgen("list", path)

    def run(self, system, count, go):
        if self.cold:
            disk.drop_caches()
        go()
        got = loadgen("list", self.where[system])
        case.check(got["ops"] > 1000, "an empty folder was listed")
        return 1, got["seconds"], got["client_cpu"]


class Batch(Workload):
    """One IMAP command over a thousand messages: COPY into a new folder."""

    unit = "s"
    fixed = 1
    messages = golden.PER_FLAGS
    name, title = "copy-1000", "COPY of 1,000"

    def __init__(self):
        self.made = {}

    def folder(self, c, system):
        n = self.made[system] = self.made.get(system, 0) + 1
        box = f"INBOX/{self.name}{n}"
        c.create(box)
        return box

    def act(self, c, box):
        c.copy(f"1:{self.messages}", box)

    def ready(self, c, system):
        box = self.folder(c, system)
        c.select("INBOX")
        return box

    def run(self, system, count, go):
        with system.server.imap(golden.FLAGS[0]) as c:
            box = self.ready(c, system)
            system.drain()
            go()
            used = time.process_time()
            start = time.perf_counter()
            self.act(c, box)
            spent = time.perf_counter() - start
            return 1, spent, time.process_time() - used


class Expunge(Batch):
    name, title = "expunge-1000", "EXPUNGE of 1,000"

    def ready(self, c, system):
        box = self.folder(c, system)
        c.select("INBOX")
        c.copy(f"1:{self.messages}", box)
        c.select(box)
        c.store("1:*", "+FLAGS.SILENT", "\\Deleted")
        return box

    def act(self, c, box):
        c.expunge()


def everything(pools):
    def lmtp(conns, size, word):
        return Client(f"lmtp-{conns}-{word}", f"LMTP, {conns} conn., {word.upper()}B", "lmtp",
                      golden.DELIVER[:conns], pools[size], size)
    return [
        lmtp(4, 4000, "4k"), lmtp(16, 4000, "4k"),
        Flags("flags", "flag changes, 4 conn."),
        Fetch(),
        Client("append", "APPEND, 4 conn., 4KB", "append", golden.DELIVER[4:8],
               pools[4000], 4000),
        Listing("list-warm", "listing 40,000, warm", False),
        Select("select-warm", "SELECT 40,000, warm", False),
        lmtp(4, 100_000, "100k"), lmtp(16, 100_000, "100k"), lmtp(1, 100_000, "100k"),
        lmtp(1, 4000, "4k"), Batch(), Expunge(),
        # Last, for they take longest where others write: all that is dirty is synced before.
        Listing("list-cold", "listing 40,000, cold", True),
        Select("select-cold", "SELECT 40,000, cold", True),
    ]


NEED_BIG = {"list-warm", "list-cold", "select-warm", "select-cold", "sync"}
# What --quick leaves out: neighbours of what it measures.
NOT_QUICK = {"lmtp-16-100k", "lmtp-1-100k"}
