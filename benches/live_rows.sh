#!/usr/bin/env bash
# The live rows and the idle row of design §11: the floor, Mosquitto (where it is installed) and fluxmq in
# turn, ROUNDS times each. CPU µs of the broker per delivered message; a table and the raw JSON go to
# benches/results/<date>-<commit>-live.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${CARGO_TARGET_DIR:-target}/release
rounds=${ROUNDS:-3} connections=${CONNECTIONS:-10000}
# The commit of the start: others may commit while the rounds run.
commit=$(git rev-parse HEAD)
out=benches/results/$(date +%F)-${commit:0:7}-live
work=$(mktemp -d)
mkdir -p "$out"
broker=
trap 'kill $broker 2>/dev/null; rm -rf "$work"' EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mosquitto=$(command -v mosquitto || ls /usr/sbin/mosquitto 2>/dev/null || true)

start() {
  case $1 in
    floor) "$bin/floor" "127.0.0.1:$port" 2>/dev/null & ;;
    fluxmq) rm -rf "$work/data"; "$bin/fluxmq" --mqtt "127.0.0.1:$port" --data-dir "$work/data" >/dev/null & ;;
    # Transient messages, nothing synced; no queue limit that would drop, Nagle off as everywhere here.
    mosquitto)
      sed "s/@PORT@/$port/" benches/versus/configs/mosquitto.conf >"$work/mosquitto.conf"
      "$mosquitto" -c "$work/mosquitto.conf" >/dev/null 2>&1 & ;;
  esac
  broker=$!
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do kill -0 $broker || exit 1; done
}

flow() { # peer round row arguments
  local file="$out/$3-$1-$2.json"
  "$bin/fluxmq-bench" flow --addr "127.0.0.1:$port" --pid $broker --json "$file" "${@:4}" >/dev/null || echo "$1 $3: failed"
}

peers=(floor fluxmq)
[ -z "$mosquitto" ] || peers=(floor mosquitto fluxmq)
for round in $(seq "$rounds"); do
  for peer in "${peers[@]}"; do
    start "$peer"
    flow "$peer" "$round" qos0 --qos 0 --messages "${MESSAGES:-300000}" --window 2000
    flow "$peer" "$round" qos1 --qos 1 --messages "${MESSAGES:-300000}" --window 200
    flow "$peer" "$round" qos2 --qos 2 --messages "${MESSAGES:-300000}" --window 200
    flow "$peer" "$round" fanout --qos 0 --publishers 1 --subscribers 50 --messages 40000 --window 500
    flow "$peer" "$round" paced --qos 1 --rate 40000 --messages 60000 --window 1000
    "$bin/fluxmq-bench" idle --addr "127.0.0.1:$port" --pid $broker --connections "$connections" --json "$out/idle-$peer-$round.json" >/dev/null || echo "$peer idle: failed"
    kill $broker; wait $broker 2>/dev/null || true
  done
done

python3 - "$out" "$commit" "${peers[@]}" <<'PY' | tee "$out/README.md"
import glob, json, platform, statistics, sys

out, commit, peers = sys.argv[1], sys.argv[2], sys.argv[3:]
print(f"# Live rows\n\nCommit {commit}, {platform.release()}, 2 cores; median (min to max) over the rounds.\n")
print("CPU µs of the broker per delivered message of 256 bytes (paced: 40,000/s in all); idle: KiB RssAnon and µs per connection with one subscription.\n")
print("| row | " + " | ".join(peers) + " |\n|---|" + "---|" * len(peers))
def cell(row, peer, key, scale=1.0):
    values = [json.load(open(f))["figures"] for f in glob.glob(f"{out}/{row}-{peer}-*.json")]
    values = sorted(v[key] / (scale if scale != 1.0 else 1) for v in values)
    if not values:
        return "–"
    return f"{statistics.median(values):.3g} ({values[0]:.3g} to {values[-1]:.3g})"
for row in ("qos0", "qos1", "qos2", "fanout", "paced"):
    print(f"| {row} | " + " | ".join(cell(row, p, "broker_cpu_us_per_message") for p in peers) + " |")
print("| idle, µs | " + " | ".join(cell("idle", p, "broker_cpu_us_per_message") for p in peers) + " |")
def kib(peer):
    values = [json.load(open(f))["figures"] for f in glob.glob(f"{out}/idle-{peer}-*.json")]
    values = sorted(v["broker_rss_anon_kib"] / v["delivered"] for v in values)
    return f"{statistics.median(values):.3g} ({values[0]:.3g} to {values[-1]:.3g})" if values else "–"
print("| idle, KiB | " + " | ".join(kib(p) for p in peers) + " |")
PY
