"""Work queues of our `logd` beside those of NATS and RabbitMQ, in rounds A B C A B C (`benches/queue_rows.sh`)."""
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import peers
import versus

SIZE, WINDOW = 256, 1_000
# Messages of each publisher in the first try, by which the length of the runs is set.
PILOT = 2_000
RUN_S_MAX = 60
# Queues, publishers, consumers of each queue.
SHAPES = {"1": (1, 2, 2), "16": (16, 16, 1)}
DURABILITY = {
    "logd": "synced before the confirm, group commit; logd as a process of its own",
    "other": "as logd",
    "nats-sync": "JetStream work queue in files, synced at each message (sync_interval: always)",
    "nats": "JetStream work queue in files, synced each 2 minutes (default)",
    "rabbitmq": "quorum queue of one member, synced before the confirm",
}
LATENCIES = ("p50", "p99", "p999")


class Logd(peers.Peer):
    """`logd` by itself, for its own clients."""

    def logd(self, _, path):
        command = [path, "--data-dir", str(self.directory / "data"), "--grpc", f"127.0.0.1:{self.native_port}"]
        self.start(command + ["--admin", self.admin()])
        self.wait_until_ready(self.native_port)
        # One port is waited for by the caller: the same again.
        self.port = self.native_port
        return []

    other = logd


def arguments(name, queues, publishers, consumers):
    load = ["--publishers", publishers, "--subscribers", consumers, "--size", SIZE, "--window", WINDOW]
    shape = ["--shape", "shared" if queues == 1 else "pairs"]
    match name:
        case "logd" | "other":
            return ["queue", *load, "--queues", queues]
        case "rabbitmq":
            return ["amqp", *load, *shape, "--queue", "quorum", "--prefetch", WINDOW]
        case _:
            return ["nats", *load, *shape, "--kind", "jetstream"]


class Rows:
    def __init__(self, binaries, work):
        self.bench, self.work = str(binaries / "fluxmq-bench"), pathlib.Path(work)
        found = peers.find(binaries)
        own = {"logd": binaries / "logd", "other": os.environ.get("OTHER_LOGD")}
        self.found = {n: [str(p)] for n, p in own.items() if p and os.access(p, os.X_OK)}
        self.found |= {n: found[n] for n in DURABILITY if n in found and n not in own}
        self.seconds = float(os.environ.get("SECONDS_PER_RUN", "5"))
        self.counts, self.best, self.runs = {}, {}, []

    def call(self, peer, name, shape, messages, rate=0):
        """One run of the generator: its JSON, or why there is none."""
        out = self.work / "figures.json"
        out.unlink(missing_ok=True)
        command = [self.bench, *map(str, arguments(name, *shape)), "--json", str(out)]
        command += ["--addr", f"127.0.0.1:{peer.native_port}", "--messages", str(messages), "--rate", str(rate)]
        command += ["--limit-s", str(RUN_S_MAX - 5)]
        command += [word for pid in peer.pids() for word in ("--pid", str(pid))]
        if peer.admin_port and name in ("logd", "other"):
            command += ["--metrics", f"127.0.0.1:{peer.admin_port}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S_MAX)
        except subprocess.TimeoutExpired:
            return {"failed": f"not over after {RUN_S_MAX} s"}
        if done.returncode or not out.exists():
            return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1]}
        return json.loads(out.read_text())

    def shape(self, peer, number, name, row):
        shape = SHAPES[row]
        publishers = shape[1]
        if (name, row) not in self.counts:
            tried = self.call(peer, name, shape, PILOT // publishers * 2)
            if "failed" not in tried:
                longer = int(tried["figures"]["messages_per_s"] * 1.5 / publishers) + 100
                tried = self.call(peer, name, shape, longer)
            if "failed" in tried:
                return self.note(number, name, row, "closed", tried)
            self.counts[name, row] = int(tried["figures"]["messages_per_s"] * self.seconds / publishers) + 100
        count = self.counts[name, row]
        closed = self.call(peer, name, shape, count)
        self.note(number, name, row, "closed", closed)
        if "failed" in closed:
            return None
        self.best[name, row] = max(self.best.get((name, row), 0), closed["figures"]["messages_per_s"])
        half = int(self.best[name, row] / 2)
        count = int(half * self.seconds / publishers) + 1
        return self.note(number, name, row, "half", self.call(peer, name, shape, count, half) | {"rate": half})

    def round(self, number, name):
        began = time.monotonic()
        make = Logd if name in ("logd", "other") else peers.Peer
        peer = make(name, self.found[name], self.work / f"{name}-{number}")
        try:
            for row in SHAPES:
                self.shape(peer, number, name, row)
        finally:
            peer.end()
        print(f"round {number} {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)

    def note(self, number, name, row, what, report):
        load = os.getloadavg()[0]
        self.runs.append({"round": number, "peer": name, "queues": row, "what": what, "load_average": load, **report})
        said = report.get("failed") or "{messages_per_s:,.0f}/s, {broker_cpu_us_per_message:.2f} µs".format(**report["figures"])
        print(f"round {number} {name} {row} queues, {what}: {said}", file=sys.stderr)


def spread(values, digits):
    """Median, and least to most."""
    if not values:
        return "–"
    form = f"{{:,.{digits}f}}"
    middle, least, most = statistics.median(values), min(values), max(values)
    return form.format(middle) if len(values) == 1 else f"{form.format(middle)} ({form.format(least)} – {form.format(most)})"


def table(runs, wanted, row):
    lines = [f"\n## {row} queue{'s' if row != '1' else ''}\n"]
    lines.append("| broker | messages/s | CPU µs/message | generator µs | at half: messages/s | CPU µs | p50 µs | p99 µs | p99.9 µs | lost, doubled, reordered |")
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for name in wanted:
        of = lambda what: [r for r in runs if (r["peer"], r["queues"], r["what"]) == (name, row, what) and "figures" in r]
        figure = lambda what, key, digits: spread([r["figures"][key] for r in of(what)], digits)
        failed = sorted({r["failed"] for r in runs if (r["peer"], r["queues"]) == (name, row) and "failed" in r})
        wrong = [sum(r["figures"][key] for r in of("closed") + of("half")) for key in ("lost", "doubled", "reordered")]
        cells = [name, figure("closed", "messages_per_s", 0), figure("closed", "broker_cpu_us_per_message", 2)]
        cells += [figure("closed", "own_cpu_us_per_message", 2), figure("half", "messages_per_s", 0)]
        cells += [figure("half", "broker_cpu_us_per_message", 2)]
        cells += [spread([r["latency"][key] for r in of("half")], 0) for key in LATENCIES]
        cells.append(", ".join(map(str, wrong)) + "".join(f"; failed: {f}" for f in failed))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(facts, runs, wanted):
    lines = [f"# Work queues beside their peers, {facts['date']}\n"]
    lines.append(f"Commit {facts['commit']}{' with changes not committed' if facts['uncommitted'] else ''}; {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}; load average at the start {facts['load_average']}. {facts['note']}\n")
    lines.append(f"`benches/queue_rows.sh`: {facts['rounds']} rounds in turn, {facts['seconds_per_run']} s a run, {facts['seconds']} s in all. {SIZE} B, window and prefetch {WINDOW:,}, confirms, an acknowledgement for each message; generator on the same cores. Median, least and most of the rounds. Latency is from when a message was due (open loop) to its delivery.\n")
    lines += [f"- {name} ({facts['versions'][name]}): {DURABILITY[name]}" for name in wanted]
    for row in SHAPES:
        lines += table(runs, wanted, row)
    return "\n".join(lines) + "\n"


def main():
    began = time.monotonic()
    rounds, budget = int(os.environ.get("ROUNDS", "3")), float(os.environ.get("BUDGET_S", "900"))
    model = [l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")]
    with tempfile.TemporaryDirectory(prefix="queues-") as work:
        rows = Rows(pathlib.Path(sys.argv[1]).resolve(), work)
        asked = (os.environ.get("PEERS") or " ".join(rows.found)).split()
        wanted = [n for n in asked if n in rows.found]
        if wanted != asked:
            print(f"not on this machine: {' '.join(n for n in asked if n not in wanted)}", file=sys.stderr)
        facts = {
            "date": datetime.date.today().isoformat(),
            "commit": versus.shell("git", "rev-parse", "--short", "HEAD"),
            "uncommitted": versus.shell("git", "status", "--porcelain", "-uno", "--", "clients", "logd", "proto", "benches/load"),
            "note": os.environ.get("NOTE", ""),
            "cpu": model[0] if model else platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load_average": round(os.getloadavg()[0], 1),
            "versions": {n: versus.version(n, rows.found[n]) for n in wanted},
            "seconds_per_run": rows.seconds,
        }
        done, longest = 0, 0.0
        for number in range(1, rounds + 1):
            round_began = time.monotonic()
            if number > 1 and round_began - began + longest > budget:
                print(f"no time for round {number}: BUDGET_S is {budget:.0f}", file=sys.stderr)
                break
            for name in wanted:
                try:
                    rows.round(number, name)
                except (RuntimeError, subprocess.SubprocessError) as error:
                    rows.note(number, name, "1", "closed", {"failed": str(error).strip()})
            done, longest = number, max(longest, time.monotonic() - round_began)
    facts |= {"rounds": done, "seconds": round(time.monotonic() - began)}
    out = versus.ROOT / "benches/results" / f"{facts['date']}-{facts['commit']}-{os.environ.get('LABEL', 'queue-rows')}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "runs.json").write_text(json.dumps({"machine": facts, "runs": rows.runs}, indent=1))
    (out / "README.md").write_text(markdown(facts, rows.runs, wanted))
    print(out)


if __name__ == "__main__":
    main()
