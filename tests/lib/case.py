"""The frame of a Python case: functions test_*, run in order, reported as TAP.

    import case
    def test_something(): ...
    case.main()

A private folder is case.folder(). case.Skip says why something cannot run here.
case.later(function, ...) runs the function at the end of the case, last one first,
whatever happened before.
"""

import atexit
import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import contain

faulthandler.register(signal.SIGUSR1, file=sys.stdout, all_threads=True)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("TWINSPOOL", os.path.join(ROOT, "twinspool"))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))

_undo = []


class Skip(Exception):
    pass


class Failed(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failed(text() if callable(text) else text)


def equal(got, wanted, what):
    if got != wanted:
        raise Failed(f"{what}: {got!r}, expected {wanted!r}")


def note(text):
    for line in str(text).splitlines():
        print("# " + line, flush=True)


def later(function, *args):
    _undo.append((function, args))


def wait_for(condition, what, limit=20.0, step=0.01):
    """Poll until condition() gives something true, and return it."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {limit:g} s in vain for {what}")
        time.sleep(step)


def folder(name=None):
    """A new private folder that the user cyrus may pass. Paths are kept short, since
    sockets are made below them."""
    base = os.path.realpath(os.environ.get("TMPDIR", tempfile.gettempdir()))
    if name is None:
        path = tempfile.mkdtemp(prefix="t", dir=base)
        later(contain.remove, path)
    else:
        path = os.path.join(base, name)
        os.mkdir(path)
    os.chmod(path, 0o755)
    return path


def ext4(megabytes, *tools):
    """A folder on an ext4 of its own; tools: what else the case needs."""
    need("mkfs.ext4", *tools)
    base = folder()
    image, inside = f"{base}/image", f"{base}/disk"
    os.mkdir(inside)
    with open(image, "wb") as f:
        f.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, inside], stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Skip(f"no loop mount: {done.stderr.decode(errors='replace').strip()}")
    later(lambda: subprocess.run(["umount", "-l", inside], check=True))
    os.chmod(inside, 0o755)
    return inside


def need(*tools):
    for tool in tools:
        if not (os.path.isabs(tool) and os.path.exists(tool) or shutil.which(tool)):
            raise Skip(f"{tool} is not installed")


def undo_all():
    ok = True
    while _undo:
        function, args = _undo.pop()
        try:
            function(*args)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            ok = False
    return ok


class Stage:
    """What test after test uses: calling it gives what make() has made, and makes it the first
    time. After a test that failed, the pair in its attribute two is shown and ended, and the
    next test gets a new one."""

    def __init__(self, make):
        self.make, self.made = make, None

    def __call__(self):
        if self.made is None:
            self.made = self.make()
        return self.made

    def drop(self):
        made, self.made = self.made, None
        if made is not None:
            made.two.tell()
            made.two.close()


def main(tests=None, shared=False, stage=None):
    """Run every test_* of the calling module, or the given (name, function) pairs;
    arguments select by name. shared: what one test set up, later ones use, and so it is
    undone at the end of all; stage: it is this."""
    module = sys.modules["__main__"]
    if tests is None:
        tests = [(n, f) for n, f in vars(module).items()
                 if n.startswith("test_") and callable(f)]
    wanted = sys.argv[1:]
    if wanted:
        tests = [t for t in tests if any(w in t[0] for w in wanted)]
    print(f"1..{len(tests)}", flush=True)
    # Ended from outside, it still takes down what it has set up.
    atexit.register(undo_all)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bad = 0
    for number, (name, function) in enumerate(tests, 1):
        label = f"{number} - {name.removeprefix('test_').replace('_', ' ')}"
        mark = len(_undo)
        failed = True
        start = time.monotonic()
        try:
            function()
            failed = False
            spent = time.monotonic() - start
            print(f"ok {label}" + (f" ({spent:.1f} s)" if spent > 1 else ""), flush=True)
        except Skip as why:
            failed = False
            print(f"ok {label} # skip {why}", flush=True)
        except Failed as why:
            bad += 1
            note(why)
            where = traceback.extract_tb(sys.exc_info()[2])
            note("at " + " < ".join(
                f"{os.path.basename(f.filename)}:{f.lineno}" for f in reversed(where)))
            print(f"not ok {label}", flush=True)
        except Exception:
            bad += 1
            note(traceback.format_exc())
            print(f"not ok {label}", flush=True)
        # What a test set up for itself goes with it; what the module set up before stays.
        if failed and stage is not None:
            stage.drop()
        while len(_undo) > mark and stage is None and not shared:
            function, args = _undo.pop()
            try:
                function(*args)
            except Exception:
                note(traceback.format_exc())
    if not undo_all():
        bad += 1
    sys.exit(1 if bad else 0)
