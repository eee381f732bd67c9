"""Our broker beside its peers, in rounds A B C A B C: the live, durable and idle rows of design section 11."""
import datetime
import hashlib
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import peers
import plots
import rows
import tables

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Messages of the first try of a row, by which the length of its runs is set.
PILOT = 300
# A run that hangs is given up, and no round begins that would not end within the budget.
RUN_S_MAX = 40
BUDGET_S = float(os.environ.get("BUDGET_S", "1500"))


def shell(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()


def version(name, paths):
    if name == "rabbitmq":
        return shell("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server")
    if name == "artemis":
        jars = sorted(pathlib.Path(paths[0]).parents[1].glob("lib/artemis-server-*.jar"))
        return jars[0].stem.rsplit("-", 1)[1] if jars else "unknown"
    if name == "rumqttd":
        listed = shell("cargo", "install", "--list", "--root", str(pathlib.Path(paths[0]).parents[1]))
        return next((l.strip(":") for l in listed.splitlines() if l.startswith("rumqttd ")), "unknown")
    if name == "floor":
        return "this commit"
    flag = {"mosquitto": "-h"}.get(name, "--version")
    lines = shell(paths[0], flag).splitlines()
    return lines[0] if lines else "unknown"


class Versus:
    def __init__(self, binaries, work):
        self.bench = str(binaries / "fluxmq-bench")
        self.found = peers.find(binaries)
        self.work = pathlib.Path(work)
        self.seconds = float(os.environ.get("SECONDS_PER_RUN", "1.5"))
        self.connections = int(os.environ.get("CONNECTIONS", "2000"))
        self.wanted_rows = set(os.environ.get("ROWS", " ".join(rows.ALL)).split())
        self.counts = {}
        self.runs = []

    def call(self, work, target, *arguments):
        """One run of the generator: its JSON, or why there is none."""
        out = self.work / "figures.json"
        out.unlink(missing_ok=True)
        command = [self.bench, work, "--json", str(out), *target, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S_MAX)
        except subprocess.TimeoutExpired:
            return {"failed": f"not over after {RUN_S_MAX} s"}
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines() or ["no output"]
            return {"failed": lines[-1]}
        return json.loads(out.read_text())

    def measure(self, peer, name, messages):
        row = rows.ALL[name]
        native = row.work in (rows.AMQP, rows.NATS)
        target = ["--addr", f"127.0.0.1:{peer.native_port if native else peer.port}"]
        target += [word for pid in peer.pids() for word in ("--pid", str(pid))]
        if peer.admin_port:
            target += ["--metrics", f"127.0.0.1:{peer.admin_port}"]
        if row.work == rows.IDLE:
            return self.call(row.work, target, "--connections", str(self.connections))
        limit = ["--limit-s", str(RUN_S_MAX - 5)]
        return self.call(row.work, target, *row.arguments, "--messages", str(messages), *limit)

    def count(self, name, peer, row):
        """Messages for a run of the length wanted; the first run also warms up."""
        if (name, row) not in self.counts:
            each = rows.ALL[row].delivered_each
            messages = PILOT
            for _ in range(4):
                tried = self.measure(peer, row, messages)
                first = tried[0] if isinstance(tried, list) else tried
                if "failed" in first:
                    self.counts[name, row] = tried
                    return tried
                rate = first["figures"]["messages_per_s"] / each
                # A short run says little of a long one: ten times as many at most.
                messages = int(min(max(rate * self.seconds, 200), 10 * messages, 10_000_000))
                if first["figures"]["seconds"] > self.seconds / 8:
                    break
            if row == "paced":
                messages = int(rows.RATE / 2 * self.seconds)
            self.counts[name, row] = messages
        return self.counts[name, row]

    def round(self, number, name):
        began = time.monotonic()
        peer = peers.Peer(name, self.found[name], self.work / f"{name}-{number}")
        try:
            for row in rows.of(name):
                if row not in self.wanted_rows:
                    continue
                figures = {"failed": "the broker ended"} if not peer.alive() else self.run(name, peer, row)
                if isinstance(figures, list):
                    self.note(number, name, "gather", figures[0])
                    self.note(number, name, "drain", figures[1])
                else:
                    self.note(number, name, row, figures)
        finally:
            peer.end()
        print(f"round {number} {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)

    def run(self, name, peer, row):
        if row == "idle":
            return self.measure(peer, row, 0)
        if row == "paced":
            best = [r["figures"]["messages_per_s"] for r in self.runs if (r["peer"], r["row"]) == (name, "qos1") and "figures" in r]
            if best and max(best) < rows.RATE:
                return {"failed": f"cannot hold {rows.RATE:,}/s"}
        count = self.count(name, peer, row)
        return self.measure(peer, row, count) if isinstance(count, int) else count

    def note(self, number, name, row, report):
        load = os.getloadavg()[0]
        self.runs.append({"round": number, "peer": name, "row": row, "load_average": load, **report})
        if sys.stderr.isatty() or "failed" in report:
            said = report.get("failed") or f"{report['figures']['broker_cpu_us_per_message']:.3f} µs"
            print(f"round {number} {name} {row}: {said}", file=sys.stderr)

    def ceilings(self, floor):
        """Generator CPU µs per message sent and received, by QoS, against the null server."""
        port = peers.free_port()
        null = subprocess.Popen([floor, "--null", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            found = {}
            for qos in (0, 1, 2):
                told = [
                    self.call("ceiling", ["--addr", f"127.0.0.1:{port}"], "--qos", str(qos), "--messages", "1000000")
                    for _ in range(3)
                ]
                good = [t for t in told if isinstance(t, list)]
                cost = lambda at: min(t[at]["figures"]["own_cpu_us_per_message"] for t in good)
                if good:
                    found[str(qos)] = [cost(0), cost(1)]
            return found
        finally:
            null.terminate()
            null.wait()


def machine(versus, wanted):
    commit = shell("git", "rev-parse", "HEAD")
    changed = shell("git", "status", "--porcelain", "-uno", "--", "gateways", "logd", "deploy", "proto", "Cargo.lock")
    digest = lambda path: hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    model = [l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")]
    return {
        "commit": commit,
        "uncommitted": changed,
        "sha256": {n: digest(versus.found[n][0])[:16] for n in wanted if n in ("fluxmq", "other", "two-tier")},
        "note": os.environ.get("NOTE", ""),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "cpu": model[0] if model else platform.machine(),
        "versions": {n: version(n, versus.found[n]) for n in wanted},
        "durability": {n: peers.DURABILITY[n] for n in wanted},
        "absent": {n: os.environ.get("ABSENT_" + n.upper().replace("-", "_"), "") for n in peers.ORDER if n not in versus.found and n != "other"},
        "connections": versus.connections,
    }


def main():
    began = time.monotonic()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    binaries = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(os.environ.get("ROUNDS", "5"))
    with tempfile.TemporaryDirectory(prefix="versus-") as work:
        versus = Versus(binaries, work)
        asked = (os.environ.get("PEERS") or " ".join(versus.found)).split()
        wanted = [n for n in asked if n in versus.found]
        if wanted != asked:
            print(f"not on this machine: {' '.join(n for n in asked if n not in wanted)}", file=sys.stderr)
        facts = machine(versus, wanted)
        facts["ceilings"] = versus.ceilings(versus.found["floor"][0])
        done, longest = 0, 0.0
        for number in range(1, rounds + 1):
            round_began = time.monotonic()
            if number > 1 and round_began - began + longest > BUDGET_S:
                print(f"no time for round {number}: BUDGET_S is {BUDGET_S:.0f}", file=sys.stderr)
                break
            for name in wanted:
                try:
                    versus.round(number, name)
                except (RuntimeError, subprocess.SubprocessError) as error:
                    versus.note(number, name, "start", {"failed": str(error).strip()})
            done, longest = number, max(longest, time.monotonic() - round_began)
        facts["rounds"] = done
    facts["seconds"] = round(time.monotonic() - began)
    label = os.environ.get("LABEL", "versus")
    out = ROOT / "benches/results" / f"{datetime.date.today().isoformat()}-{facts['commit'][:7]}-{label}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "runs.json").write_text(json.dumps({"machine": facts, "runs": versus.runs}, indent=1))
    (out / "README.md").write_text(tables.markdown(facts, versus.runs))
    plots.write(out, facts, versus.runs)
    print(out)


if __name__ == "__main__":
    main()
