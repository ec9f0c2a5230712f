#!/usr/bin/env python3
"""The runner itself: failures, crashes, hangs and leftovers must not pass; nothing that a
case started outlives it; layers are really checked."""
# limit: 120

import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import case  # noqa: E402
import contain  # noqa: E402

RUN = os.path.join(case.ROOT, "tests", "run")
SLEEP = f"sleep 1{os.getpid():07}"    # no other run's
CASES = {
    "good": "echo 1..2; echo ok 1 - a; echo ok 2 - b",
    "plain": "true",
    "bad": "echo 1..2; echo ok 1 - a; echo not ok 2 - b",
    "short": "echo 1..3; echo ok 1 - a",
    "crash": "echo ok 1 - a; kill -SEGV $$",
    "skipped": "echo '1..0 # skip no such thing here'",
    "status": "echo ok 1 - a; exit 3",
    "hang": "echo ok 1 - a; sleep 1000",
    "leaver": f"setsid {SLEEP} >/dev/null 2>&1 & echo ok 1 - a",
    "mounter": "mkdir $TMPDIR/m; mount -t tmpfs none $TMPDIR/m; echo ok 1 - a",
    "disk": 'on=$(findmnt -n -o TARGET -T $TMPDIR); echo on a disk, in "${TMPDIR#"$on"}"',
    **{f"alone{n}": "# alone: as what measures\nflock -nx $HERE/lock sleep 0.3" for n in "12"},
    **{f"beside{n}": "flock -ns $HERE/lock sleep 0.3" for n in "123"},
}


def suite():
    """A build folder whose unit tests are the little scripts above."""
    build = case.folder()
    folder = f"{build}/tests/unit"
    os.makedirs(folder)
    for name, text in CASES.items():
        with open(f"{folder}/test_{name}", "w") as f:
            f.write(f"#!/bin/bash\n# limit: 2\n{text}\n")
        os.chmod(f"{folder}/test_{name}", 0o755)
    return build


def run(*names, options=()):
    tmp = case.folder()
    done = subprocess.run(
        [RUN, "--build", suite(), *options, *[f"unit/{n}" for n in names]],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"TMPDIR": tmp, "HERE": case.folder()})
    case.equal(os.listdir(tmp), [], "left in the runner's folder")
    return done.returncode, done.stdout.splitlines()[-1], done.stdout


def expect(name, status, last):
    got = run(name)
    case.equal((got[0], got[1]), (status, last), name + "\n" + got[2])
    return got[2]


def hang_on_fuse(path):
    """Mount a FUSE that nobody serves at path, and a process that waits for it."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    case.equal(contain.libc.mount(b"hung", path.encode(), b"fuse", 0, options.encode()), 0,
               "mount")
    proc = subprocess.Popen(["stat", path + "/x"], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    case.later(proc.kill)

    def waits():
        with open(f"/proc/{proc.pid}/stack") as f:
            return "fuse" in f.read()
    case.wait_for(waits, "the process to hang")
    return device, proc


def test_a_hung_fuse_mount_goes():
    saved = contain.ABORT
    for where in (saved, "/nowhere/{}"):
        folder = case.folder()
        device, proc = hang_on_fuse(folder)
        contain.ABORT = where
        try:
            case.equal(contain.unmount_below(folder), [folder], "what was mounted")
        finally:
            contain.ABORT = saved
        case.wait_for(lambda: proc.poll() is not None, f"its caller ({where})", limit=10)
        case.equal(contain.mounts_below(folder), [], "what is mounted")
        os.close(device)


def test_counts():
    expect("good", 0, "2 passed, 0 failed")
    expect("plain", 0, "1 passed, 0 failed")
    expect("bad", 1, "1 passed, 1 failed")
    expect("short", 1, "1 passed, 1 failed")
    expect("crash", 1, "1 passed, 1 failed")
    expect("status", 1, "1 passed, 1 failed")


def test_skips_are_no_passes():
    text = expect("skipped", 1, "0 passed, 0 failed")
    case.check("no such thing here" in text, "the reason is not shown")


REPORTER = """#!/bin/bash
echo 'int main(int c, char **v) { int a[1]; return a[c] + !v; }' >$TMPDIR/x.c
gcc -fsanitize=address -o $TMPDIR/x $TMPDIR/x.c 2>/dev/null
$TMPDIR/x >/dev/null 2>&1
echo ok 1 - its server died, and it did not look
"""


def test_a_sanitizers_report_is_a_failure():
    tests = case.folder() + "/tests"
    shutil.copytree(os.path.dirname(__file__), f"{tests}/lib")
    shutil.copy(RUN, tests)
    os.mkdir(f"{tests}/mount")
    with open(f"{tests}/mount/case_reporter", "w") as f:
        f.write(REPORTER)
    os.chmod(f.name, 0o755)
    done = subprocess.run([f"{tests}/run", "reporter"], stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"TMPDIR": case.folder()})
    case.equal(done.stdout.splitlines()[-1], "1 passed, 1 failed", done.stdout)
    case.check("stack-buffer-overflow" in done.stdout, done.stdout)


def test_what_measures_runs_alone():
    text = run("alone", "beside", options=["--jobs", "5"])
    case.equal(text[:2], (0, "5 passed, 0 failed"), text[2])


def test_folders_in_memory():
    for options, disk in (["-v"], False), (["-v", "--memory", "unit"], True):
        text = run("disk", options=options)[2]
        case.equal(re.search(r"on a disk, in /\d+$", text, re.M) is not None, disk, text)


def test_a_hang_is_ended():
    start = time.monotonic()
    expect("hang", 1, "1 passed, 1 failed")
    case.check(time.monotonic() - start < 20, "took too long")


def test_leftovers_are_failures_and_removed():
    text = expect("leaver", 1, "1 passed, 1 failed")
    case.check("left behind" in text, text)
    mine = subprocess.run(["pgrep", "-fx", SLEEP], stdout=subprocess.PIPE)
    case.equal(mine.stdout, b"", "processes left")
    text = expect("mounter", 1, "1 passed, 1 failed")
    case.check("left mounted" in text, text)


def test_what_a_killed_run_left_is_cleaned_by_the_next():
    build, tmp = suite(), case.folder()
    with open(f"{build}/tests/unit/test_hang", "w") as f:
        f.write("#!/bin/bash\ncd $TMPDIR; mkdir m; mount -t tmpfs none m\n"
                "(trap '' TERM; exec sleep 1002) & echo started >m/up; sleep 1003\n")
    env = os.environ | {"TMPDIR": tmp}
    runner = subprocess.Popen([RUN, "--build", build, "--memory", "unit", "unit/hang"], env=env,
                              stdout=subprocess.DEVNULL, start_new_session=True)
    case.wait_for(lambda: [m for m, _, _ in contain.mounts_below(tmp)
                           if os.path.exists(m + "/up")], "the mount")
    # All at once, so that no keeper can clean up.
    below = contain.descendants(runner.pid)
    for pid in [runner.pid] + below:
        os.kill(pid, signal.SIGSTOP)
    keeper = [p for p in below if b"--keep" in open(f"/proc/{p}/cmdline", "rb").read()]
    for pid in [runner.pid] + keeper:
        os.kill(pid, signal.SIGKILL)
    for pid in below:
        os.kill(pid, signal.SIGCONT)
    runner.wait()
    done = subprocess.run([RUN, "--build", build, "unit/good"], env=env,
                          stdout=subprocess.PIPE, text=True)
    case.equal(done.stdout.splitlines()[-1], "2 passed, 0 failed", "the next run")
    case.equal(contain.mounts_below(tmp), [], "mounts left")
    case.equal(os.listdir(tmp), [], "folders left")
    left = [p for p in below if os.path.exists(f"/proc/{p}/exe")]
    case.equal([p for p in left if p in contain.parents()], [], "processes left")


def test_layers_are_checked():
    tree = case.folder()
    for name in ("meta", "sync", "fs"):
        shutil.copytree(os.path.join(case.ROOT, name), f"{tree}/{name}")
    check = [os.path.join(case.ROOT, "scripts", "check-layers"), tree]
    done = subprocess.run(check, stderr=subprocess.PIPE, text=True)
    case.equal(done.stderr, "", "this tree")
    for path, line in (("meta/base/x.c", '#include "meta/index.h"'),
                       ("meta/index_x.c", '#include "meta/batch.h"'),
                       ("meta/x.h", '#include "sync/sync.h"'),
                       ("sync/x.c", '#include "fs/conf.h"'),
                       ("fs/x.c", '#include "sync/store.h"'),
                       ("fs/x.c", "#include <sqlite3.h>"),
                       ("sync/x.c", "#include <fuse_lowlevel.h>"),
                       ("meta/x.c", "#include <openssl/evp.h>"),
                       ("fs/x.c", '#include "conf.h"')):
        with open(f"{tree}/{path}", "w") as f:
            f.write(line + "\n")
        done = subprocess.run(check, stderr=subprocess.PIPE, text=True)
        case.equal((done.returncode, done.stderr.count("\n")), (1, 1), line + done.stderr)
        os.unlink(f"{tree}/{path}")


case.main()
