#!/usr/bin/env python3
"""How a slot starts: what it takes the place of, what it refuses, and what it says then."""
# limit: 120

import errno
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import slot  # noqa: E402


def made(folder=None, **keys):
    s = slot.Slot(folder or case.folder(), **keys)
    case.later(s.stop)
    return s


def kill_both(s):
    server = case.wait_for(s.servers, "a server")[0]
    os.kill(s.process.pid, signal.SIGKILL)
    os.kill(server, signal.SIGKILL)
    s.process.wait()
    case.wait_for(lambda: fails_with(errno.ENOTCONN, os.statvfs, s.mnt), "the dead mount")


def fails_with(number, function, *args):
    try:
        function(*args)
    except OSError as why:
        return why.errno == number
    return False


def refused(s, *words):
    """The start fails, with these words in the log."""
    try:
        s.start()
    except case.Failed as why:
        for word in words:
            case.check(word in str(why), f"no {word!r} in: {why}")
        return
    raise case.Failed(f"started, expected a refusal with {words}")


def test_a_dead_mount_under_any_path():
    """Its name has a blank, and the configuration names it through a symlink."""
    base, link = case.folder(), os.path.join(case.folder(), "link")
    os.symlink(base, link)
    s = made(f"{base}/with blank")
    s.keys["mountpoint"] = f"{link}/with blank/mnt"
    s.start()
    with open(f"{s.mnt}/kept", "w") as f:
        f.write("kept")
    kill_both(s)
    s.start()
    with open(f"{s.mnt}/kept") as f:
        case.equal(f.read(), "kept", "what was written before")
    case.equal(slot.mounts(s.mnt), ["fuse.twinspool"], "mounts")
    done = subprocess.run([case.PROGRAM, "umount", s.conf], stderr=subprocess.PIPE)
    case.equal((done.returncode, done.stderr), (0, b""), "umount by the configuration")
    case.equal(s.process.wait(30), 0, "exit status")


def injected(path, call, fault):
    """At path, the program with a fault in one of its system calls."""
    case.need("strace")
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\nexec strace -D -f -qqq -o /dev/null -e trace={call} "
                f"-e inject={call}:{fault} {case.PROGRAM} \"$@\"\n")
    os.chmod(path, 0o755)
    return path


def before_65(folder):
    """The program under a kernel that cannot mount beneath another mount."""
    return injected(f"{folder}/twinspool", "move_mount", "error=EINVAL")


def test_dead_mounts_below_go_with_the_last():
    s = made().start()
    case.PROGRAM, ours = before_65(case.folder()), case.PROGRAM
    case.later(setattr, case, "PROGRAM", ours)
    bare, watched = [], threading.Event()

    def watch():
        while not watched.wait(0.0005):
            if not slot.mounts(s.mnt):
                bare.append(time.monotonic())
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for n in range(2, 4):
            kill_both(s)
            s.start()
            case.equal(slot.mounts(s.mnt), ["fuse.twinspool"] * n, "mounts")
            with open(f"{s.mnt}/{n}", "w") as f:
                f.write("kept")
    finally:
        watched.set()
        watcher.join()
    case.equal(bare, [], "moments at which the bare folder showed")
    case.equal(s.stop(), 0, "exit status")  # and nothing is mounted then
    case.equal(os.listdir(s.mnt), [], "the bare folder")


def test_the_bare_folder_takes_nothing():
    """A Cyrus that is started before the mount must not deliver into it."""
    s = made()
    if subprocess.run(["chattr", "+i", s.mnt], stderr=subprocess.DEVNULL).returncode != 0:
        raise case.Skip("no immutable folders here")
    subprocess.run(["chattr", "-i", s.mnt], check=True)
    s.start()
    with open(f"{s.mnt}/kept", "w") as f:
        f.write("kept")
    case.equal(s.stop(), 0, "exit status")
    case.check(fails_with(errno.EPERM, os.mkdir, f"{s.mnt}/user"), "it took a folder")
    s.start()
    case.equal(os.listdir(s.mnt), ["kept"], "names of the next mount")


def test_a_filesystem_without_handles_is_named():
    s = made()
    if subprocess.run(["mount", "-t", "ramfs", "none", s.spool],
                      stderr=subprocess.DEVNULL).returncode != 0:
        raise case.Skip("no ramfs")
    case.later(lambda: subprocess.run(["umount", s.spool], check=True))
    refused(s, "type=ramfs")


def setfacl(*words):
    if subprocess.run(["setfacl", *words], stderr=subprocess.DEVNULL).returncode != 0:
        raise case.Skip("no access control lists here")


def test_lists_that_would_not_be_obeyed():
    """With `xattr: no` the kernel would take a list's mask for the group's bits."""
    case.need("setfacl")
    s = made()
    deep = f"{s.spool}/a/b/c"
    os.makedirs(deep)
    for name in "plain", "listed":
        with open(f"{deep}/{name}", "w") as f:
            f.write("secret")
    setfacl("-m", "u:1:rw", s.spool)
    refused(s, f"path={s.spool}/", "xattr: yes")
    setfacl("-b", s.spool)
    setfacl("-d", "-m", "u:1:rw", f"{s.spool}/a")
    refused(s, f"path={s.spool}/a", "setfacl -b")
    setfacl("-b", f"{s.spool}/a")
    setfacl("-m", "u:1:rw,g::-", f"{deep}/listed")
    s.start()
    with open(f"{s.mnt}/a/b/c/plain") as f:
        case.equal(f.read(), "secret", "a file without a list")
    case.check(fails_with(errno.EACCES, open, f"{s.mnt}/a/b/c/listed"), "a file with a list")
    case.equal(sorted(os.listdir(f"{s.mnt}/a/b/c")), ["listed", "plain"], "names")
    case.check("path=a/b/c/listed" in s.tail(), "the log does not name it")
    case.equal(s.stop(), 0, "exit status")
    setfacl("-b", f"{deep}/listed")
    setfacl("-m", "u:1:rwx", deep)
    s.start()
    case.check(fails_with(errno.EACCES, os.stat, f"{s.mnt}/a/b/c"), "a folder with a list")
    setfacl("-b", deep)
    case.equal(len(os.listdir(f"{s.mnt}/a/b/c")), 2, "names once the list is off")


def test_folders_deeper_than_a_path():
    s = made().start()
    at = os.open(s.mnt, os.O_RDONLY)
    try:
        for _ in range(30):
            os.mkdir("d" * 200, dir_fd=at)
            below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.mkdir("folder", dir_fd=at)
        os.rename("folder", "moved", src_dir_fd=at, dst_dir_fd=at)
        case.equal(os.listdir(at), ["moved"], "names")
        os.mkdir(f"{s.mnt}/short")
        case.check(fails_with(errno.EXDEV, os.rename, f"{s.mnt}/short",
                              f"/proc/self/fd/{at}/in"),
                   "a folder leaves what is replicated, not name by name")
    finally:
        os.close(at)
    case.check("is not replicated" in s.tail(), "the log says nothing")


def fill(path, uid):
    """How many bytes a user can write into a new file."""
    script = ("import os, sys\nos.setuid(int(sys.argv[1]))\nn = 0\n"
              "f = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY)\n"
              "try:\n while True: n += os.write(f, bytes(65536))\n"
              "except OSError: print(n)\n")
    done = subprocess.run([sys.executable, "-c", script, str(uid), path], text=True,
                          stdout=subprocess.PIPE, check=True)
    os.unlink(path)
    return int(done.stdout)


def test_the_reserve_stays_roots():
    disk = case.ext4(32, "tune2fs")
    s = made()
    s.keys["spool"] = f"{disk}/spool"
    os.mkdir(f"{disk}/spool")
    with open("/proc/self/mountinfo") as f:
        device = next(line.split()[-2] for line in f if line.split()[4] == disk)
    subprocess.run(["tune2fs", "-m", "50", device], check=True, stdout=subprocess.DEVNULL)
    os.chmod(f"{disk}/spool", 0o777)
    bare = fill(f"{disk}/spool/bare", 65534)
    s.start()
    ours, root = fill(f"{s.mnt}/ours", 65534), fill(f"{s.mnt}/root", 0)
    case.note(f"{bare >> 10} KB as a user, {ours >> 10} through the mount, "
              f"{root >> 10} as root there")
    case.check(ours < bare * 1.1, "a user had root's reserve")
    case.check(root > bare * 1.5, "root had not")


def without_thread(folder, n):
    """The program, whose server cannot start its nth thread."""
    return injected(f"{folder}/twinspool{n}", "clone3", f"error=EAGAIN:when={n}")


def test_without_each_of_its_threads_it_is_refused():
    """And nothing is left mounted. The guard, without which no transaction may begin, is one of
    the last that are started."""
    base = case.folder()
    s = made(f"{base}/slot", when_alone="refuse", peer="b 127.0.0.1:9 sha256:" + "5f" * 32)
    program, said = case.PROGRAM, ""
    try:
        for n in range(1, 30):
            case.PROGRAM = without_thread(base, n)
            at = os.path.getsize(f"{s.folder}/log") if n > 1 else 0
            refused(s, "the server cannot start")
            case.equal(s.process.returncode, 1, "exit status")
            case.equal(slot.mounts(s.mnt), [], "mounts")
            with open(f"{s.folder}/log") as f:
                f.seek(at)
                said = f.read()
            case.check("cannot start" in said.replace("server cannot start", ""), said)
            if "the guard thread" in said:
                return
    finally:
        case.PROGRAM = program
    raise case.Failed(f"no guard was to be started: {said}")


def test_restarts_back_off():
    """A server that cannot live does not burn the machine."""
    s = made().start()
    dead, end = set(), time.monotonic() + 5
    while time.monotonic() < end:
        for pid in set(s.servers()) - dead:
            os.kill(pid, signal.SIGUSR1)
            dead.add(pid)
        time.sleep(0.002)
    case.note(f"{len(dead)} servers in 5 s")
    case.check(4 <= len(dead) <= 20, f"{len(dead)} servers in 5 s")
    case.equal(os.listdir(s.mnt), [], "names, from the one that lives")


def test_the_slots_are_locked():
    s = made().start()
    server = case.wait_for(s.servers, "a server")[0]
    with open(f"/proc/{server}/status") as f:
        locked = next(int(line.split()[1]) for line in f if line.startswith("VmLck:"))
    case.check(locked >= 12 << 10, f"{locked} KB are locked")


def test_a_foreign_mount_in_the_spool_is_a_name_only():
    """One st_dev per spool."""
    s = made()
    os.mkdir(f"{s.spool}/inner")
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{s.spool}/inner"], check=True)
    case.later(lambda: subprocess.run(["umount", f"{s.spool}/inner"], check=True))
    with open(f"{s.spool}/inner/file", "w") as f:
        f.write("x")
    s.start()
    case.equal(os.listdir(s.mnt), ["inner"], "names")
    case.check(fails_with(errno.EXDEV, os.stat, f"{s.mnt}/inner"), "stat of it")
    case.check(fails_with(errno.EXDEV, open, f"{s.mnt}/inner/file"), "open in it")


def test_o_trunc_is_not_lost():
    """As the first open of a fresh mount, and as a later one."""
    s = made()
    with open(f"{s.spool}/file", "w") as f:
        f.write("x" * 16)
    s.start()
    for text in "xy", "abc":
        with open(f"{s.mnt}/file", "w") as f:
            f.write(text)
        with open(f"{s.spool}/file") as f:
            case.equal(f.read(), text, "what is left")


case.main()
