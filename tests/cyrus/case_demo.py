#!/usr/bin/env python3
"""The demonstration: runs, says that both sides are the same, and leaves nothing behind; or
leaves two mounts and a Cyrus, which its own commands use and end."""
# limit: 180

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import contain  # noqa: E402

DEMO = f"{case.ROOT}/scripts/demo"


def demo(*args):
    done = subprocess.run([DEMO, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=120, stdin=subprocess.DEVNULL)
    case.equal(done.returncode, 0, f"exit status of scripts/demo, which said\n{done.stdout}\n")
    return done.stdout


def base_of(text):
    return re.search(r"/\S*/twinspool-demo-\w+", text)[0]


def test_once():
    text = demo("--once")
    case.check("\n0 differences between the two trees\n" in text and "fsck b: sound" in text,
               text)
    base = base_of(text)
    case.check(not os.path.exists(base), f"{base} stays behind")
    case.check(not list(contain.mounts_below(base)), "a mount stays behind")


def test_left_running():
    text = demo()
    base = base_of(text)
    case.later(lambda: os.path.exists(base) and demo("--end", base))
    commands = re.findall(r"^  (\S.*)$", text.partition("try next:")[2], re.M)
    case.equal(len(commands), 4, f"commands to try in\n{text}\n")
    case.check(commands[3].endswith(f"scripts/demo --end {base}"), commands[3])
    for command in commands[:3]:
        if shutil.which(command.split()[0]) is None:
            continue
        done = subprocess.run(command.replace(" --watch", ""), shell=True, timeout=60,
                              capture_output=True, text=True)
        case.check(done.returncode == 0 and done.stdout, f"{command}: {done}")
    demo("--end", base)
    case.check(not os.path.exists(base), f"{base} stays behind")


case.main()
