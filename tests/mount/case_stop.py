#!/usr/bin/env python3
"""One slot without peers, as its administrator meets it: start, status, the ways to stop it,
the helpers of mount(8) and umount(8), and what is said when something is wrong."""
# limit: 120

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import contain  # noqa: E402

HELPERS = ("mount.fuse.twinspool", "umount.fuse.twinspool")
UTAB = "/run/mount/utab"


def run(*args, limit=60, **kw):
    """(exit status, standard output, standard error)"""
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=limit,
                       cwd="/", **kw)
    return p.returncode, p.stdout, p.stderr


def program(*args, **kw):
    return run(case.PROGRAM, *args, **kw)


class Slot:
    def __init__(self, **keys):
        self.base = case.folder()
        self.mnt, self.spool, self.state = (f"{self.base}/{n}" for n in ("m", "s", "st"))
        for path in (self.mnt, self.spool, self.state):
            os.mkdir(path)
        self.conf = f"{self.base}/slot.conf"
        self.proc = None
        self.pids = []
        lines = {"mountpoint": self.mnt, "spool": self.spool, "state": self.state,
                 "name": "a", **keys}
        with open(self.conf, "w") as f:
            f.writelines(f"{k}: {v}\n" for k, v in lines.items())
        self.key = program("keygen", self.state)[1].strip()
        case.later(self.close)

    def mount(self, *options, **kw):
        code, out, err = program("mount", *options, self.conf, **kw)
        case.equal((code, out), (0, ""), f"mount, which said {err!r}")
        return self.serving()

    def serving(self):
        s = self.status()
        self.pids = list(s["pids"].values())
        return self

    def front(self, **kw):
        self.proc = subprocess.Popen([case.PROGRAM, "mount", "-f", self.conf], cwd="/",
                                     stderr=open(f"{self.base}/log", "w"), **kw)
        case.wait_for(lambda: self.mounted() and program("status", self.conf)[0] == 0,
                      "the slot to serve")
        return self.serving()

    def log(self):
        with open(f"{self.base}/log") as f:
            return f.read()

    def status(self):
        code, out, err = program("status", "--json", self.conf)
        case.equal(code, 0, f"status, which said {err!r}")
        return json.loads(out)

    def mounted(self):
        return any(p == self.mnt for p, _, _ in contain.mounts_below(self.mnt))

    def ended(self):
        def gone():
            return not any(alive(p) for p in self.pids)
        if self.proc is not None:
            case.equal(self.proc.wait(20), 0, "exit status of the slot")
            self.proc = None
        case.wait_for(gone, "supervisor and server to end")
        case.check(not self.mounted(), "still mounted")
        case.check(not registered(self.mnt), "still registered")
        case.check(not os.path.exists(f"{self.state}/control"), "the socket stays behind")

    def close(self):
        if self.proc is not None and self.proc.poll() is None:
            self.proc.terminate()
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.proc is not None:
            self.proc.wait(20)
        contain.unmount_below(self.mnt)


def alive(pid):
    """Neither gone nor a zombie that its new parent has not waited for."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def registered(path):
    try:
        with open(UTAB) as f:
            return any(f"TARGET={path} " in line for line in f)
    except FileNotFoundError:
        return False


def with_helpers():
    """umount(8) looks in /sbin alone. What an installation put there is used as it is."""
    build = os.path.dirname(os.path.realpath(case.PROGRAM))
    for name in HELPERS:
        link = f"/sbin/{name}"
        if os.path.islink(link) and not os.path.exists(link):
            os.unlink(link)  # of a run that was killed
        try:
            os.symlink(os.path.join(build, name), link)
            case.later(os.unlink, link)
        except FileExistsError:
            pass


def holder(path, **kw):
    """A process that holds something, until the case ends."""
    p = subprocess.Popen(["sleep", "1000"], **kw)
    case.later(lambda: (p.kill(), p.wait()))
    return p


def test_mount_returns_when_it_serves():
    s = Slot().mount()
    with open(f"{s.mnt}/x", "w") as f:
        f.write("there")
    case.equal(open(f"{s.spool}/x").read(), "there", "what the spool holds")
    st = s.status()
    case.equal((st["name"], st["gate"], st["restarts"]), ("a", "open", 0), "status")
    case.equal(st["mountpoint"], s.mnt, "status of the mount point")
    case.check(abs(st["started"] - time.time()) < 60, "started is not now")
    case.check("\na: active" in "\n" + program("status", s.mnt)[1], "the text names no role")
    case.check('twinspool_active{slot="a"} 1\n' in program("status", "--metrics", s.mnt)[1],
               "the metrics show no role")
    case.equal(program("wait", "--timeout", "1", s.mnt)[0], 0, "wait without peers")
    case.check(registered(s.mnt), "umount(8) would not find the helper")
    case.equal(program("umount", s.mnt)[0], 0, "umount")
    s.ended()


def test_status_survives_a_takeover():
    s = Slot().mount()
    before = s.status()["pids"]
    os.kill(before["server"], signal.SIGKILL)
    st = s.status()
    case.check(st["pids"]["server"] != before["server"], "the same server")
    case.equal(st["pids"]["supervisor"], before["supervisor"], "supervisor")
    case.equal(st["restarts"], 1, "restarts")
    s.serving()
    case.equal(program("umount", s.conf)[0], 0, "umount by the configuration's name")
    s.ended()


def test_a_busy_mount_stays():
    s = Slot().mount()
    with open(f"{s.mnt}/x", "w") as f:
        f.write("x")
    for what, kw in (("working folder", {"cwd": s.mnt}),
                     ("descriptor 0", {"stdin": open(f"{s.mnt}/x")})):
        p = holder(s.mnt, **kw)
        for f in kw.values():
            if hasattr(f, "close"):
                f.close()
        code, _, err = program("umount", s.mnt)
        case.equal(code, 1, "umount of a busy mount")
        case.check(re.search(rf"^{p.pid} sleep: {what}$", err, re.M), err)
        case.check("still mounted and open for changes" in err, err)
        case.equal(s.status()["gate"], "open", "gate")
        with open(f"{s.mnt}/y", "w") as f:
            f.write("y")
        p.kill()
        p.wait()
    case.equal(program("umount", s.mnt)[0], 0, "umount")
    s.ended()


def test_a_writer_keeps_it_from_draining():
    s = Slot().mount()
    with open(f"{s.mnt}/x", "w") as f:
        p = holder(s.mnt, stdout=f)
    code, _, err = program("umount", "--timeout", "300ms", s.mnt)
    case.equal(code, 1, "umount under a writer")
    case.check(re.search(rf"^{p.pid} sleep: descriptor 1$", err, re.M), err)
    case.equal(s.status()["gate"], "open", "gate")
    p.kill()
    p.wait()
    case.equal(program("umount", s.mnt)[0], 0, "umount")
    s.ended()


def test_a_mapped_file_holds():
    s = Slot().mount()
    with open(f"{s.mnt}/x", "w") as f:
        f.write("x" * 4096)
    p = subprocess.Popen(
        [sys.executable, "-c", "import mmap, os, sys, time\n"
         f"fd = os.open({s.mnt + '/x'!r}, os.O_RDONLY)\n"
         "m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)\n"
         "os.close(fd)\n"
         "os.closerange(3, 50)\n"
         "print('held', flush=True)\n"
         "time.sleep(1000)"], stdout=subprocess.PIPE, text=True, cwd="/")
    case.later(lambda: (p.kill(), p.wait()))
    case.equal(p.stdout.readline(), "held\n", "the holder")
    code, _, err = program("umount", s.mnt)
    case.equal(code, 1, "umount of a mapped mount")
    case.check(re.search(rf"^{p.pid} .*mapped file$", err, re.M), err)
    p.kill()
    p.wait()
    case.equal(program("umount", s.mnt)[0], 0, "umount")
    s.ended()


def test_sigterm_is_a_clean_stop():
    s = Slot().front()
    os.kill(s.pids[0], signal.SIGTERM)
    s.ended()
    case.check("drained: every peer has everything" in s.log(), s.log())


def test_sigterm_of_a_busy_mount():
    s = Slot().front()
    p = holder(s.mnt, cwd=s.mnt)
    os.kill(s.pids[0], signal.SIGTERM)
    case.wait_for(lambda: f"held by {p.pid} sleep: working folder" in s.log(),
                  "the log to name the holder")
    case.check(s.mounted() and s.status()["gate"] == "open", "not open again")
    p.kill()
    p.wait()
    os.kill(s.pids[0], signal.SIGTERM)
    s.ended()


def test_plain_umount():
    with_helpers()
    s = Slot().front()
    p = holder(s.mnt, cwd=s.mnt)
    code, _, err = run("umount", s.mnt)
    case.check(code != 0 and f"{p.pid} sleep: working folder" in err, f"{code} {err}")
    case.check(s.mounted(), "a busy mount has gone")
    p.kill()
    p.wait()
    code, _, err = run("umount", s.mnt)
    case.equal(code, 0, f"umount, which said {err!r}")
    s.ended()
    case.check("drained: every peer has everything" in s.log(), "it was not drained")


def test_a_bypassing_umount_ends_it_too():
    s = Slot().front()
    code, _, err = run("umount", "-i", s.mnt)
    case.equal(code, 0, f"umount -i, which said {err!r}")
    s.ended()
    case.check("drained" not in s.log(), "a bypassing umount was taken for a clean stop")


def test_mount_helper():
    with_helpers()
    s = Slot()
    code, _, err = run("mount", "-t", "fuse.twinspool", "-o",
                       "rw,noatime,_netdev,x-systemd.automount", s.conf, s.mnt)
    case.equal(code, 0, f"mount -t, which said {err!r}")
    s.serving()
    case.equal(run("umount", s.mnt)[0], 0, "umount")
    s.ended()
    other = f"{s.base}/other"
    os.mkdir(other)
    code, _, err = run("mount", "-t", "fuse.twinspool", s.conf, other)
    case.check(code != 0 and "its mountpoint is" in err, f"{code} {err}")
    code, _, err = run("mount", "-t", "fuse.twinspool", "-o", "size=3", s.conf, s.mnt)
    case.check(code != 0 and 'mount option "size=3"' in err, f"{code} {err}")
    case.check(not s.mounted(), "mounted all the same")


def test_a_refused_mount_says_why():
    s = Slot()
    open(f"{s.mnt}/in the way", "w").close()
    code, _, err = program("mount", s.conf)
    case.equal(code, 1, "a refused mount")
    case.check("not empty" in err and s.mnt in err, f"it said only {err!r}")
    os.unlink(f"{s.mnt}/in the way")
    with open(s.conf, "a") as f:
        f.write("role: boss\n")
    code, _, err = program("mount", s.conf)
    case.equal((code, err), (1, f"{s.conf}:5: role: expected one of active, standby, not "
                                '"boss"\n'), "a wrong line")


def test_a_slot_is_served_once():
    s = Slot().mount()
    code, _, err = program("mount", s.conf)
    case.equal(code, 1, f"a second mount, which said {err!r}")
    case.equal(s.status()["pids"]["supervisor"], s.pids[0], "the first one's supervisor")
    open(f"{s.mnt}/x", "w").close()
    case.equal(program("umount", s.mnt)[0], 0, "umount")
    s.ended()


def test_a_dead_mount():
    s = Slot().mount()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in s.pids:
            os.kill(pid, number)
    case.wait_for(lambda: not any(alive(p) for p in s.pids), "the end")
    case.check(s.mounted(), "a dead mount has gone by itself")
    code, _, err = program("status", s.mnt)
    case.check(code == 1 and "nobody serves this slot" in err, f"{code} {err}")
    code, _, err = program("umount", s.mnt)
    case.check(code == 1 and "--force" in err and s.mounted(), f"{code} {err}")
    code, _, err = program("umount", "--force", s.mnt)
    case.check(code == 1 and "without proof" in err, f"{code} {err}")
    case.check(not s.mounted(), "still mounted")
    s.mount()
    case.equal(program("umount", s.mnt)[0], 0, "umount")
    s.ended()


def test_the_service_manager_is_told():
    s = Slot()
    name = f"{s.base}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(20)
        s.front(env={**os.environ, "NOTIFY_SOCKET": name})
        text = manager.recv(1000).decode()
        case.check("READY=1\n" in text and f"MAINPID={s.pids[0]}\n" in text, text)
        os.kill(s.pids[0], signal.SIGTERM)
        case.check("STOPPING=1\n" in manager.recv(1000).decode(), "nothing about stopping")
    s.ended()


def test_the_manual_knows_every_command():
    names = re.findall(r"^  ([a-z]+) ", program("help")[1], re.M)
    case.check({"mount", "umount", "status", "wait", "keygen"} <= set(names), names)
    with open(f"{case.ROOT}/docs/man/twinspool.8") as f:
        manual = f.read()
    for name in names:
        case.check(f".It Cm {name}\n" in manual or f".It Cm {name} " in manual,
                   f"twinspool(8) has nothing about {name}")


def test_wrong_use():
    for args in ((), ("nonsense",), ("status",), ("wait", "--timeout", "x", "/"), ("umount",),
                 ("keygen",), ("mount", "-x", "/")):
        code, out, err = program(*args)
        case.equal((code, out), (2, ""), f"twinspool {' '.join(args)}")
        case.check("twinspool" in err, f"{args} said {err!r}")
    for args in (("status", "/"), ("umount", "/proc"), ("wait", "/no/where")):
        code, out, err = program(*args)
        case.equal((code, out), (1, ""), f"twinspool {' '.join(args)}")
        case.check(args[1] in err, f"{args} said {err!r}")


case.main()
