"""One slot without peers, for the cases that look at the filesystem alone.

    s = slot.Slot(folder, xattr="yes")
    s.start()            # mounted and serving
    s.mnt, s.spool       # through the kernel; behind it
    s.kill_server()      # SIGKILL to the server process; the supervisor starts the next
    s.stop()             # SIGTERM, wait, nothing left behind

The supervisor runs in the foreground as our child, so it can be waited for, and gets
SIGTERM if we die first. Its output is in FOLDER/log.
"""

import ctypes
import errno
import os
import signal
import subprocess

import case
import metrics

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_MNT_DETACH = 2


def mounts(path):
    """The types of what is mounted on path, the topmost last."""
    found = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            left, _, right = line.partition(b" - ")
            point = left.split()[4].decode("unicode_escape")
            if point == path:
                found.append(right.split()[0].decode())
    return found


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(p) for p in f.read().split()]
    except OSError:
        return []


class Slot:
    def __init__(self, folder, **keys):
        self.folder = folder
        self.mnt = os.path.join(folder, "mnt")
        self.spool = os.path.join(folder, "spool")
        self.state = os.path.join(folder, "state")
        for path in (self.mnt, self.spool, self.state):
            os.makedirs(path, exist_ok=True)
        self.conf = os.path.join(folder, "slot.conf")
        self.keys = {"mountpoint": self.mnt, "spool": self.spool, "state": self.state,
                     "name": "a", **keys}
        self.process = None
        self.confine = None     # called in the child before it becomes the program
        subprocess.run([case.PROGRAM, "keygen", self.state], check=True,
                       stdout=subprocess.DEVNULL)

    def start(self, *options):
        with open(self.conf, "w") as f:
            f.writelines(f"{k}: {v}\n" for k, v in self.keys.items())
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = subprocess.Popen(
            [case.PROGRAM, "mount", "-f", *options, self.conf],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            preexec_fn=self._in_child)
        case.wait_for(self._serving, "the mount", limit=30)
        return self

    def _in_child(self):
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if self.confine is not None:
            self.confine()

    def _serving(self):
        if self.process.poll() is not None:
            raise case.Failed("twinspool mount ended with status "
                              f"{self.process.returncode}:\n{self.tail()}")
        if not mounts(self.mnt):
            return False
        try:
            os.statvfs(self.mnt)
        except OSError as why:  # a dead mount is still to be covered
            if why.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                return False
            raise
        return True

    def tail(self, n=30):
        with open(os.path.join(self.folder, "log"), errors="replace") as f:
            return "".join(f.readlines()[-n:])

    def servers(self):
        """The pids of the server process: one, or none between two."""
        return children(self.process.pid)

    def kill_server(self, wait=True):
        pid = case.wait_for(self.servers, "a server process")[0]
        os.kill(pid, signal.SIGKILL)
        if wait:
            case.wait_for(lambda: [p for p in self.servers() if p != pid],
                          "the next server process")
        return pid

    def syncs(self):
        """Sync calls so far, by what they made durable."""
        return metrics.by(metrics.of(self.mnt), "syncs_total", "kind")

    def stop(self, limit=60):
        """The exit status of a clean stop."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise case.Failed(f"did not stop within {limit} s:\n{self.tail()}")
            case.check(not mounts(self.mnt), "still mounted after the stop")
            return status
        finally:
            while mounts(self.mnt):
                if _libc.umount2(self.mnt.encode(), _MNT_DETACH) != 0:
                    break
            self.log.close()
