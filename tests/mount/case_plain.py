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
    case.need("mkfs.ext4")
    image = os.path.join(folder, "image")
    inside = os.path.join(folder, "in")
    os.mkdir(inside)
    with open(image, "wb") as f:
        f.truncate(512 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, inside]).returncode != 0:
        raise case.Skip("no ext4 and no loop device")
    case.later(lambda: subprocess.run(["umount", "-l", inside], check=True))
    return inside


def test_expectations_are_those_of_ext4():
    exercise.run(ext4_folder())


case.main()
