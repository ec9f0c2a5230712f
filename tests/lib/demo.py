"""What scripts/demo [--once] does once all is built.

Mounts two slots, starts an unmodified Cyrus on the first, delivers, flags, copies and moves some
mail, and prints what arrived where. Then everything is left running with three commands to try
next and the one that ends it; with --once it cleans up by itself. --send FOLDER delivers one
more message into a demonstration that runs, --end FOLDER ends it.
"""

import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import case  # noqa: E402
import contain  # noqa: E402
import cyrus  # noqa: E402
import lmtp  # noqa: E402
import mail  # noqa: E402
import pair  # noqa: E402
import spools  # noqa: E402

ROOT = case.ROOT
PROGRAM = os.path.join(ROOT, "twinspool")


def say(text):
    print(text, flush=True)


def end(base):
    """Stop Cyrus, then both slots, the active one first; remove the folder."""
    pidfile = f"{base}/cyrus/master.pid"
    if os.path.exists(pidfile):
        pid = int(open(pidfile).read().split()[0])
        below = [pid] + contain.descendants(pid)
        try:
            os.kill(pid, 15)
        except ProcessLookupError:
            pass
        case.wait_for(lambda: not set(below) & set(contain.parents()), "Cyrus to stop")
    for name in "ab":
        mnt = f"{base}/{name}/mnt"
        if contain.mounts_below(mnt):
            code, text = pair.program("umount", mnt)
            say(f"{mnt}: " + (text.strip() or "unmounted, the peer has everything"))
            if code != 0:
                return code
    contain.remove(base)
    return 0


def use(server, users):
    with server.lmtp() as c:
        for n in range(30):
            c.deliver(users if n % 10 == 0 else [users[n % 3]], mail.message(n))
    with server.imap("alice") as c:
        c.select()
        c.store("1:4", "+FLAGS", "\\Seen $work")
        c.copy("2:3", "INBOX/Archive")
        c.move("5", "INBOX/Archive")
        c.store("6", "+FLAGS", "\\Deleted")
        c.expunge()


def table(base, a, b):
    say("\nwhat arrived where, read from the two backing trees:\n")
    say(f"  {'mailbox':28} {'a':>9} {'b':>9}")
    for where in spools.mailboxes(a.spool):
        row = []
        for slot in (a, b):
            try:
                box = spools.witness.Mailbox(os.path.join(slot.spool, where))
                name = box.header["N"].decode()
                row.append(str(box.index.header["exists"]))
            except (OSError, spools.Bad):
                row.append("missing")
        say(f"  {name:28} {row[0]:>9} {row[1]:>9}")
    differences = spools.compare(a.spool, b.spool)
    say(f"\n{len(differences)} differences between the two trees")
    for line in differences[:10]:
        say("  " + line)
    return len(differences)


def send(base):
    """One message for alice, and when the standby has it."""
    case.PROGRAM = PROGRAM
    with open(f"{base}/lmtp") as f:
        port = int(f.read())
    with lmtp.Lmtp(port) as c:
        c.deliver(["alice"], mail.message(int(time.time())))
        start = time.monotonic()
        pair.ok("wait", f"{base}/a/mnt")
    say(f"delivered; {1000 * (time.monotonic() - start):.0f} ms later the standby had it "
        "(the start of twinspool wait included)")


def main():
    args = sys.argv[1:]
    if args[:1] == ["--end"] and len(args) == 2:
        return end(args[1])
    if args[:1] == ["--send"] and len(args) == 2:
        return send(args[1])
    if args not in ([], ["--once"]):
        say(__doc__.strip())
        return 2
    case.PROGRAM = PROGRAM
    base = tempfile.mkdtemp(prefix="twinspool-demo-")
    os.chmod(base, 0o755)
    try:
        two = pair.Pair(base=base)
        a, b = two.a, two.b
        for slot in (b, a):
            pair.ok("mount", slot.conf)
        say(f"mounted: a (active)  {a.mnt}\n         b (standby) {b.mnt}")
        server = cyrus.Cyrus(f"{base}/cyrus", a.mnt).start()
        users = ["alice", "bob", "carol"]
        server.add_user(*users, folders=["Archive"])
        say(f"Cyrus IMAP runs on a: imap port {server.imap_port}, "
            f"lmtp port {server.lmtp_port}")
        start = time.monotonic()
        use(server, users)
        spent = time.monotonic() - start
        start = time.monotonic()
        pair.ok("wait", a.mnt)
        say(f"used for {spent * 1000:.0f} ms; {1000 * (time.monotonic() - start):.0f} ms "
            "later the standby had confirmed everything")
        different = table(base, a, b)
        for slot in (a, b):
            code, text = pair.program("fsck", slot.spool)
            say(f"twinspool fsck {slot.name}: {'sound' if code == 0 else text}")
            different += code
    except BaseException:
        contain.kill_all(lambda: contain.descendants(os.getpid()))
        contain.unmount_below(base)
        raise
    if args == ["--once"]:
        return end(base) or (1 if different else 0)
    say(f"""
still running; try next:

  {PROGRAM} status --watch {a.mnt}
  {os.path.join(ROOT, 'scripts', 'demo')} --send {base}
  grep -rl 'Subject: message 20' {b.mnt}

and to end it:

  {os.path.join(ROOT, 'scripts', 'demo')} --end {base}
""")
    with open(f"{base}/lmtp", "w") as f:
        f.write(str(server.lmtp_port))
    # Without undoing what was registered: all of it stays.
    sys.stdout.flush()
    os._exit(1 if different else 0)


if __name__ == "__main__":
    sys.exit(main())
