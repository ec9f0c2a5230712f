#!/usr/bin/env python3
"""The exercisers on a mount, without and with extended attributes."""
# limit: 600

import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import exercise  # noqa: E402
import slot  # noqa: E402


PR_CAPBSET_DROP, CAP_SETPCAP = 24, 8


def on_a_mount(xattr, confine=None, only=None):
    s = slot.Slot(case.folder(), xattr=xattr)
    s.confine = confine
    case.later(s.stop)
    s.start()
    os.chmod(s.mnt, 0o755)
    exercise.run(s.mnt, "xattr=" + xattr, only=only)
    case.equal(os.listdir(s.mnt), [], "what is left")
    case.equal(s.stop(), 0, "exit status")
    case.equal(sorted(os.listdir(s.spool)), [".twinspool"], "what is left behind")


def test_without_extended_attributes():
    on_a_mount("no")


def test_with_extended_attributes():
    on_a_mount("yes")


def test_where_secure_bits_may_not_be_set():
    def confine():
        case.equal(ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SETPCAP, 0, 0, 0), 0, "prctl")
    on_a_mount("no", confine, only={"ex_attr"})


case.main()
