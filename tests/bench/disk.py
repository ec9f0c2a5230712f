"""Disks of the benchmark: ext4 with its journal in a file, mounted through a loop device.

Every system gets a copy of one image that was filled once, so all of them start from the same
bytes at the same places. The loop device goes away with its mount.
"""

import os
import subprocess

import case


def run(*command, **kw):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **kw)
    case.check(done.returncode == 0, lambda: f"{' '.join(command)}: exit "
               f"{done.returncode}: {done.stdout.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


class Disk:
    """image: its file; path: where it is mounted, None if it is not."""

    def __init__(self, folder, name, gigabytes=4, of=None):
        case.need("mkfs.ext4", "losetup")
        self.image, self.where = f"{folder}/{name}.img", f"{folder}/{name}"
        self.path = None
        os.mkdir(self.where)
        if of is not None:
            run("cp", "--sparse=always", of.image, self.image)
            return
        with open(self.image, "wb") as f:
            f.truncate(gigabytes << 30)
        # No lazy initialisation: it would write in the middle of a round.
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)

    def mount(self):
        run("mount", "-o", "loop,noatime", self.image, self.where)
        self.path = self.where
        case.later(self.gone)
        os.chmod(self.where, 0o755)
        self.dev = os.stat(self.where).st_dev
        self.loop = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(self.dev)}:"
                                                      f"{os.minor(self.dev)}"))
        case.check(os.path.isdir(f"/proc/fs/jbd2/{self.loop}-8"),
                   f"{self.image} has no journal")
        return self

    def umount(self):
        """Those who had it open may be about to end."""
        case.wait_for(lambda: subprocess.run(
            ["umount", self.where], stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL).returncode == 0, f"{self.where} to be let go")
        self.path = None

    def gone(self):
        """At the end, whatever still holds it."""
        if self.path:
            run("umount", "-l", self.where)

    def sync(self):
        """What is dirty here reaches the machine's own disk."""
        run("sync", "-f", self.where)

    def commits(self):
        """Transactions of the journal so far."""
        with open(f"/proc/fs/jbd2/{self.loop}-8/info") as f:
            return int(f.read().split()[0])

    def io(self):
        """(writes, bytes written, flushes) of the device so far."""
        with open(f"/sys/block/{self.loop}/stat") as f:
            n = [int(x) for x in f.read().split()]
        return n[4], n[6] * 512, n[15] if len(n) > 15 else 0


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")
