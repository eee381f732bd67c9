"""Bars of a comparison as SVG: the median, on a logarithmic axis, with a line from min to max."""
import math
import statistics

import rows
import tables

COLOURS = ["#9aa0a6", "#1a73e8", "#00838f", "#e8710a", "#188038", "#7cb342", "#a142f4", "#d93025", "#795548", "#455a64"]
WIDTH, LEFT, BAR, GAP = 760, 130, 18, 26


def bars(runs, peers, names, key, title):
    took_part = lambda row, peer: any((r["row"], r["peer"]) == (row, peer) for r in runs)
    shown = [(row, [(p, tables.values(runs, row, p, key)) for p in peers if took_part(row, p)]) for row in names]
    shown = [(row, group) for row, group in shown if group]
    every = [v for _, group in shown for _, of in group for v in of if v > 0]
    if not every:
        return None
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)) + 0.01)
    place = lambda v: LEFT + (WIDTH - LEFT - 90) * (math.log10(max(v, 10**low)) - low) / (high - low)
    out, y = [f'<text x="10" y="20" font-size="15">{title}</text>'], 40
    for row, group in shown:
        out.append(f'<text x="10" y="{y + 10}" font-weight="bold">{rows.ALL[row].title}</text>')
        y += 18
        for n, (peer, of) in enumerate(group):
            out.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{peer}</text>')
            if of:
                middle = statistics.median(of)
                colour = COLOURS[n % len(COLOURS)]
                out.append(f'<rect x="{LEFT}" y="{y}" width="{place(middle) - LEFT:.1f}" height="{BAR - 4}" fill="{colour}"/>')
                out.append(f'<path d="M{place(of[0]):.1f} {y + 7}H{place(of[-1]):.1f}" stroke="#000"/>')
                out.append(f'<text x="{place(of[-1]) + 6:.1f}" y="{y + 12}">{tables.number(middle)}</text>')
            else:
                out.append(f'<text x="{LEFT + 4}" y="{y + 12}" fill="#888">none</text>')
            y += BAR
        y += GAP - BAR
    for power in range(low, high + 1):
        x = place(10**power)
        out.insert(1, f'<path d="M{x:.1f} 32V{y}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.1f}" y="{y + 14}" text-anchor="middle">{10**power:,g}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 24}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *out, "</svg>\n"])


def write(out, machine, runs):
    peers = list(machine["versions"])
    unpaced = [n for n in rows.LIVE if n != "paced"]
    durable = [n for n in rows.DURABLE | rows.WORK if any(r["row"] == n for r in runs)]
    cpu = "broker_cpu_us_per_message"
    for name, names, key, title in (
        ("cpu", list(rows.LIVE), cpu, "CPU µs of the broker per delivered message (logarithmic)"),
        ("durable", durable, cpu, "Durable rows: CPU µs of the broker per message (logarithmic)"),
        ("throughput", unpaced, "messages_per_s", "Messages delivered per second (logarithmic)"),
        ("idle", ["idle"], "idle_kib", "KiB RssAnon per idle connection (logarithmic)"),
    ):
        text = bars(runs, peers, names, key, title)
        if text:
            (out / f"{name}.svg").write_text(text)
