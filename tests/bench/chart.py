"""The ratios as a bar chart in SVG, for the documentation."""

COLOURS = ["#9aa5b1", "#d9a441", "#2f6f9f", "#3f9b6d", "#8a5fa8", "#c0504d", "#5f6b3a"]
BAR, GAP, LEFT, WIDTH, TOP = 12, 14, 190, 420, 74
NAMES, NAME = 3, 215      # in a line of the legend, and as wide as one


def escape(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def draw(facts):
    base = facts["base"]
    shown = [s for s in facts["systems"] if s["name"] != base]
    rows = []
    for w in facts["workloads"]:
        bars = [(i, w["cells"][s["name"]]["ratio"]) for i, s in enumerate(shown)
                if (w["cells"][s["name"]] or {}).get("ratio")]
        if bars:
            rows.append((w["title"], bars))
    top = max([1.2] + [min(r, 2.0) for _, bars in rows for _, r in bars])
    height = TOP + sum(len(b) * BAR + GAP for _, b in rows) + 30
    x = WIDTH / top
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" '
           f'height="{height}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="18" font-size="13">Speed against Cyrus on bare ext4 '
           f'({facts["machine"]["cores"]} cores, both nodes on one machine)</text>']
    for i, s in enumerate(shown):
        at, down = 10 + i % NAMES * NAME, 30 + i // NAMES * 16
        out.append(f'<rect x="{at}" y="{down}" width="10" height="10" fill="{COLOURS[i]}"/>'
                   f'<text x="{at + 15}" y="{down + 9}">{escape(s["title"])}</text>')
    y = TOP
    for title, bars in rows:
        out.append(f'<text x="{LEFT - 8}" y="{y + len(bars) * BAR / 2 + 4:.0f}" '
                   f'text-anchor="end">{escape(title)}</text>')
        for i, ratio in bars:
            long = min(ratio, top) * x
            out.append(f'<rect x="{LEFT}" y="{y}" width="{long:.1f}" height="{BAR - 2}" '
                       f'fill="{COLOURS[i]}"/><text x="{LEFT + long + 4:.1f}" '
                       f'y="{y + BAR - 3}" font-size="9">{ratio:.2f}</text>')
            y += BAR
        y += GAP
    one = LEFT + x
    out.append(f'<line x1="{one:.1f}" y1="{TOP - 8}" x2="{one:.1f}" y2="{y}" '
               f'stroke="#333" stroke-dasharray="3 3"/>'
               f'<text x="{one:.1f}" y="{y + 12}" text-anchor="middle">bare = 1</text>')
    out.append("</svg>\n")
    return "\n".join(out)
