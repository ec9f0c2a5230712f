"""The program with the named crash points in it, for cases that die at one of them.

    with faults.armed("make.done"):      # the second: "make.done:2"
        slot.start()                     # this server will die there
"""

import contextlib
import fcntl
import os
import subprocess

import case

# Absolute: make compares names, and rebuilds nothing for a header that another name depends on.
FOLDER = os.path.abspath(os.path.join(case.BUILD, "faults"))


def build():
    """Its path. Cases that want it at the same time wait for one another."""
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(FOLDER, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["make", "-s", "-j2", "O=" + FOLDER, "FAULTS=1"],
                              cwd=case.ROOT, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    case.equal(done.returncode, 0, done.stdout)
    return os.path.join(FOLDER, "twinspool")


@contextlib.contextmanager
def armed(point):
    real, case.PROGRAM = case.PROGRAM, build()
    os.environ["TWINSPOOL_FAULT"] = point
    try:
        yield
    finally:
        case.PROGRAM = real
        del os.environ["TWINSPOOL_FAULT"]
