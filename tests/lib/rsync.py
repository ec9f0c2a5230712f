"""What a first synchronisation is compared with: `rsync -a` of a spool, over loopback.

Over rsyncd, which is the fastest that rsync can, and over ssh, which is rsync with a peer that
is proven and encrypted, as ours is. The servers are private: own ports, own keys.
"""

import os
import socket
import subprocess

import case
import cyrus


def _opens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class _Server:
    """One of the two: daemon is its process, which reaps those that it starts."""

    def _serve(self, *command):
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
        case.later(lambda: (self.daemon.kill(), self.daemon.wait()))
        case.wait_for(lambda: _opens(self.port), self.name)

    def copy(self, target):
        """All of the spool to target."""
        subprocess.run(["rsync", "-a", *self.source, target], check=True)


class Rsyncd(_Server):
    name = "rsync over rsyncd"

    def __init__(self, folder, spool):
        case.need("rsync")
        self.port = cyrus.free_port()
        conf = f"{folder}/rsyncd.conf"
        with open(conf, "w") as f:
            f.write(f"use chroot = no\nuid = 0\ngid = 0\n[spool]\npath = {spool}\n")
        self._serve("rsync", "--daemon", "--no-detach", "--address=127.0.0.1",
                    f"--port={self.port}", f"--config={conf}")
        self.source = [f"rsync://127.0.0.1:{self.port}/spool/"]


class Ssh(_Server):
    name = "rsync over ssh"

    def __init__(self, folder, spool):
        """case.Skip: there is no sshd that we can run."""
        case.need("rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")
        self.port = cyrus.free_port()
        keys = f"{folder}/ssh"
        os.mkdir(keys, 0o700)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                            f"{keys}/{key}"], check=True)
        with open(f"{keys}/conf", "w") as f:
            f.write(f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {keys}/host\n"
                    f"AuthorizedKeysFile {keys}/user.pub\nPidFile none\nUsePAM no\n"
                    "PermitRootLogin yes\nPasswordAuthentication no\nStrictModes no\n")
        with open(f"{keys}/known", "w") as f, open(f"{keys}/host.pub") as host:
            f.write(f"[127.0.0.1]:{self.port} {host.read()}")
        os.makedirs("/run/sshd", 0o755, exist_ok=True)   # it insists
        self._serve("/usr/sbin/sshd", "-D", "-f", f"{keys}/conf")
        ssh = (f"ssh -F none -q -p {self.port} -i {keys}/user -o IdentitiesOnly=yes "
               f"-o BatchMode=yes -o UserKnownHostsFile={keys}/known")
        done = subprocess.run([*ssh.split(), "127.0.0.1", "true"], stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise case.Skip("sshd runs, and root may not log in by key")
        self.source = ["-e", ssh, f"127.0.0.1:{spool}/"]


def servers(folder, spool):
    """Those that can be had, rsyncd first; of the other, why not."""
    found = [Rsyncd(folder, spool)]
    try:
        found.append(Ssh(folder, spool))
    except case.Skip as why:
        case.note(f"without {Ssh.name}: {why}")
    return found
