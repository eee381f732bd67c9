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
    """What a core of the generator could do with the floor, and a core of the cheapest broker: 1 ÷ CPU.

    By CPU and not by messages a second, because peers meet a busy machine at different moments.
    """
    lines = ["| row | generator, /s | cheapest broker, /s | ratio |", "|---|---|---|---|"]
    for row in LIVE[:4]:
        own = values(runs, row, REFERENCE, "own_cpu_us_per_message")
        costs = [
            (statistics.median(v), p)
            for p in peers
            if p != REFERENCE and (v := values(runs, row, p, "broker_cpu_us_per_message"))
        ]
        if not own or not costs:
            continue
        (least, name), ceiling = min(costs), 1e6 / statistics.median(own)
        note = "" if ceiling * least >= 3e6 else ": below 3, throughput is as much the generator's as the broker's"
        lines.append(f"| {NAMES[row]} | {number(ceiling)} | {number(1e6 / least)} ({name}) | {ceiling * least / 1e6:.2g}{note} |")
    return "\n".join(lines)


def shares(runs):
    """Cores that broker and generator used together, least and greatest: 2 cores on a quiet machine."""
    live = [r["figures"] for r in runs if r["row"] in LIVE[:4] and "figures" in r]
    both = ("own_cpu_us_per_message", "broker_cpu_us_per_message")
    of = [sum(f[key] for key in both) * f["messages_per_s"] / 1e6 for f in live]
    return f"{min(of):.2f} to {max(of):.2f}" if of else "unknown"


def markdown(machine, runs):
    peers = list(machine["versions"])
    loads = sorted(r["load_average"] for r in runs)
    about = [f"| {p} | {machine['versions'][p]} | {machine['durability'][p]} |" for p in peers]
    files = machine["uncommitted"].splitlines()
    changed = f", {len(files)} files with uncommitted changes" if files else ""
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

To be read with care: broker and generator together used {shares(runs)} cores in these runs; where other work ran, peers are not equal in that.

{grid(runs, peers, LIVE[:4], "messages_per_s")}

## Latency at 40,000/s, p99 in µs

{grid(runs, peers, LIVE[4:], "p99")}

## {machine["connections"]:,} connections with one subscription each

KiB RssAnon per connection:

{grid(runs, peers, ["idle"], "idle_kib")}

CPU µs of connect and subscribe, one after the other:

{grid(runs, peers, ["idle"], "broker_cpu_us_per_message")}

## The generator's ceiling

Messages a second for one whole core, by CPU per message:

{ceilings(runs, peers)}
"""
