"""The run behind scripts/bench."""

import json
import os
import signal
import sys
import time

import case
import count
import engine
import extra
import gluster
import golden
import report
import systems
import work

QUICK_SECONDS = 300
ALL = [*systems.ALL, gluster.Gluster]


def say(text):
    print(text, flush=True)


def chosen(names, wanted):
    """Those that were asked for by name, or by a part of it; all, if nothing was."""
    parts = [w for w in wanted.split(",") if w]
    return [n for n in names if not parts
            or any(n == p or p not in names and p in n for p in parts)]


def bring_up(folder, image, wanted):
    """The systems that run here, bare first, and what the others said."""
    up, refused = [], {}
    for cls in ALL:
        system = cls(folder, image)
        if system.name not in wanted:
            continue
        start = time.monotonic()
        try:
            system.up()
        except (systems.Refused, case.Skip, case.Failed) as why:
            if system.name == "bare":
                raise
            refused[system.name] = (system.title, str(why))
            say(f"{system.title}: refused: {why}")
            continue
        up.append(system)
        say(f"{system.title}: up in {time.monotonic() - start:.1f} s")
    return up, refused


EXTRA = ["lag", "sync"]


def plan(args, pools):
    """The workloads, and which of the extra measurements are wanted."""
    works = work.everything(pools)
    if args.quick and not args.only:
        works = [w for w in works if w.name not in work.NOT_QUICK]
    names = chosen([w.name for w in works] + EXTRA, args.only)
    if "lag" in names:
        names.append("lmtp-4-4k")
    return [w for w in works if w.name in names], [n for n in EXTRA if n in names]


def measure(args):
    began = time.monotonic()
    os.nice(args.nice)
    folder = case.folder("d")
    os.mkdir(f"{folder}/run")
    case.later(os.rmdir, f"{folder}/run")
    systems.in_memory(f"{folder}/run")
    pools = golden.pools(folder)
    works, extras = plan(args, pools)
    big = args.messages if work.NEED_BIG & {*extras, *(w.name for w in works)} else 0
    image = golden.make(folder, big, 4)
    say(f"mail made in {time.monotonic() - began:.1f} s")
    wanted = chosen([c.name for c in ALL if args.systems or not c.asked_only], args.systems)
    if args.quick and not args.systems and big:
        # Taking in the large folder takes it minutes.
        wanted.remove(gluster.Gluster.name)
        say(f"{gluster.Gluster.title}: left out of a quick run, unless --systems names it")
    up, refused = bring_up(folder, image, {"bare", *wanted})
    trace = count.Trace(f"bench-{os.getpid()}")
    case.later(trace.close)
    if args.profile:
        import profile
        for w in works:
            for system in up:
                if args.profile in (system.name, "all"):
                    profile.show(w, system, trace, 300 if w.unit == "op/s" else 1, say)
        return
    rounds = args.rounds or (3 if args.quick else 5)
    seconds = args.seconds or (0.5 if args.quick else 2.0)
    run = engine.Engine(up, rounds, seconds, trace, say)
    # What the extra measurements take, by experience.
    pairs = sum(system.wire() is not None for system in up)
    reserve = 6 * pairs * ("lag" in extras) + 45 * ("sync" in extras)
    for i, w in enumerate(works):
        until = None
        if args.quick:
            # What is left of the time, shared by those that are still to come.
            left = QUICK_SECONDS - reserve - (time.monotonic() - began)
            if left < 10:
                say(f"{w.title}: the time is up")
                continue
            until = time.monotonic() + left / (len(works) - i)
        start = time.monotonic()
        run.measure(w, until)
        say(f"{w.title}: {time.monotonic() - start:.1f} s")
    facts = report.facts(run, works, up, refused, trace)
    start = time.monotonic()
    if "lag" in extras:
        facts["lag"] = extra.lags(run, pools[4000], 4 if args.quick else 15)
        say(f"lag: {time.monotonic() - start:.1f} s")
        start = time.monotonic()
    if "sync" in extras and args.quick and time.monotonic() - began > QUICK_SECONDS - 20:
        say("first synchronisation: the time is up")
    elif "sync" in extras:
        try:
            facts["first_sync"] = extra.first_sync(folder, image, 1 if args.quick else 3)
        except engine.FAILURES as why:
            # What was measured until now is worth something.
            facts["first_sync"] = {"refused": str(why).splitlines()[0]}
        say(f"first synchronisation: {time.monotonic() - start:.1f} s")
    facts["seconds"] = time.monotonic() - began
    say(report.tables(facts))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(facts, f, indent=1)
    if args.svg:
        import chart
        with open(args.svg, "w") as f:
            f.write(chart.draw(facts))


def main(args):
    if args.list:
        print("workloads:", *(w.name for w in work.everything({4000: "", 100_000: ""})),
              *EXTRA)
        print("systems:", *(c.name for c in ALL))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = 0
    try:
        measure(args)
    except (case.Failed, case.Skip) as why:
        say(f"bench: {why}")
        code = 1
    finally:
        if not case.undo_all():
            code = 1
    return code
