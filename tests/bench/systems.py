"""The systems that are compared: the same Cyrus, with the same configuration and the same
mail, on different partitions. A system is started with up(), and is idle until work is given
to its server; what cannot run here says why in refused.

    name, title   of the column
    server        the Cyrus that clients talk to
    spool         the partition as that Cyrus sees it
    disks         all disks below it, those of a second node included
"""

import os
import pwd
import subprocess

import case
import contain
import count
import cyrus
import disk
import metrics
import pair
import uring


class Refused(Exception):
    pass


def in_memory(path):
    """A small file system in memory, as /run is one."""
    disk.run("mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", path)
    case.later(disk.run, "umount", path)


class System:
    asked_only = False     # only where --systems names it

    def __init__(self, folder, golden):
        self.folder, self.golden = folder, golden
        self.disks, self.others = [], {}
        self.server = None

    def new_disk(self, node="a", of=None):
        d = disk.Disk(self.folder, f"{self.name}-{node}", of=of).mount()
        self.disks.append(d)
        return d

    def run_cyrus(self, base, spool, node="a", start=True, services=(), **config):
        """The configuration of all of them. Locks and process notes lie in memory, as
        Debian has them."""
        quick = f"{self.folder}/run/{self.name}-{node}"
        config = {"proc_path": f"{quick}/proc", "mboxname_lockpath": f"{quick}/lock",
                  **config}
        for path in (f"{quick}/proc", f"{quick}/lock"):
            os.makedirs(path)
        cyrus.chown_tree(quick)
        server = cyrus.Cyrus(f"{base}/c", spool, config=config, prefork=4,
                             services=services)
        return server.start() if start else server

    def parts(self):
        """Process trees by part, for CPU time and switches."""
        found = {"cyrus": [self.server.proc.pid]}
        for d in self.disks:
            pid = count.kernel_thread(f"jbd2/{d.loop}-8")
            if pid:
                # It works for us, so it shall have our priority.
                os.setpriority(os.PRIO_PROCESS, pid, os.nice(0))
                found.setdefault("jbd2", []).append(pid)
        found.update(self.others)
        return found

    def connection(self):
        """The kernel's number of the FUSE connection."""
        return None

    def wire(self):
        return None

    def changes(self):
        """Bytes on the line so far by kind of change, where that is known."""
        return None

    def drain(self):
        """Returns when what was done has also reached the second node."""

    def note(self):
        return ""


class Bare(System):
    name, title = "bare", "bare ext4"

    def up(self):
        d = self.new_disk(of=self.golden)
        self.spool = self.backing = f"{d.path}/spool"
        self.server = self.run_cyrus(d.path, self.spool)


class Plain(System):
    name, title = "plain", "plain FUSE"

    def up(self):
        d = self.new_disk(of=self.golden)
        self.backing, self.spool = f"{d.path}/spool", f"{d.path}/mnt"
        os.mkdir(self.spool)
        tool = f"{case.BUILD}/tests/bench/plainfs"
        proc = subprocess.Popen([tool, self.backing, self.spool], cwd="/",
                                stdin=subprocess.DEVNULL, start_new_session=True)
        case.later(self.down, proc)
        case.wait_for(lambda: contain.mounts_below(self.spool), "the plain pass-through")
        self.others["fuse"] = [proc.pid]
        self.server = self.run_cyrus(d.path, self.spool)

    def down(self, proc):
        contain.unmount_below(self.spool)
        proc.kill()
        proc.wait()

    def connection(self):
        return os.minor(os.stat(self.spool).st_dev)


class Rolling(System):
    name, title = "rolling", "Cyrus rolling"

    def up(self):
        if not os.path.exists(f"{cyrus.BIN}/sync_client"):
            raise Refused("sync_client is not installed (apt-get install cyrus-replication)")
        a, b = self.new_disk(of=self.golden), self.new_disk("b", of=self.golden)
        self.spool = self.backing = f"{a.path}/spool"
        self.port = cyrus.free_port()
        self.replica = self.run_cyrus(b.path, f"{b.path}/spool", "b", services=[
            f'sync cmd="{cyrus.BIN}/sync_server -C {b.path}/c/imapd.conf"'
            f' listen="127.0.0.1:{self.port}" prefork=1'])
        self.server = self.run_cyrus(
            a.path, self.spool, sync_log="yes", sync_host="127.0.0.1",
            sync_port=str(self.port), sync_authname="cyrus", sync_password=cyrus.PASSWORD,
            sync_realm="node.test", sync_shutdown_file=f"{a.path}/c/sync-stop")
        who = pwd.getpwnam("cyrus")
        # -R: rolling, and not in the background.
        proc = subprocess.Popen(
            [f"{cyrus.BIN}/sync_client", "-C", self.server.conf, "-R"], cwd="/",
            user=who.pw_uid, group=who.pw_gid, extra_groups=[who.pw_gid],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        case.later(lambda: (proc.kill(), proc.wait()))
        self.client = proc
        self.others.update({"sync": [proc.pid], "peer": [self.replica.proc.pid]})
        self.drain()

    def parts(self):
        case.check(self.client.poll() is None, "sync_client has ended")
        return super().parts()

    def drain(self, limit=120):
        """The log is worked off when neither it nor the part being worked on is there."""
        folder = f"{self.server.dir}/conf/sync"

        def idle():
            return not any(name.startswith("log") for name in os.listdir(folder))
        case.wait_for(idle, "sync_client to work off its log", limit, step=0.02)

    def wire(self):
        return count.socket_bytes(self.port)


class Seed:
    """Two nodes that hold the golden mail, stopped cleanly: what every level starts from."""

    made = {}

    @classmethod
    def of(cls, folder, golden):
        if folder not in cls.made:
            cls.made[folder] = cls(folder, golden)
        return cls.made[folder]

    def __init__(self, folder, golden):
        a = disk.Disk(folder, "seed-a", of=golden).mount()
        b = disk.Disk(folder, "seed-b").mount()
        slots = pair.Slot(a.path, "a", "active"), pair.Slot(b.path, "b", "standby")
        self.prints = [slot.keygen() for slot in slots]
        self.introduce(*slots)
        for slot in slots[::-1]:
            case.later(slot.close)
            slot.configure(imapd_conf=f"{a.path}/c/imapd.conf")
            slot.start(limit=120)
        slots[0].wait(300)
        for slot in slots:
            slot.umount(limit=120)
        for d in (a, b):
            d.umount()
        self.disks = a, b

    def introduce(self, a, b):
        a.meets(b, self.prints[1])
        b.meets(a, self.prints[0])


class Twinspool(System):
    keys = {}

    def up(self):
        seed = Seed.of(self.folder, self.golden)
        a, b = self.new_disk(of=seed.disks[0]), self.new_disk("b", of=seed.disks[1])
        self.a, self.b = pair.Slot(a.path, "a", "active"), pair.Slot(b.path, "b", "standby")
        seed.introduce(self.a, self.b)
        self.spool, self.backing = self.a.mnt, self.a.spool
        for slot in (self.a, self.b):
            slot.configure(imapd_conf=f"{a.path}/c/imapd.conf", **self.keys)
        case.later(self.down)
        self.begin(self.b)
        self.begin(self.a)
        # The mount's root becomes Cyrus's; the bare folder below it is immutable.
        self.server = self.run_cyrus(a.path, self.spool, start=False)
        self.drain(300)
        self.server.start()

    def begin(self, slot):
        slot.start(limit=120)
        self.others["daemon" if slot is self.a else "peer"] = [slot.proc.pid]

    def down(self):
        if self.server is not None:
            self.server.stop()
        for slot in (self.a, self.b):
            slot.close()

    def connection(self):
        return os.minor(os.stat(self.spool).st_dev)

    def wire(self):
        return count.socket_bytes(self.a.port) + count.socket_bytes(self.b.port)

    def changes(self):
        # Not from the file in the mount: that would be requests of ours.
        return metrics.by(self.a.ask("status metrics"), "peer_sent_change_bytes_total", "change")

    def drain(self, limit=120):
        self.a.wait(limit)


class Local(Twinspool):
    name, title = "local", "twinspool local"


class LocalXattr(Twinspool):
    """With extended attributes and ACLs: four requests more for a delivery."""

    name, title = "local-xattr", "twinspool local, xattr: yes"
    keys = {"xattr": "yes"}
    asked_only = True


class Uring(Twinspool):
    name, title = "uring", "twinspool local by io_uring"
    keys = {"transport": "uring"}

    def begin(self, slot):
        with uring.parameter(True) as can:
            if not can:
                raise Refused("the kernel has no FUSE over io_uring")
            super().begin(slot)
        if slot.status()["transport"] != "uring":
            raise Refused("requests do not come by ring here; see the log")


class Flushed(Twinspool):
    name, title = "flushed", "twinspool flushed"
    keys = {"durability": "flushed", "sync": "commit"}

    def up(self):
        try:
            super().up()
        except case.Failed as why:
            said = next((line for line in str(why).splitlines() if "durability" in line),
                        str(why).splitlines()[0])
            raise Refused(said.rpartition(".conf: ")[2].strip()) from None


ALL = [Bare, Plain, Rolling, Local, LocalXattr, Uring, Flushed]
