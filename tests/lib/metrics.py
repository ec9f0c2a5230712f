"""What .twinspool/metrics says, taken apart.

    metrics.by(text, "syncs_total", "kind")      {"index": 12, "spool": 3, ...}
"""

import re

LINE = re.compile(r"^twinspool_(\w+)\{([^}]*)\} (\S+)$", re.M)


def by(text, name, label, **where):
    """The values of one metric by that label, added up over the others; where: labels that a line
    must have."""
    found = {}
    for what, labels, value in LINE.findall(text):
        has = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if what == name and label in has and where.items() <= has.items():
            found[has[label]] = found.get(has[label], 0) + int(value)
    return found


def of(mnt):
    with open(f"{mnt}/.twinspool/metrics") as f:
        return f.read()
