"""Our broker beside its peers: the live rows and the idle row of design section 11, in rounds A B C A B C."""
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
import tables

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE = 40_000
# Row: arguments of `fluxmq-bench flow`, and messages delivered for each one published.
ROWS = {
    "qos0": (["--qos", "0", "--window", "2000"], 2, 1),
    "qos1": (["--qos", "1", "--window", "200"], 2, 1),
    "qos2": (["--qos", "2", "--window", "200"], 2, 1),
    "fanout": (["--qos", "0", "--publishers", "1", "--subscribers", "50", "--window", "500"], 1, 50),
}
PACED = ["--qos", "1", "--rate", str(RATE), "--window", "1000"]


def shell(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()


def version(name, path):
    if name == "rabbitmq":
        return shell("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server")
    if name == "floor":
        return "this commit"
    flag = {"mosquitto": "-h"}.get(name, "--version")
    return shell(path, flag).splitlines()[0]


class Versus:
    def __init__(self, binaries, work):
        self.bench = str(binaries / "fluxmq-bench")
        self.found = peers.find(binaries)
        self.work = pathlib.Path(work)
        self.seconds = float(os.environ.get("SECONDS_PER_RUN", "2"))
        self.connections = int(os.environ.get("CONNECTIONS", "10000"))
        self.counts = {}
        self.runs = []

    def call(self, peer, *arguments):
        """One run of the generator: its JSON, or why there is none."""
        out = self.work / "figures.json"
        out.unlink(missing_ok=True)
        pids = [word for pid in peer.pids() for word in ("--pid", str(pid))]
        target = ["--addr", f"127.0.0.1:{peer.port}", "--json", str(out), *pids]
        command = [self.bench, arguments[0], *target, *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines() or ["no output"]
            return {"failed": lines[0]}
        return json.loads(out.read_text())

    def count(self, name, peer, row):
        """Messages of a publisher for a run of the length wanted; the first run also warms up."""
        if (name, row) not in self.counts:
            arguments, publishers, fan = ROWS[row]
            messages = 5_000 // fan
            for _ in range(2):
                tried = self.call(peer, "flow", *arguments, "--messages", str(messages), "--limit-s", "20")
                if "failed" in tried:
                    self.counts[name, row] = tried
                    return tried
                rate = tried["figures"]["messages_per_s"] / publishers / fan
                messages = int(min(max(rate * self.seconds, 500), 10_000_000))
                if rate * tried["figures"]["seconds"] > messages / 4:
                    break
            self.counts[name, row] = messages
        return self.counts[name, row]

    def round(self, number, name):
        peer = peers.Peer(name, self.found[name], self.work / f"{name}-{number}")
        try:
            for row, (arguments, _, _) in ROWS.items():
                count = self.count(name, peer, row)
                figures = count
                if isinstance(count, int):
                    figures = self.call(peer, "flow", *arguments, "--messages", str(count))
                self.note(number, name, row, figures)
            self.note(number, name, "paced", self.paced(name, peer))
            idle = self.call(peer, "idle", "--connections", str(self.connections))
            self.note(number, name, "idle", idle)
        finally:
            peer.end()

    def paced(self, name, peer):
        best = [r["figures"]["messages_per_s"] for r in self.runs if (r["peer"], r["row"]) == (name, "qos1") and "figures" in r]
        if not best or max(best) < RATE:
            return {"failed": f"cannot hold {RATE:,}/s"}
        return self.call(peer, "flow", *PACED, "--messages", str(int(RATE / 2 * self.seconds)))

    def note(self, number, name, row, report):
        load = os.getloadavg()[0]
        self.runs.append({"round": number, "peer": name, "row": row, "load_average": load, **report})
        if sys.stderr.isatty() or "failed" in report:
            said = report.get("failed") or f"{report['figures']['broker_cpu_us_per_message']:.3f} µs"
            print(f"round {number} {name} {row}: {said}", file=sys.stderr)


def main():
    began = time.monotonic()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    binaries = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(os.environ.get("ROUNDS", "5"))
    commit, day = shell("git", "rev-parse", "HEAD"), datetime.date.today().isoformat()
    with tempfile.TemporaryDirectory(prefix="versus-") as work:
        versus = Versus(binaries, work)
        wanted = os.environ.get("PEERS", " ".join(versus.found)).split()
        machine = {
            "commit": commit,
            "uncommitted": shell("git", "status", "--porcelain", "-uno", "--", "gateways", "logd", "deploy", "proto", "Cargo.lock"),
            "fluxmq_sha256": hashlib.sha256(pathlib.Path(versus.found["fluxmq"]).read_bytes()).hexdigest(),
            "built_note": os.environ.get("BUILT_NOTE", ""),
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "versions": {n: version(n, versus.found[n]) for n in wanted},
            "durability": {n: peers.DURABILITY[n] for n in wanted},
            "rounds": rounds,
            "connections": versus.connections,
        }
        for number in range(1, rounds + 1):
            for name in wanted:
                try:
                    versus.round(number, name)
                except RuntimeError as error:
                    versus.note(number, name, "start", {"failed": str(error)})
    machine["seconds"] = round(time.monotonic() - began)
    out = ROOT / "benches/results" / f"{day}-{commit[:7]}-versus"
    out.mkdir(parents=True, exist_ok=True)
    (out / "runs.json").write_text(json.dumps({"machine": machine, "runs": versus.runs}, indent=1))
    (out / "README.md").write_text(tables.markdown(machine, versus.runs))
    plots.write(out, machine, versus.runs)
    print(out)


if __name__ == "__main__":
    main()
