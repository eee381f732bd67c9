"""The Markdown of a comparison: median (min to max) over the rounds."""
import statistics

LIVE = ("qos0", "qos1", "qos2", "fanout", "paced")
NAMES = {
    "qos0": "QoS 0, 2 × 1 → 1",
    "qos1": "QoS 1, 2 × 1 → 1, transient",
    "qos2": "QoS 2, 2 × 1 → 1, transient",
    "fanout": "QoS 0, 1 → 50",
    "paced": "QoS 1, 2 × 1 → 1, 40,000/s in all",
    "idle": "idle",
}
REFERENCE = "floor"


def values(runs, row, peer, key):
    mine = [r for r in runs if (r["row"], r["peer"]) == (row, peer) and "figures" in r]
    if key == "idle_kib":
        return sorted(r["figures"]["broker_rss_anon_kib"] / r["figures"]["delivered"] for r in mine)
    if key == "p99":
        return sorted(r["latency"]["p99"] for r in mine)
    return sorted(r["figures"][key] for r in mine)


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def cell(runs, row, peer, key):
    of = values(runs, row, peer, key)
    failed = [r["failed"] for r in runs if (r["row"], r["peer"]) == (row, peer) and "failed" in r]
    if not of:
        return "– " + (failed[0][:60] if failed else "")
    text = f"{number(statistics.median(of))} ({number(of[0])} to {number(of[-1])})"
    return text + (f", {len(failed)} runs failed" if failed else "")


def grid(runs, peers, rows, key):
    lines = ["| row | " + " | ".join(peers) + " |", "|---|" + "---|" * len(peers)]
    for row in rows:
        cells = [cell(runs, row, peer, key) for peer in peers]
        lines.append(f"| {NAMES[row]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ceilings(runs, peers):
    """How much faster the generator goes against the floor than against the fastest broker."""
    lines = ["| row | with the floor, /s | fastest broker, /s | ratio |", "|---|---|---|---|"]
    for row in LIVE[:4]:
        floor = values(runs, row, REFERENCE, "messages_per_s")
        best = [
            (statistics.median(v), p)
            for p in peers
            if p != REFERENCE and (v := values(runs, row, p, "messages_per_s"))
        ]
        if not floor or not best:
            continue
        (fastest, name), ceiling = max(best), statistics.median(floor)
        note = "" if ceiling >= 3 * fastest else ": below 3, the generator takes part in this throughput"
        lines.append(f"| {NAMES[row]} | {number(ceiling)} | {number(fastest)} ({name}) | {ceiling / fastest:.2g}{note} |")
    return "\n".join(lines)


def markdown(machine, runs):
    peers = list(machine["versions"])
    loads = sorted(r["load_average"] for r in runs)
    about = [f"| {p} | {machine['versions'][p]} | {machine['durability'][p]} |" for p in peers]
    changed = f", with uncommitted changes: {machine['uncommitted']}" if machine["uncommitted"] else ""
    busy = f"load average during the runs {loads[0]:.1f} to {loads[-1]:.1f}"
    note = f" {machine['built_note']}" if machine["built_note"] else ""
    return f"""# FluxMQ beside its peers

Work tree at {machine["commit"]}{changed}; fluxmq binary sha256 {machine["fluxmq_sha256"][:16]}.{note}
Linux {machine["kernel"]}, {machine["cores"]} cores shared by broker and generator, {busy}.
{machine["rounds"]} rounds in turn, {machine["seconds"]} s in all; median (min to max). `docs/performance.md` says what a row means.

| peer | version | what is kept of a message in these rows |
|---|---|---|
{chr(10).join(about)}

## CPU µs of the broker per delivered message of 256 bytes

{grid(runs, peers, LIVE, "broker_cpu_us_per_message")}

## Messages delivered per second

{grid(runs, peers, LIVE[:4], "messages_per_s")}

## Latency at 40,000/s, p99 in µs

{grid(runs, peers, LIVE[4:], "p99")}

## {machine["connections"]:,} connections with one subscription each

KiB RssAnon per connection:

{grid(runs, peers, ["idle"], "idle_kib")}

CPU µs of connect and subscribe, one after the other:

{grid(runs, peers, ["idle"], "broker_cpu_us_per_message")}

## The generator's ceiling

{ceilings(runs, peers)}
"""
