"""Runs the exercisers tests/mount/ex_* in a folder and passes their TAP on."""

import glob
import os
import re
import subprocess

import case

_POINT = re.compile(r"^(not ok|ok) \d+ - (\w+)(.*)")
# Left out by design: the cases of the other mode (xattr: yes or no).
_BY_DESIGN = {"# skip: xattr=yes", "# skip: xattr=no"}


def programs():
    found = sorted(p for p in glob.glob(os.path.join(case.BUILD, "tests/mount/ex_*"))
                   if re.fullmatch(r"ex_\w+", os.path.basename(p)))
    case.check(found, f"no exercisers in {case.BUILD}: make tests")
    return found


def run(folder, *options, only=None):
    """Every exerciser; Failed with the names and reasons of the cases that failed."""
    bad, count = [], 0
    for program in programs():
        stem = os.path.basename(program)
        if only is not None and stem not in only:
            continue
        out = subprocess.run([program, folder, *options], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace")
        why, points = [], 0
        for line in out.stdout.splitlines():
            point = _POINT.match(line)
            if point is None:
                why.append(line)
                continue
            points += 1
            if point[1] == "not ok" or ("# SKIP" in point[3]
                                        and not _BY_DESIGN & set(why)):
                bad.append("\n".join([f"{stem}: {point[2]}{point[3]}", *why]))
            why = []
        if out.returncode not in (0, 1) or points == 0:
            bad.append(f"{stem}: status {out.returncode}\n" + "\n".join(why))
        count += points
    case.note(f"{count} cases")
    case.check(not bad, lambda: f"{len(bad)} of {count} failed\n" + "\n".join(bad))
    case.check(count > 0, "no case ran")
