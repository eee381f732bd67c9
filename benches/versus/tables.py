"""The Markdown of a comparison: median (min to max) over the rounds."""
import statistics

import rows

REFERENCE = "floor"
# From this ratio on a build counts as slower, if its least figure is above the other's median.
SLOWER = 1.10


def values(runs, row, peer, key):
    mine = [r for r in runs if (r["row"], r["peer"]) == (row, peer) and "figures" in r]
    if key == "idle_kib":
        return sorted(r["figures"]["broker_rss_anon_growth_kib"] / r["figures"]["delivered"] for r in mine)
    if key == "p99":
        return sorted(r["latency"]["p99"] for r in mine if r.get("latency"))
    if key == "per_flush":
        flushed = [r["figures"] for r in mine if r["figures"].get("disk_flushes")]
        return sorted(f["delivered"] / f["disk_flushes"] for f in flushed)
    if key == "per_round":
        rounds = lambda f: next((v for k, v in f.get("metrics", {}).items() if "commit_rounds" in k), 0)
        return sorted(r["figures"]["delivered"] / rounds(r["figures"]) for r in mine if rounds(r["figures"]))
    return sorted(r["figures"][key] for r in mine)


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cell(runs, row, peer, key):
    of = values(runs, row, peer, key)
    failed = [r["failed"] for r in runs if (r["row"], r["peer"]) == (row, peer) and "failed" in r]
    if not of:
        return "– " + (failed[0].removeprefix("error: ")[:60] if failed else "")
    text = f"{number(statistics.median(of))} ({number(of[0])} to {number(of[-1])})"
    return text + (f", {len(failed)} runs failed" if failed else "")


def grid(runs, peers, names, key, marks=()):
    shown = [p for p in peers if any(r["peer"] == p and r["row"] in names for r in runs)]
    shown_rows = [row for row in names if any(r["row"] == row for r in runs)]
    lines = ["| row | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    for row in shown_rows:
        cells = [cell(runs, row, peer, key) for peer in shown]
        mark = " †" if row in marks else ""
        lines.append(f"| {rows.ALL[row].title}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if shown_rows else "Not measured in this run."


def ceilings(machine, runs, peers):
    """For each row: what a core of the generator does, the fastest broker, and the ratio."""
    found = {}
    for name, row in rows.LIVE.items():
        costs = machine["ceilings"].get(str(row.ceiling[0])) if row.ceiling else None
        rates = [(v[-1], p) for p in peers if p != REFERENCE and (v := values(runs, name, p, "messages_per_s"))]
        if not costs or not rates:
            continue
        send, receive = costs
        fan = row.ceiling[1]
        found[name] = (1e6 * fan / (send + fan * receive), *max(rates))
    return found


def ceiling_table(found):
    lines = ["| row | generator, one core, /s | fastest broker, best run, /s | ratio |", "|---|---|---|---|"]
    for name, (ceiling, rate, peer) in found.items():
        note = "" if ceiling >= 3 * rate else ": below 3"
        lines.append(f"| {rows.ALL[name].title} | {number(ceiling)} | {number(rate)} ({peer}) | {ceiling / rate:.2g}{note} |")
    return "\n".join(lines)


def beside(runs, peers):
    """`other` beside `fluxmq`, row by row, and whether it is slower."""
    if "other" not in peers or "fluxmq" not in peers:
        return ""
    lines = ["\n## other beside fluxmq\n", "CPU per message, ratio of medians.\n", "| row | ratio | verdict |", "|---|---|---|"]
    for name in rows.LIVE | rows.DURABLE:
        ours, other = (values(runs, name, p, "broker_cpu_us_per_message") for p in ("fluxmq", "other"))
        if ours and other:
            ratio = statistics.median(other) / statistics.median(ours)
            slower = ratio >= SLOWER and other[0] > statistics.median(ours)
            faster = ratio <= 1 / SLOWER and other[-1] < statistics.median(ours)
            verdict = "**slower**" if slower else "**faster**" if faster else "no difference seen"
            lines.append(f"| {rows.ALL[name].title} | {ratio:.2f} | {verdict} |")
    return "\n".join(lines) + "\n"


def shares(runs):
    """Cores that broker and generator used together, least and greatest: 2 cores on a quiet machine."""
    live = [r["figures"] for r in runs if r["row"] in rows.LIVE and r["row"] != "paced" and "figures" in r]
    both = ("own_cpu_us_per_message", "broker_cpu_us_per_message")
    of = [sum(f[key] for key in both) * f["messages_per_s"] / 1e6 for f in live]
    return f"{min(of):.2f} to {max(of):.2f}" if of else "unknown"


def anomalies(runs):
    """Runs with losses, repeats or disorder: a table, or a line that says there were none."""
    of = [r for r in runs if "figures" in r and any(r["figures"][k] for k in ("lost", "doubled", "reordered"))]
    if not of:
        return "No message was lost, doubled or reordered in any run."
    lines = ["| peer | row | round | lost | doubled | reordered |", "|---|---|---|---|---|---|"]
    for r in of:
        f = r["figures"]
        lines.append(f"| {r['peer']} | {r['row']} | {r['round']} | {f['lost']} | {f['doubled']} | {f['reordered']} |")
    return "\n".join(lines)


def rounds_table(runs, peers):
    """Messages per commit round, by the metrics of our own brokers (METRICS=yes)."""
    names = list(rows.DURABLE)
    counted = [p for p in peers if any(values(runs, n, p, "per_round") for n in names)]
    if not counted:
        return ""
    return f"Messages per commit round, by the broker's metrics:\n\n{grid(runs, counted, names, 'per_round')}\n\n"


def head(machine, runs, peers):
    loads = sorted(r["load_average"] for r in runs)
    files = machine["uncommitted"].splitlines()
    changed = f", {len(files)} files with uncommitted changes" if files else ""
    digests = ", ".join(f"{n} {d}" for n, d in machine["sha256"].items())
    note = f"\n{machine['note']}" if machine["note"] else ""
    about = [f"| {p} | {machine['versions'][p]} | {' | '.join(machine['durability'][p])} |" for p in peers]
    absent = ", ".join(f"{n}{' (' + why + ')' if why else ''}" for n, why in machine["absent"].items())
    return f"""# FluxMQ beside its peers

Work tree at {machine["commit"]}{changed}; sha256 {digests}.{note}
Linux {machine["kernel"]}, {machine["cpu"]}, {machine["cores"]} cores shared by broker and generator; load average during the runs {loads[0]:.1f} to {loads[-1]:.1f}.
{machine["rounds"]} rounds in turn, {machine["seconds"]} s in all without builds and installs; median (min to max). `docs/performance.md` says what a row means.

| peer | version | what is kept of a message in the transient rows | in the durable rows |
|---|---|---|---|
{chr(10).join(about)}

Not here: {absent or "nobody"}.
"""


def markdown(machine, runs):
    peers = list(machine["versions"])
    found = ceilings(machine, runs, peers)
    low = {name for name, (ceiling, rate, _) in found.items() if ceiling < 3 * rate}
    unpaced = [n for n in rows.LIVE if n != "paced"]
    return f"""{head(machine, runs, peers)}
{anomalies(runs)}
{beside(runs, peers)}
## Transient: CPU µs of the broker per delivered message of 256 bytes

{grid(runs, peers, rows.LIVE, "broker_cpu_us_per_message")}

## Durable: CPU µs of the broker per message of 256 bytes

{grid(runs, peers, list(rows.DURABLE) + list(rows.WORK), "broker_cpu_us_per_message")}

Messages per flush of the disk (all flushes of the machine count, whoever asked for them; none: nothing was synced):

{grid(runs, peers, list(rows.DURABLE) + list(rows.WORK), "per_flush")}

{rounds_table(runs, peers)}Messages a second:

{grid(runs, peers, list(rows.DURABLE) + list(rows.WORK), "messages_per_s")}

## Transient: messages delivered per second

To be read with care: broker and generator together used {shares(runs)} cores in these runs; where other work ran, peers are not equal in that.
† The generator's ceiling is less than three times the fastest broker: the figure says as much about the generator.

{grid(runs, peers, unpaced, "messages_per_s", low)}

## Latency at {rows.RATE:,}/s, p99 in µs

{grid(runs, peers, ["paced"], "p99")}

## {machine["connections"]:,} connections with one subscription each

Growth of RssAnon in KiB per connection:

{grid(runs, peers, ["idle"], "idle_kib")}

CPU µs of connect and subscribe, one after the other:

{grid(runs, peers, ["idle"], "broker_cpu_us_per_message")}

## The generator's ceiling

One core of it, by its CPU time for sending and receiving against the null server; a broker's best run beside it.

{ceiling_table(found)}
"""
