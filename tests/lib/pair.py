"""Two slots on this machine, a and b, each the other's peer.

    pair = pair.Pair()            # folders, keys and configuration
    pair.start()                  # both mounted, a active, b standby
    server = pair.cyrus(layout="legacy")      # a real Cyrus on a's mount
    ...
    pair.settle()                 # wait, both spools equal, both sound

Slots run in the foreground below the case, their log in a file that is shown when a case
fails. case.later ends everything, however it stands.
"""

import json
import os
import re
import shutil
import signal
import subprocess

import case
import contain
import control
import cyrus
import metrics
import spools
import witness

CYRUS_UID = ("cyrus", "mail")


def program(*args, limit=60, stdin=None):
    """Run the program; (exit status, what it printed)."""
    try:
        done = subprocess.run(
            [case.PROGRAM, *map(str, args)], timeout=limit, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as why:
        raise case.Failed(f"twinspool {' '.join(map(str, args))}: no end in {limit} s; "
                          f"{(why.stdout or b'').decode(errors='replace')}") from None
    return done.returncode, done.stdout.decode(errors="replace")


def ok(*args, **kw):
    code, text = program(*args, **kw)
    case.check(code == 0, f"twinspool {' '.join(map(str, args))}: exit {code}: {text}")
    return text


def fsck(slot, mended=False):
    """No finding, but for what Cyrus itself leaves and tolerates. mended: also for what a
    killed Cyrus leaves and reconstruct does not set right (case_fsck shows it)."""
    left = "odd-file|annot-virtual|message-unknown" + ("|first-expunged" if mended else "")
    code, text = program("fsck", slot.spool, limit=300)
    found = [line for line in text.splitlines()
             if re.search(r": [\w-]+ \(\w\): ", line)
             and not re.search(rf": ({left}) \(S\): ", line)
             and not (mended and "cyrus.header.NEW is left" in line)]
    case.check(code == 0 or code == 1 and not found and "findings" in text,
               f"fsck of {slot.name}: exit {code}\n{text}")


def send(number, pids):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Slot:
    def __init__(self, base, name, role):
        self.base, self.name, self.role = base, name, role
        self.mnt, self.spool = f"{base}/mnt", f"{base}/spool"
        self.state, self.conf = f"{base}/state", f"{base}/slot.conf"
        self.logfile = f"{base}/log"
        self.host, self.port = "127.0.0.1", cyrus.free_port()
        self.within = []        # a command before ours, such as one that enters a namespace
        self.proc = None
        self.keys = {}
        self.peers = []
        for path in (base, self.mnt, self.spool, self.state):
            os.makedirs(path, exist_ok=True)
        shutil.chown(self.spool, *CYRUS_UID)
        os.chmod(self.spool, 0o755)

    def keygen(self):
        return ok("keygen", self.state).split()[-1]

    def meets(self, peer, fingerprint, port=None):
        self.peers.append(f"{peer.name} {peer.host}:{port or peer.port} {fingerprint}")

    def configure(self, **keys):
        self.keys.update(keys)
        lines = {
            "mountpoint": self.mnt, "spool": self.spool, "state": self.state,
            "start_wait": "1s",
            "listen": f"{self.host}:{self.port}", "name": self.name, "role": self.role,
            "log": "debug" if os.environ.get("TWINSPOOL_DEBUG") else "info"}
        lines.update(self.keys)
        with open(self.conf, "w") as f:
            for key, value in lines.items():
                f.write(f"{key}: {value}\n")
            for peer in self.peers:
                f.write(f"peer: {peer}\n")

    def mounted(self):
        return any(p == self.mnt for p, _, _ in contain.mounts_below(self.mnt))

    def start(self, *options, limit=30, asks=True):
        """Mount in the foreground below us; return when it serves, and with asks, answers
        to commands."""
        log = open(self.logfile, "ab")
        self.proc = subprocess.Popen(
            [*self.within, case.PROGRAM, "mount", "-f", *options, self.conf],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
        log.close()

        def serves():
            if self.proc.poll() is not None:
                raise case.Failed(f"slot {self.name} ended with {self.proc.returncode}:\n"
                                  + self.log_tail())
            if not self.mounted():
                return False
            if not asks:
                return True
            # The active's gate stays shut until the peers have said hello.
            code, text = program("status", "--json", self.conf)
            return code == 0 and json.loads(text)["gate"] in ("open", "standby")
        case.wait_for(serves, f"slot {self.name} to serve", limit, step=0.05)
        return self

    def refuses(self, limit=20):
        """Mount must fail; returns what it said."""
        start = os.path.getsize(self.logfile) if os.path.exists(self.logfile) else 0
        log = open(self.logfile, "ab")
        proc = subprocess.Popen([case.PROGRAM, "mount", "-f", self.conf], stdout=log,
                                stderr=log, stdin=subprocess.DEVNULL, cwd="/",
                                start_new_session=True)
        try:
            code = proc.wait(limit)
        except subprocess.TimeoutExpired:
            self.proc = proc
            self.kill()
            raise case.Failed(f"slot {self.name} was mounted, not refused") from None
        finally:
            log.close()
        case.check(code != 0, f"slot {self.name}: a refused mount exits with 0")
        with open(self.logfile, errors="replace") as f:
            f.seek(start)
            return f.read()

    def log_tail(self, lines=40):
        return "\n".join(self.log().splitlines()[-lines:])

    def log(self):
        try:
            with open(self.logfile, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def status(self):
        return json.loads(ok("status", "--json", self.conf))

    def peer(self, name=None):
        """What status says of one peer (the only one, unless named)."""
        for one in self.status()["peers"]:
            if name is None or one["name"] == name:
                return one
        raise case.Failed(f"{self.name} knows no peer {name}")

    def wait(self, limit=60):
        code, text = program("wait", "--timeout", limit, self.conf, limit=limit + 30)
        case.check(code == 0, lambda: f"wait on {self.name}: {code} {text}\n"
                   f"{self.log_tail()}")

    def server_pid(self):
        """The server is the supervisor's child, and the supervisor is ours."""
        return case.wait_for(
            lambda: next((p for p, up in contain.parents().items()
                          if up == self.proc.pid), None), f"{self.name}'s server")

    def forget(self, read_only=True):
        """The kernel drops every name of this mount that nobody has in use."""
        contain.remount(self.mnt, read_only)

    def known(self):
        """How many files the kernel may ask for."""
        with open(f"{self.mnt}/.twinspool/metrics") as f:
            return int(re.search(r"^twinspool_known_files{.*} (\d+)$", f.read(), re.M)[1])

    def syncs(self):
        """Sync calls so far, by what they made durable."""
        return metrics.by(metrics.of(self.mnt), "syncs_total", "kind")

    def held(self):
        """Files without a name that server or supervisor have open."""
        links = []
        for pid in (self.proc.pid, self.server_pid()):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
                except FileNotFoundError:
                    pass
        return {link for link in links
                if link.startswith(self.spool) and link.endswith("(deleted)")}

    def kill_server(self):
        pid = self.server_pid()
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self):
        """Supervisor and server die together; the dead mount stays."""
        if self.proc is None:
            return
        pids, found = [], [self.proc.pid]
        # Who is stopped forks no more: a supervisor that has just started may be about to.
        while found:
            send(signal.SIGSTOP, found)
            pids += found
            found = [p for p in contain.descendants(self.proc.pid) if p not in pids]
        send(signal.SIGKILL, pids)
        self.proc.wait(20)
        self.proc = None
        # The mount is dead once the last of them has let go of it.
        case.wait_for(lambda: not set(pids) & set(contain.parents()), "the killed to end")

    def umount(self, *options, limit=60):
        """The clean stop, which must succeed."""
        text = ok("umount", *options, self.mnt, limit=limit)
        self.ended()
        return text

    def terminate(self, limit=60):
        """The clean stop by SIGTERM; it must succeed."""
        self.proc.send_signal(signal.SIGTERM)
        case.equal(self.ended(limit), 0, f"exit status of {self.name} after SIGTERM")

    def ended(self, limit=20):
        try:
            code = self.proc.wait(limit)
        except subprocess.TimeoutExpired:
            raise case.Failed(f"slot {self.name} is unmounted but still runs") from None
        self.proc = None
        case.check(not self.mounted(), f"{self.mnt} is still mounted")
        return code

    def ask(self, line):
        """A command that must succeed, given to the control socket; what it says."""
        well, text = control.ask(self, line)
        case.check(well, f"{line}: {text}")
        return text

    def close(self):
        """Whatever the state, end it."""
        proc, self.proc = self.proc, None
        if proc is not None and proc.poll() is None:
            send(signal.SIGKILL, [proc.pid] + contain.descendants(proc.pid))
            proc.wait(20)
        contain.unmount_below(self.mnt)


class Pair:
    def __init__(self, keys=None, base=None, line=None):
        """line: see longline.py; the two nodes are at its ends."""
        case.need(case.PROGRAM)
        base = base or case.folder()
        self.base = base
        self.a = Slot(f"{base}/a", "a", "active")
        self.b = Slot(f"{base}/b", "b", "standby")
        self.slots = (self.a, self.b)
        self.server = None
        if line is not None:
            for slot, end in zip(self.slots, line.ends):
                slot.host, slot.within = end.address, end.within
        self.mended = False
        prints = {s.name: s.keygen() for s in self.slots}
        self.fingerprints = prints
        self.a.meets(self.b, prints["b"])
        self.b.meets(self.a, prints["a"])
        for slot in self.slots:
            slot.configure(imapd_conf=f"{base}/cyrus/imapd.conf", **(keys or {}))
        os.makedirs(f"{base}/cyrus", exist_ok=True)
        open(f"{base}/cyrus/imapd.conf", "a").close()
        case.later(self.close)

    def start(self):
        self.b.start()
        self.a.start()
        return self

    def cyrus(self, **kw):
        """A Cyrus on a's mount, started. It stops before the mount goes."""
        self.server = cyrus.Cyrus(f"{self.base}/cyrus", self.a.mnt, **kw)
        return self.server.start()

    def wait(self, limit=60):
        self.a.wait(limit)

    def settle(self, limit=60):
        """Everything has arrived: both spools are equal and sound, by the witness and by
        the program's own fsck."""
        try:
            self.wait(limit)
            spools.assert_equal(self.a.spool, self.b.spool)
            for slot in self.slots:
                spools.assert_sound(slot.spool)
                fsck(slot, self.mended and slot is self.a)
        except case.Failed:
            self.tell()
            raise

    def mend(self):
        """After Cyrus itself was killed between two writes of a commit, do what its manual
        says, mailbox by mailbox; returns how many it were. Needs a running Cyrus."""
        self.mended = True
        broken = set()
        for line in spools.check(self.a.spool):
            broken.add(line.split(": ")[0])
        for path in sorted(broken):
            name = witness.Mailbox(path).header["N"].decode().replace(".", "/")
            self.server.run("reconstruct", name)
            self._write_header_anew(path, name)
        return len(broken)

    def _write_header_anew(self, path, name):
        """A new cyrus.header of which the index was not told stays so through reconstruct and
        all commits, until Cyrus writes the next one: with the next keyword or right."""
        box = witness.Mailbox(path)
        if witness.crc(box.header_bytes) != box.index.header["header_file_crc"]:
            with self.server.imap() as admin:
                admin.setacl(name, "anyone", "l")
                admin.deleteacl(name, "anyone")

    def tell(self):
        for slot in self.slots:
            case.note(f"--- log of {slot.name}\n{slot.log_tail()}")

    def umount(self):
        """Clean stop of both, active first, as an administrator does."""
        if self.server:
            self.server.stop()
        self.a.umount()
        self.b.umount()

    def close(self):
        if self.server:
            self.server.stop(hard=True)
        for slot in self.slots:
            slot.close()


def wait_connected(slot, limit=20):
    case.wait_for(lambda: any(p["connected"] for p in slot.status()["peers"]),
                  f"{slot.name}'s peer", limit)
