#!/usr/bin/env python3
"""scripts/bench, shortly: it measures, writes what it was asked for, and leaves nothing."""
# limit: 240

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import case  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import xml.etree.ElementTree  # noqa: E402

import contain  # noqa: E402


def bench(folder, *args):
    """Under our own run's mark and folder, so that a death of ours takes it down too."""
    done = subprocess.run(
        [f"{case.ROOT}/scripts/bench", "--no-build", "--dir", folder, *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=200)
    return done.returncode, done.stdout.decode(errors="replace")


def test_a_short_run():
    case.need("mkfs.ext4", "losetup", "ss")
    folder = case.folder()
    code, text = bench(
        folder, "--only", "lmtp-4-4k,flags", "--systems", "plain,rolling,local,local-xattr", "--rounds",
        "1", "--seconds", "0.1", "--json", f"{folder}/out.json", "--svg", f"{folder}/out.svg")
    case.equal(code, 0, text)
    with open(f"{folder}/out.json") as f:
        facts = json.load(f)
    case.equal([s["name"] for s in facts["systems"]], ["bare", "plain", "rolling", "local", "local-xattr"],
               "systems")
    for work in facts["workloads"]:
        for name, cell in work["cells"].items():
            where = f"{work['name']} on {name}: {cell}"
            case.check(cell["value"] > 0 and cell["cpu_ms"] > 0, where)
            case.equal(cell["wire_bytes"] is not None, name in ("rolling", "local", "local-xattr"), where)
            if "fuse/fuse_request_send" in facts["counted"]["events"]:
                case.equal(bool(cell["fuse"]), name in ("plain", "local", "local-xattr"), where)
            if "ext4/ext4_sync_file_enter" in facts["counted"]["events"]:
                case.check(sum(cell["syncs"].values()) >= 0.5, where)
                # By what is synced: an index by itself, or with all that is owed.
                kinds = {"index", "syncfs" if name.startswith("local") else "index"}
                case.check(kinds & set(cell["syncs"]), where)
            if name.startswith("local"):
                kinds = {"append", "body"} if work["name"].startswith("lmtp") else {"flags"}
                case.check(all(cell["wire_bytes_by_change"].get(k, 0) > 5 for k in kinds), where)
    deliver, flags = (w["cells"] for w in facts["workloads"])
    if deliver["plain"]["fuse"]:
        # docs/performance.md names each of them; the first deliveries of a connection look up more.
        for what, cells, most in (("delivery", deliver, 24), ("flag change", flags, 5)):
            plain, ours = (sum(cells[n]["fuse"].values()) for n in ("plain", "local"))
            case.note(f"requests for a {what}: {ours:.1f}, plain {plain:.1f}")
            case.check(ours < most and ours < plain * 0.6,
                       f"{ours} requests for a {what}, plain {plain}")
        # The kernel asks for security.capability before each write.
        asked = [deliver[n]["fuse"].get("GETXATTR", 0) for n in ("local", "local-xattr")]
        case.check(asked[0] < 0.1 and 3 < asked[1] < 6, f"GETXATTR for a delivery: {asked}")
    xml.etree.ElementTree.parse(f"{folder}/out.svg")
    left = [n for n in os.listdir(folder) if n.startswith(contain.PREFIX)]
    case.equal(left, [], "folders left behind")
    case.equal(contain.mounts_below(folder), [], "left mounted")


def ended_from_outside(systems, last, least):
    """Once the last system is up; all of it is to go."""
    case.need("mkfs.ext4", "losetup", "ss")
    folder = case.folder()
    proc = subprocess.Popen(
        [f"{case.ROOT}/scripts/bench", "--no-build", "--dir", folder, "--only", "lmtp-4-4k",
         "--systems", systems, "--rounds", "1000"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = b""
    for line in proc.stdout:
        said += line
        if last in line:
            break
    below = contain.descendants(proc.pid)
    case.check(last in said and len(below) > 10
               and len(contain.mounts_below(folder)) >= least, f"it has not begun: {said}")
    proc.terminate()
    proc.communicate(timeout=60)
    case.equal(contain.mounts_below(folder), [], "left mounted")
    alive = set(below) & set(contain.parents())
    case.check(not alive, lambda: "left running: "
               + "; ".join(contain.command_of(p) for p in alive))


def test_ended_from_outside_it_takes_all_down():
    ended_from_outside("plain,local", b"twinspool local: up", 5)


if shutil.which("glusterd"):
    def test_ended_from_outside_with_glusterfs():
        """Daemons that leave their parents, in name spaces of their own. Bench takes GlusterFS
        along where it is installed, and so do we."""
        case.need("ip", "unshare", "nsenter")
        ended_from_outside("gluster", b"GlusterFS replica 2: up", 4)


case.main()
