"""Figures of a run as one structure (the JSON) and as tables of text."""

import os
import platform
import statistics


def per_op(cell, get):
    return cell.median(lambda s: None if get(s) is None else get(s) / s.ops)


def cell_facts(run, work, system, base):
    cell = run.cells.get((work.name, system.name))
    if cell is None:
        return None
    if cell.refused:
        return {"refused": cell.refused}
    if not cell.samples:
        return None
    ratio = run.ratio(work, system, base)
    names = sorted({p for s in cell.samples for p in s.delta.cpu})
    parts = {p: per_op(cell, lambda s, p=p: s.delta.cpu[p] * 1000) for p in names}
    switches = {p: per_op(cell, lambda s, p=p: s.delta.switches[p]) for p in names}
    return {
        "rounds": len(cell.samples), "operations": cell.samples[0].ops,
        "value": cell.value, "values": [s.value for s in cell.samples],
        "ratio": ratio and ratio[0], "lowest": ratio and ratio[1],
        "highest": ratio and ratio[2],
        "cpu_ms": per_op(cell, lambda s: sum(s.delta.cpu.values()) * 1000),
        "cpu_ms_by_part": parts,
        "switches": per_op(cell, lambda s: sum(s.delta.switches.values())),
        "switches_by_part": switches,
        "wire_bytes": per_op(cell, lambda s: s.delta.wire),
        "journal_commits": per_op(cell, lambda s: s.delta.journal),
        "disk_flushes": per_op(cell, lambda s: s.delta.flushes),
        "disk_bytes": per_op(cell, lambda s: s.delta.written),
        "us_50": cell.median(lambda s: s.us_50), "us_99": cell.median(lambda s: s.us_99),
        "drain_seconds": cell.median(lambda s: s.drained),
        "client_share": cell.median(lambda s: s.client / s.seconds / os.cpu_count()),
        "instructions": cell.instructions and sum(cell.instructions.values()) / cell.counted,
        "instructions_by_part": {p: n / cell.counted
                                 for p, n in (cell.instructions or {}).items()},
        "counted_operations": cell.counted,
        "fuse": {k: n / cell.counted for k, n in cell.fuse.most_common()},
        "wire_bytes_by_change": {k: n / cell.counted for k, n in cell.changes.items()},
        "syncs": {k: n / cell.counted for k, n in cell.syncs.most_common()},
    }


def facts(run, works, up, refused, trace):
    base = up[0]
    foreign = statistics.median(run.foreign) if run.foreign else 0
    return {
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(),
                    "others_share": foreign},
        "counted": {"events": trace.available, "why_not": trace.why,
                    "no_instructions": run.instructions.why},
        "base": base.name,
        "systems": [{"name": s.name, "title": s.title} for s in up],
        "refused": {name: {"title": title, "why": why}
                    for name, (title, why) in refused.items()},
        "workloads": [
            {"name": w.name, "title": w.title, "unit": w.unit,
             "cells": {s.name: cell_facts(run, w, s, base) for s in up}}
            for w in works if (w.name, base.name) in run.cells],
    }


def number(v, digits=3):
    if v is None:
        return "-"
    if v == 0:
        return "0"
    if abs(v) >= 1000:
        return f"{v:,.0f}"
    return f"{v:.{digits}g}"


def table(title, heads, rows):
    """Left column to the left, the rest to the right; nothing without rows."""
    if not rows:
        return ""
    cells = [heads] + rows
    wide = [max(len(r[i]) for r in cells) for i in range(len(heads))]
    lines = [title]
    for r in cells:
        lines.append("  ".join([r[0].ljust(wide[0])] + [
            c.rjust(w) for c, w in zip(r[1:], wide[1:])]).rstrip())
    lines.insert(2, "-" * len(lines[1]))
    return "\n".join(lines) + "\n"


def ratio_text(c):
    if c is None:
        return "-"
    if "refused" in c:
        return "failed"
    spread = (c["highest"] - c["lowest"]) / 2 if c["ratio"] else 0
    return f"{c['ratio']:.2f} ±{spread:.2f}"


def lag_lines(f):
    rows = []
    for name, lag in f.get("lag", {}).items():
        if "refused" in lag:
            rows.append([name, lag["refused"], "", "", "", ""])
        else:
            rows.append([name, number(lag["rate"]), number(lag["ms_50"]),
                         number(lag["ms_99"]), number(lag["ms_max"]), str(lag["samples"])])
    if not rows:
        return []
    return [table("Lag at 80 % of the load, from the client's OK to the second node",
                  ["", "deliveries/s", "median ms", "99 % ms", "worst ms", "of"], rows)]


def sync_lines(f):
    s = f.get("first_sync")
    if s is None:
        return []
    if "refused" in s:
        return [f"First synchronisation: {s['refused']}"]
    rows = [[way, number(w["seconds"]), number(w["cpu_seconds"]), number(w["flush_seconds"]),
             number(w["ratio"]), number(w["ratio_flushed"])] for way, w in s["ways"].items()]
    return [table("First synchronisation", ["", "seconds", "processor s", "sync after, s",
                                            "of ours", "with the sync"], rows)]


def tables(f):
    names = [s["name"] for s in f["systems"]]
    others = [n for n in names if n != f["base"]]
    out = [""]

    def rows(get, of=names, keep=lambda w: True):
        found = []
        for w in f["workloads"]:
            if keep(w):
                found.append([w["title"]] + [get(w, w["cells"][n]) for n in of])
        return found

    def good(c):
        return c is not None and "refused" not in c

    out.append(table("Speed against bare (1 = as fast; ± half the spread of the rounds)",
                     ["", *others], rows(lambda w, c: ratio_text(c), others)))
    out.append(table(
        "Operations a second, or seconds where it says s", ["", *names],
        rows(lambda w, c: "-" if not good(c) else
             number(c["value"]) + (" s" if w["unit"] == "s" else ""))))
    out.append(table(
        "Milliseconds an operation took, half of them and 99 %", ["", *names],
        rows(lambda w, c: "-" if not good(c) else
             f"{number(c['us_50'] / 1000)} {number(c['us_99'] / 1000)}",
             keep=lambda w: any(good(c) and c["us_50"] for c in w["cells"].values()))))
    out.append(table(
        "Processor time of all processes, milliseconds an operation", ["", *names],
        rows(lambda w, c: number(c["cpu_ms"]) if good(c) else "-")))

    def cpu_ratio(w, c):
        base = w["cells"][f["base"]]
        if not good(c) or not good(base) or not base["cpu_ms"]:
            return "-"
        return f"{c['cpu_ms'] / base['cpu_ms']:.2f}"
    out.append(table("The same against bare", ["", *others], rows(cpu_ratio, others)))
    for key, title in (("switches", "Context switches an operation"),
                       ("journal_commits", "Commits of ext4's journal an operation"),
                       ("disk_flushes", "Flushes of the disk an operation"),
                       ("disk_bytes", "Bytes written to the disks an operation"),
                       ("wire_bytes", "Bytes between the nodes an operation"),
                       ("instructions", "Instructions of all processes an operation")):
        if all(c[key] is None for w in f["workloads"] for c in w["cells"].values()
               if good(c)):
            continue
        out.append(table(title, ["", *names], rows(
            lambda w, c: number(c[key]) if good(c) else "-")))
    for key, title in (("fuse", "FUSE requests an operation"),
                       ("syncs", "Syncs of files on the backing trees an operation")):
        if any(good(c) and c[key] for w in f["workloads"] for c in w["cells"].values()):
            out.append(table(title, ["", *names], rows(
                lambda w, c: number(sum(c[key].values())) if good(c) else "-")))

    def lines(title, text):
        """A line for each workload and system of which text says something."""
        found = [(f"  {w['title']}: {n}: ", text(w["cells"][n]))
                 for w in f["workloads"] for n in names if good(w["cells"][n])]
        found = [a + b for a, b in found if b]
        if found:
            out.extend([title, *found, ""])

    def kinds(key):
        return lambda c: ", ".join(f"{number(v, 2)} {k}" for k, v in c[key].items() if v >= 0.05)

    def parts(key):
        return lambda c: ", ".join(f"{p} {number(v)}" for p, v in c[key].items() if v)
    lines("FUSE requests by kind", kinds("fuse"))
    lines("Syncs by kind", kinds("syncs"))
    lines("Bytes that were sent, by kind of change", parts("wire_bytes_by_change"))
    lines("Where the processor time goes, milliseconds an operation", parts("cpu_ms_by_part"))
    lines("Context switches by part", parts("switches_by_part"))
    lines("Instructions by part", parts("instructions_by_part"))
    out += lag_lines(f) + sync_lines(f)
    for r in f["refused"].values():
        out.append(f"{r['title']}: refused: {r['why']}")
    shares = [c["client_share"] for w in f["workloads"] for c in w["cells"].values()
              if good(c) and w["unit"] == "op/s"]
    if shares:
        out.append(f"The clients took up to {max(shares) * 100:.0f} % of the machine.")
    others_share = f["machine"]["others_share"]
    out.append(f"Others (kernel workers and what else runs here) took "
               f"{others_share * 100:.0f} % of it.")
    if others_share > 0.15:
        out.append("That is a busy machine: rely on counts, not on speeds.")
    if f["counted"]["why_not"]:
        out.append(f"Syncs and FUSE requests not counted: {f['counted']['why_not']}.")
    if f["counted"]["no_instructions"]:
        out.append(f"Instructions not counted: {f['counted']['no_instructions']}.")
    out.append(f"{f['seconds']:.0f} s in all, {f['machine']['cores']} cores, kernel "
               f"{f['machine']['kernel']}.")
    return "\n".join(out)
