#!/usr/bin/env python3
"""How a slot starts: what it takes the place of, what it refuses, and what it says then."""
# limit: 120

import errno
import os
import signal
import subprocess
import sys

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


def test_a_filesystem_without_handles_is_named():
    s = made()
    if subprocess.run(["mount", "-t", "ramfs", "none", s.spool],
                      stderr=subprocess.DEVNULL).returncode != 0:
        raise case.Skip("no ramfs")
    case.later(lambda: subprocess.run(["umount", s.spool], check=True))
    refused(s, "type=ramfs")


case.main()
