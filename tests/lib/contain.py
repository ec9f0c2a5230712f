"""Containment: what a test case started must not outlive it.

A keeper process runs one case. It is the subreaper of everything below it, so a daemon
that left its session still ends up as its child and is found. Mounts are found by their
path below the case's private folder. What a killed run left is found at the next start
by the lock that it no longer holds.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

MARK = "TWINSPOOL_RUN"
PREFIX = "ts-run-"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MNT_FORCE, MNT_DETACH = 1, 2
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
ABORT = "/sys/fs/fuse/connections/{}/abort"

libc = ctypes.CDLL(None, use_errno=True)


def mounts_below(folder):
    """Mount points at or below folder, innermost first: (path, device minor, type)."""
    found = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            left, _, right = line.partition(b" - ")
            field = left.split(b" ")
            path = os.fsdecode(field[4].decode("unicode_escape").encode("latin-1"))
            if path == folder or path.startswith(folder + "/"):
                minor = int(field[2].split(b":")[1])
                found.append((path, minor, right.split(b" ")[0].decode()))
    return found[::-1]


def remount(path, read_only):
    """As it was; which drops every name of it that the kernel keeps for nobody."""
    flags = MS_REMOUNT | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    if libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"remount of {path}")


def unmount_below(folder):
    """Unmount everything below folder; a FUSE connection is aborted first, or a dead
    server's callers would hang for ever. Returns the paths that were there."""
    left = mounts_below(folder)
    for path, minor, kind in left:
        if kind.startswith("fuse"):
            try:
                with open(ABORT.format(minor), "w") as f:
                    f.write("1")
            except OSError:
                # No fusectl is mounted here. This aborts too, whether or not it unmounts.
                libc.umount2(os.fsencode(path), MNT_FORCE)
        libc.umount2(os.fsencode(path), MNT_DETACH)
        if kind == "fuse.twinspool":
            # Nobody is left who would take its entry out of /run/mount/utab.
            subprocess.run(["umount", "-i", "--fake", path], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [path for path, _, _ in left]


def remove(folder):
    """rm -rf, of mount points too: the program makes them immutable."""
    def once_more(function, path, _):
        try:
            at = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            flags, = struct.unpack("i", fcntl.ioctl(at, FS_IOC_GETFLAGS, bytes(4)))
            fcntl.ioctl(at, FS_IOC_SETFLAGS, struct.pack("i", flags & ~FS_IMMUTABLE_FL))
            os.close(at)
            function(path)
        except OSError:
            pass
    shutil.rmtree(folder, onerror=once_more)


def parents():
    """pid -> parent pid, of every process but zombies."""
    out = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                rest = f.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if rest[0] != b"Z":
            out[int(name)] = int(rest[1])
    return out


def descendants(root):
    up = parents()
    found, grown = {root}, True
    while grown:
        grown = False
        for pid, parent in up.items():
            if parent in found and pid not in found:
                found.add(pid)
                grown = True
    found.discard(root)
    return sorted(found)


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            text = f.read(200).replace(b"\0", b" ").decode(errors="replace").strip()
        return f"{pid} {text or open(f'/proc/{pid}/comm').read().strip()}"
    except OSError:
        return str(pid)


def words_of(pid):
    """The words of its command line; none if it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def kill_all(find, patience=10.0):
    """SIGKILL whatever find() returns until it returns nothing; False if some stayed."""
    end = time.monotonic() + patience
    while True:
        left = find()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        if not left:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


def keep(folder, cwd, limit, out_path, command):
    """Run command in cwd with a time limit, output to out_path, then clean up below folder.
    The exit status of the keeper says how it went; notes are added to the output."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    lock = os.open(os.path.join(os.path.dirname(folder), "lock"), os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    with open(out_path, "ab") as out:
        def note(text):
            out.write(f"# {text}\n".encode())
            out.flush()

        start = time.monotonic()
        proc = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, cwd=cwd)
        status = None
        while status is None and not stopped:
            if time.monotonic() - start > limit:
                note(f"time limit of {limit:.0f} s reached")
                break
            try:
                status = proc.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                pass
        if status is None:
            # A Python case prints where it hangs; see case.py.
            proc.send_signal(signal.SIGUSR1)
            time.sleep(0.3)
        me = os.getpid()
        end = time.monotonic() + (5 if status is not None else 0)
        left = descendants(me)
        while left and time.monotonic() < end:
            time.sleep(0.05)
            reap()
            left = descendants(me)
        code = 0 if status == 0 else 1
        if left:
            note("left behind: " + "; ".join(command_of(p) for p in left))
            code = 1
        mounted = unmount_below(folder)
        if mounted:
            note("left mounted: " + " ".join(mounted))
            code = 1
        if not kill_all(lambda: descendants(me)):
            note("could not be killed: " + " ".join(map(str, descendants(me))))
            code = 1
        if status is None:
            code = 124
        elif status < 0:
            note(f"ended by {signal.Signals(-status).name}")
        elif status > 0:
            note(f"exit status {status}")
    return code


def belongs(pid, run_id, folder):
    """Is this process part of that run? Cyrus overwrites its environment with its title,
    so the folder of its open files is asked too."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            if f"{MARK}={run_id}\0".encode() in f.read() + b"\0":
                return True
        links = [f"/proc/{pid}/cwd"]
        links += [f"/proc/{pid}/fd/{n}" for n in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    for link in links:
        try:
            if os.readlink(link).startswith(folder + "/"):
                return True
        except OSError:
            pass
    return False


def sweep(tmp):
    """Clean what runs that are dead left behind: mounts, processes, folders."""
    for name in sorted(os.listdir(tmp)):
        folder = os.path.join(tmp, name)
        if not name.startswith(PREFIX) or not os.path.isdir(folder):
            continue
        try:
            lock = os.open(os.path.join(folder, "lock"), os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        run_id = name[len(PREFIX):]
        print(f"# cleaning up after run {run_id}", file=sys.stderr)
        unmount_below(folder)
        # Not ourselves, who hold the lock file open.
        kill_all(lambda: [p for p in parents()
                          if p != os.getpid() and belongs(p, run_id, folder)])
        unmount_below(folder)
        remove(folder)
        os.close(lock)


def new_run(tmp):
    """A private folder for this run, locked for as long as this process lives."""
    run_id = f"{os.getpid()}-{int(time.time())}"
    folder = os.path.join(tmp, PREFIX + run_id)
    # The servers under test change to the user cyrus and must be able to pass.
    os.mkdir(folder, 0o755)
    os.chmod(folder, 0o755)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return run_id, folder, lock


def disk_in_memory(folder, gigabytes=4):
    """An ext4 below folder whose disk is memory, so that a sync costs nothing; its path. It goes
    with unmount_below."""
    memory, disk = f"{folder}/memory", f"{folder}/d"
    for path in (memory, disk):
        os.mkdir(path, 0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={gigabytes}g", "none", memory], check=True)
    with open(f"{memory}/image", "wb") as f:
        f.truncate(gigabytes << 30)
    subprocess.run(["mkfs.ext4", "-q", f"{memory}/image"], check=True)
    # discard: what a case has removed is free memory again
    subprocess.run(["mount", "-o", "loop,discard", f"{memory}/image", disk], check=True)
    os.chmod(disk, 0o755)
    # a keeper looks for it beside its folder
    os.symlink("../lock", f"{disk}/lock")
    return disk
