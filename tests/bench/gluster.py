"""GlusterFS replica 2 as one more system, where it is installed (apt-get install glusterfs-server).

glusterd wants a fixed port, folders of its own below /run and /var, and an address that is not
that of the loopback. So it and its bricks run in name spaces of their own: network (a private
address on the loopback there, so nothing reaches a real interface), mounts (its run and log
folders are in memory), and processes, so that the end of the first of them is the end of all. The
client shares the network alone: its mount is seen by everybody.
"""

import concurrent.futures
import os
import subprocess

import case
import contain
import count
import disk
import systems

ADDRESS = "10.78.0.1"

VOLFILE = """volume management
    type mgmt/glusterd
    option working-directory {here}/work
    option run-directory {here}/run
    option glusterd-sockfile {here}/sock
    option transport-type socket
    option transport.socket.bind-address {address}
    option transport.address-family inet
    option max-port 60999
    option event-threads 1
end-volume
"""

# The shell is the first process, and takes in those that leave their parents.
FIRST = """ip link set lo up && ip addr add {address}/32 dev lo || exit 1
for d in /run/gluster /var/log/glusterfs; do
    mkdir -p $d && mount -t tmpfs none $d || exit 1
done
mkdir /var/log/glusterfs/bricks
glusterd -N -f {here}/volfile -p {here}/pid -l {here}/log
"""


class Gluster(systems.System):
    name, title = "gluster", "GlusterFS replica 2"

    def up(self):
        try:
            case.need("glusterd", "gluster", "glusterfs")
        except case.Skip:
            raise systems.Refused("not installed (apt-get install glusterfs-server)") from None
        try:
            case.need("ip", "unshare", "nsenter")
        except case.Skip as why:
            raise systems.Refused(str(why)) from None
        bricks = [self.new_disk(n, of=self.golden) for n in "ab"]
        base = bricks[0].path
        self.spool, self.backing = f"{base}/mnt", f"{base}/spool"
        self.here = f"{base}/gluster"
        for path in (self.spool, self.here, f"{self.here}/work", f"{self.here}/run"):
            os.mkdir(path)
        self.begin()
        paths = [f"{ADDRESS}:{d.path}/spool" for d in bricks]
        self.gluster("volume", "create", "mail", "replica", "2", *paths, "force")
        self.gluster("volume", "start", "mail")
        self.mount()
        self.adopt()
        self.count(bricks)
        self.server = self.run_cyrus(base, self.spool)

    def begin(self):
        with open(f"{self.here}/volfile", "w") as f:
            f.write(VOLFILE.format(here=self.here, address=ADDRESS))
        self.outer = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", FIRST.format(here=self.here, address=ADDRESS)],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        case.later(self.end)
        case.wait_for(self.inner, "the name spaces")
        case.wait_for(self.answers, "glusterd to answer", 60)

    def inner(self):
        """The first process of the name spaces, once the shell runs there."""
        if self.outer.poll() is not None:
            raise systems.Refused("no name spaces (network, mounts, processes) are to be had")
        below = contain.descendants(self.outer.pid)
        return next((p for p in below if contain.words_of(p)[:1] == ["sh"]), None)

    def answers(self):
        if self.outer.poll() is not None:
            raise systems.Refused(f"glusterd has ended: {self.last_words()}")
        if not os.path.exists(f"{self.here}/sock"):
            return False
        self.first = self.inner()
        return subprocess.run(self.command("volume", "list"), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0

    def last_words(self):
        try:
            with open(f"{self.here}/log", errors="replace") as f:
                bad = [line for line in f if "] E [" in line]
        except OSError:
            bad = []
        return bad[-1].strip() if bad else "nothing in its log"

    def command(self, *words):
        return ["nsenter", "-t", str(self.first), "-n", "-m", "-p", "gluster",
                f"--glusterd-sock={self.here}/sock", f"--log-file={self.here}/cli.log",
                "--mode=script", *words]

    def gluster(self, *words):
        disk.run(*self.command(*words), timeout=120)

    def mount(self):
        self.client = subprocess.Popen(
            ["nsenter", "-t", str(self.first), "-n", "glusterfs", "-N", "-s", ADDRESS,
             "--volfile-id", "mail", "-l", f"{self.here}/client.log", self.spool],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        case.later(self.unmount)
        case.wait_for(lambda: self.client.poll() is not None
                      or contain.mounts_below(self.spool), "the mount of GlusterFS", 60)
        case.check(self.client.poll() is None, "the client of GlusterFS has ended")

    def adopt(self):
        """Both bricks hold the same files, which the first look gives their numbers: some 4 ms
        each."""
        def fail(why):
            raise why
        case.wait_for(lambda: os.listdir(self.spool), "both bricks", 60)
        with concurrent.futures.ThreadPoolExecutor(16) as some:
            for folder, _, names in os.walk(self.spool, onerror=fail):
                list(some.map(os.stat, (f"{folder}/{name}" for name in names)))

    def count(self, bricks):
        """Who works on which side."""
        ours = [pid for pid, parent in contain.parents().items() if parent == self.first]
        brick = {}
        for pid in ours:
            words = contain.words_of(pid)
            for d in bricks:
                if "--brick-port" in words and f"{d.path}/spool" in words:
                    brick[d] = pid, words[words.index("--brick-port") + 1]
        case.equal(len(brick), 2, "bricks")
        peer, self.port = brick[bricks[1]]
        self.others["fuse"] = [self.client.pid]
        self.others["brick"] = [p for p in ours if p != peer]
        self.others["peer"] = [peer]

    def connection(self):
        return os.minor(os.stat(self.spool).st_dev)

    def wire(self):
        """To and from the second brick."""
        return count.socket_bytes(self.port, ["nsenter", "-t", str(self.first), "-n"])

    def unmount(self):
        contain.unmount_below(self.spool)
        self.client.kill()
        self.client.wait()

    def end(self):
        """Killing the first process inside takes the others along."""
        contain.kill_all(lambda: contain.descendants(self.outer.pid))
        self.outer.wait()
