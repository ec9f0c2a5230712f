#!/usr/bin/env python3
"""The exercisers on a mount, without and with extended attributes."""
# limit: 600

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import exercise  # noqa: E402
import slot  # noqa: E402


def on_a_mount(xattr):
    s = slot.Slot(case.folder(), xattr=xattr)
    case.later(s.stop)
    s.start()
    os.chmod(s.mnt, 0o755)
    exercise.run(s.mnt, "xattr=" + xattr)
    case.equal(os.listdir(s.mnt), [], "what is left")
    case.equal(s.stop(), 0, "exit status")
    case.equal(sorted(os.listdir(s.spool)), [".twinspool"], "what is left behind")


def test_without_extended_attributes():
    on_a_mount("no")


def test_with_extended_attributes():
    on_a_mount("yes")


case.main()
