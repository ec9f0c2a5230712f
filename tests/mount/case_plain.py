#!/usr/bin/env python3
"""The exercisers on plain ext4: what they expect of a mount is what ext4 does."""
# limit: 300

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import exercise  # noqa: E402


def ext4_folder():
    """The private folder if it is on ext4, else the inside of an image."""
    folder = case.folder()
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True,
                          text=True, check=True).stdout.strip()
    if kind == "ext2/ext3":
        return folder
    return case.ext4(512)


def test_expectations_are_those_of_ext4():
    exercise.run(ext4_folder())


case.main()
