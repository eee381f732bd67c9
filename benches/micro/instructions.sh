#!/usr/bin/env bash
# The guard: instructions of each micro case and of the whole broker per message, counted by callgrind, beside
# baseline.txt. Counts do not depend on what else the machine does. Fails when one is more than TOLERANCE (5) per cent
# above its baseline; --record writes the baseline. FLUXMQ_BIN, MICRO_BIN and BENCH_BIN name binaries instead of building.
# Without valgrind it says so and passes: the guard is no part of `make test`.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."
baseline=benches/micro/baseline.txt
tolerance=${TOLERANCE:-5}
command -v valgrind >/dev/null || { echo "no valgrind here: nothing was counted (apt-get install valgrind)"; exit 0; }
bin=${CARGO_TARGET_DIR:-target}/release
[ -n "${MICRO_BIN:-}" ] || cargo build --release -p micro
[ -n "${FLUXMQ_BIN:-}" ] || cargo build --release -p fluxmq
[ -n "${BENCH_BIN:-}" ] || cargo build --release -p fluxmq-bench
# The broker reads its settings from FLUXMQ_*, and refuses what is none.
micro=${MICRO_BIN:-$bin/micro} fluxmq=${FLUXMQ_BIN:-$bin/fluxmq} bench=${BENCH_BIN:-$bin/fluxmq-bench}
unset FLUXMQ_BIN
work=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null; rm -rf "$work"' EXIT
off=()
for other in mqtt-ws amqp http coap grpc admin; do off+=("--$other" off); done
callgrind=(valgrind --tool=callgrind --callgrind-out-file=/dev/null)

collected() { sed -n 's/.*Collected : //p' "$1"; }

# Instructions of all that a case does in so many calls.
of_case() { # case calls
  "${callgrind[@]}" "$micro" "$1" "$2" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; return 1; }
  collected "$work/log"
}

# Instructions in user space of a broker that forwards so many messages of one publisher to one subscriber.
of_broker() { # messages arguments
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "${callgrind[@]}" "$fluxmq" --data-dir memory --mqtt "127.0.0.1:$port" "${off[@]}" >/dev/null 2>"$work/log" &
  broker=$!
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 $broker 2>/dev/null || { cat "$work/log" >&2; return 1; }
    sleep 0.1
  done
  "$bench" flow --addr "127.0.0.1:$port" --publishers 1 --messages "$1" "${@:2}" >/dev/null
  kill $broker
  wait $broker || true
  broker=
  collected "$work/log"
}

# What more work took more: what starts and ends falls out.
: >"$work/now"
while read -r name operations calls; do
  once=$(of_case "$name" "$calls")
  twice=$(of_case "$name" $((2 * calls)))
  echo "$name $(((twice - once) / (calls * operations)))" >>"$work/now"
done < <("$micro")
for qos in 0 1 2; do
  # Many messages, because a broker also does something each second.
  few=$(of_broker 10000 --qos "$qos" --window 200)
  many=$(of_broker 110000 --qos "$qos" --window 200)
  echo "broker_publish_qos$qos $(((many - few) / 100000))" >>"$work/now"
done

if [ "${1:-}" = --record ]; then
  ! grep -qE ' (-|0$)' "$work/now" || { cat "$work/now" >&2; exit 1; }
  {
    echo "# Instructions per operation, by benches/micro/instructions.sh --record; a rise of $tolerance % fails."
    echo "# $(rustc --version), $(valgrind --version), $(uname -m), commit $(git rev-parse --short HEAD)"
    cat "$work/now"
  } >"$baseline"
fi
python3 - "$baseline" "$work/now" "$tolerance" <<'PY'
import sys

read = lambda path: dict(l.split() for l in open(path) if l.strip() and not l.startswith("#"))
baseline, now, tolerance = read(sys.argv[1]), read(sys.argv[2]), float(sys.argv[3])
print("| case | baseline | now | change |\n|---|---|---|---|")
wrong = [f"{name}: in the baseline, not measured" for name in baseline if name not in now]
for name, count in now.items():
    if name not in baseline:
        wrong.append(f"{name}: not in the baseline")
        continue
    if int(count) <= 0:
        wrong.append(f"{name}: {count} instructions cannot be")
        continue
    change = 100 * (int(count) / int(baseline[name]) - 1)
    print(f"| {name} | {baseline[name]} | {count} | {change:+.1f} % |")
    if change > tolerance:
        wrong.append(f"{name}: {change:+.1f} %")
print("\n".join(wrong) or "nothing costs more than its baseline allows")
sys.exit(bool(wrong))
PY
