"""A private, unmodified Cyrus IMAP server on a given mail partition.

    server = cyrus.Cyrus(case.folder(), spool, layout="legacy", hashed=True)
    server.start()
    server.add_user("alice")            # her INBOX, as the administrator creates it
    with server.imap("alice") as c: ...
    server.run("cyr_expire", "-X", "0")
    server.stop()

Everything but the partition lies in its own folder: configuration, databases, lock
folder, sockets. Ports are free ones on 127.0.0.1. Needs Debian's cyrus-imapd and
sasl2-bin, and root, as the master process has.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

import case
import imap
import lmtp

BIN = "/usr/lib/cyrus/bin"
PASSWORD = "x"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def chown_tree(path, user="cyrus", group="mail"):
    shutil.chown(path, user, group)
    for base, folders, files in os.walk(path):
        for name in folders + files:
            shutil.chown(os.path.join(base, name), user, group)


class Cyrus:
    def __init__(self, folder, spool, layout="uuid", hashed=True,
                 expunge_mode="delayed", delete_mode="delayed", config=None,
                 prefork=2, name="node", services=()):
        case.need(BIN + "/imapd", BIN + "/lmtpd", "saslpasswd2")
        self.dir = folder
        self.spool = spool
        self.name = name
        self.proc = None
        self.prefork = prefork
        self.services = services   # more lines for SERVICES
        self.realm = name + ".test"
        for sub in ("conf", "run", "lock", "proc"):
            os.makedirs(f"{folder}/{sub}", exist_ok=True)
        for sub in ("db", "socket", "user", "quota", "sieve", "log", "msg", "sync"):
            os.makedirs(f"{folder}/conf/{sub}", exist_ok=True)
        os.makedirs(spool, exist_ok=True)
        self.settings = {
            "configdirectory": f"{folder}/conf",
            "defaultpartition": "default",
            "partition-default": spool,
            "proc_path": f"{folder}/proc",
            "mboxname_lockpath": f"{folder}/lock",
            "sievedir": f"{folder}/conf/sieve",
            "admins": "cyrus",
            "allowplaintext": "yes",
            "sasl_mech_list": "PLAIN",
            "sasl_pwcheck_method": "auxprop",
            "sasl_auxprop_plugin": "sasldb",
            "sasl_sasldb_path": f"{folder}/sasldb2",
            "virtdomains": "off",
            "unixhierarchysep": "yes",
            "altnamespace": "no",
            "hashimapspool": "yes" if hashed else "no",
            "mailbox_legacy_dirs": "yes" if layout == "legacy" else "no",
            "expunge_mode": expunge_mode,
            "delete_mode": delete_mode,
            "servername": self.realm,
            "lmtpsocket": f"{folder}/conf/socket/lmtp",
            "idlesocket": f"{folder}/conf/socket/idle",
            "notifysocket": f"{folder}/conf/socket/notify",
            "syslog_prefix": name,
            "conversations": "no",
            "duplicatesuppression": "no",
            "maxlogins_per_user": "0",
            "maxlogins_per_host": "0",
        }
        self.settings.update(config or {})
        self.conf = f"{folder}/imapd.conf"
        self.write_conf()
        subprocess.run(
            ["saslpasswd2", "-p", "-c", "-f", f"{folder}/sasldb2", "-u", self.realm,
             "cyrus"], input=PASSWORD.encode(), check=True)
        chown_tree(folder)
        # A read-only or busy partition keeps the owner it has.
        if os.stat(spool).st_uid == 0:
            shutil.chown(spool, "cyrus", "mail")

    def write_conf(self, **changed):
        for key, value in changed.items():
            self.settings[key.replace("__", "-")] = value
        with open(self.conf, "w") as f:
            for key, value in self.settings.items():
                f.write(f"{key}: {value}\n")
        os.chmod(self.conf, 0o644)

    def start(self, limit=30):
        """Start the master process; return when imapd and lmtpd greet."""
        # Cyrus makes it at the first delivery, and when two processes do so at once one of
        # them answers "File exists" to its client (imap/append.c).
        stage = f"{self.spool}/stage."
        if not os.path.isdir(stage):
            os.mkdir(stage)
            os.chmod(stage, 0o755)
            shutil.chown(stage, "cyrus", "mail")
        for attempt in range(5):
            self.imap_port, self.lmtp_port = free_port(), free_port()
            services = f"{self.dir}/cyrus.conf"
            with open(services, "w") as f:
                f.write(
                    f'START {{\n recover cmd="{BIN}/ctl_cyrusdb -C {self.conf} -r"\n}}\n'
                    "SERVICES {\n"
                    f' imap cmd="{BIN}/imapd -C {self.conf} -U 250"'
                    f' listen="127.0.0.1:{self.imap_port}" prefork={self.prefork}\n'
                    f' lmtp cmd="{BIN}/lmtpd -C {self.conf} -a"'
                    f' listen="127.0.0.1:{self.lmtp_port}" prefork={self.prefork}\n'
                    + "".join(f" {line}\n" for line in self.services) +
                    "}\nEVENTS {\n}\n")
            log = open(f"{self.dir}/master.log", "ab")
            self.proc = subprocess.Popen(
                [f"{BIN}/master", "-C", self.conf, "-M", services,
                 "-p", f"{self.dir}/master.pid", "-l", "256"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd="/")
            log.close()
            case.later(self.stop)
            if self._greets(limit):
                return self
            # Somebody took a port between our look and the server's bind.
            self.stop()
        raise case.Failed("Cyrus does not come up: " + self.log()[-2000:])

    def _greets(self, limit):
        end = time.monotonic() + limit
        for port in (self.imap_port, self.lmtp_port):
            while True:
                if self.proc.poll() is not None or time.monotonic() > end:
                    return False
                try:
                    with socket.create_connection(("127.0.0.1", port), 5) as s:
                        s.settimeout(5)
                        if s.recv(1):
                            break
                except OSError:
                    pass
                time.sleep(0.05)
        return True

    def log(self):
        try:
            with open(f"{self.dir}/master.log", errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def processes(self):
        """The services running under the master."""
        import contain
        return contain.descendants(self.proc.pid) if self.proc else []

    def stop(self, hard=False):
        """Stop the server; hard kills it and all its services at once."""
        if self.proc is None or self.proc.poll() is not None:
            self.proc = None
            return
        below = self.processes()
        if hard:
            os.kill(self.proc.pid, signal.SIGKILL)
        else:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.kill()
        self.proc.wait(20)
        end = time.monotonic() + (0 if hard else 5)
        for pid in below:
            while os.path.exists(f"/proc/{pid}/fd") and time.monotonic() < end:
                time.sleep(0.02)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.proc = None

    def imap(self, user="cyrus", **kw):
        return imap.Imap(self.imap_port, user, **kw)

    def lmtp(self, **kw):
        return lmtp.Lmtp(self.lmtp_port, **kw)

    def add_user(self, *users, folders=()):
        with self.imap() as admin:
            for user in users:
                admin.create(f"user/{user}")
                # The administrator may look in too, which the tests need.
                admin.setacl(f"user/{user}", "cyrus", "lrswipkxtecda")
                for name in folders:
                    admin.create(f"user/{user}/{name}")

    def run(self, tool, *args, check=True, limit=120, stdin=None):
        """One of Cyrus's own commands, as the user cyrus; its output."""
        cyrus = pwd.getpwnam("cyrus")
        done = subprocess.run(
            [f"{BIN}/{tool}", "-C", self.conf, *args], user=cyrus.pw_uid,
            group=cyrus.pw_gid, extra_groups=[cyrus.pw_gid], cwd="/", timeout=limit,
            input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = done.stdout.decode(errors="replace")
        if check and done.returncode != 0:
            raise case.Failed(f"{tool} {' '.join(args)}: {done.returncode}: {text}")
        return text

    def mailbox_dir(self, name, root=None):
        """Where a mailbox lies (internal name, such as user.alice.Sent), below root."""
        path = self.run("mbpath", "-s", name.replace(".", "/")).strip().splitlines()[0]
        relative = os.path.relpath(path, self.spool)
        return os.path.join(root or self.spool, relative)
