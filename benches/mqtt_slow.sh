#!/usr/bin/env bash
# A receiver that stops reading while messages go to it and to a healthy twin on the same topic and gateway: the twin's
# latency with and without it, the most anonymous memory of all processes of the broker (looked at five times a second),
# and what the broker counted. Transient and persistent, QoS 0, 1, 2; MESSAGES (1000000) of 256 B at RATE a second (15000).
#   BIN      folder of the release binaries (default target/release)
#   OUT      folder for the figures (default a temporary one)
#   TIERS    one (fluxmq) or two (logd and mqtt-gateway)
#   KINDS    default "transient persistent"     LEVELS  default "0 1 2"
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release} out=${OUT:-$(mktemp -d)}
messages=${MESSAGES:-1000000} rate=${RATE:-15000} tiers=${TIERS:-one} port=${PORT:-28920}
. benches/processes.sh
mkdir -p "$out"

start() {
  rm -rf "$work/data"
  if [ "$tiers" = one ]; then
    ours fluxmq "$bin/fluxmq" --data-dir "$work/data" --mqtt 127.0.0.1:$port --mqtt-ws off --amqp off --http off --coap off \
      --grpc off --admin 127.0.0.1:$((port + 1))
  else
    ours logd "$bin/logd" --data-dir "$work/data" --grpc 127.0.0.1:$((port + 2)) --admin 127.0.0.1:$((port + 3))
    ours gateway "$bin/mqtt-gateway" --logd http://127.0.0.1:$((port + 2)) --mqtt 127.0.0.1:$port --mqtt-ws off \
      --admin 127.0.0.1:$((port + 1))
  fi
}

most() { # FILE: the largest sum of RssAnon, KiB, while the file is not there
  local most=0 sum p
  while [ ! -e "$1" ]; do
    sum=0
    for p in "${pids[@]}"; do sum=$((sum + $(awk '/^RssAnon/ {print $2}' "/proc/$p/status"))); done
    [ $sum -le $most ] || most=$sum
    sleep 0.2
  done
  echo $most
}

echo "| sessions | QoS | beside a deaf one | delivered to the twin | p50 ms | p99 ms | max ms | RssAnon KiB before | most | disk MiB |" | tee "$out/table.md"
echo "|---|---|---|---|---|---|---|---|---|---|" | tee -a "$out/table.md"
for kind in ${KINDS:-transient persistent}; do
  for qos in ${LEVELS:-0 1 2}; do
    for deaf in 0 1; do
      start
      name=$kind-qos$qos-deaf$deaf
      before=0
      for p in "${pids[@]}"; do before=$((before + $(awk '/^RssAnon/ {print $2}' "/proc/$p/status"))); done
      rm -f "$work/done"
      most "$work/done" >"$work/most" &
      watcher=$!
      args=(--addr 127.0.0.1:$port --metrics 127.0.0.1:$((port + 1)) --publishers 1 --subscribers 1 --messages "$messages" --rate "$rate" --window 200
        --qos "$qos" --deaf $deaf --mqtt 5 --limit-s 400 --json "$out/$name.json")
      for p in "${pids[@]}"; do args+=(--pid "$p"); done
      [ $kind = transient ] || args+=(--persistent)
      "$bin/fluxmq-bench" flow "${args[@]}" >"$out/$name.txt" 2>&1 || echo "FAILED: $name" | tee -a "$out/table.md"
      disk=$(du -sm "$work/data" | cut -f1)
      touch "$work/done"
      wait $watcher
      python3 - "$out/$name.json" "$kind" "$qos" $deaf "$before" "$(cat "$work/most")" "$disk" <<'END' | tee -a "$out/table.md"
import json, sys
path, kind, qos, deaf, before, most, disk = sys.argv[1:]
try:
    run = json.load(open(path))
    ms = lambda key: f"{run['latency'][key] / 1000:.2f}"
    print(f"| {kind} | {qos} | {'yes' if deaf == '1' else 'no'} | {run['figures']['delivered']} | {ms('p50')} | {ms('p99')} | {ms('max')} | {before} | {most} | {disk} |")
except (OSError, KeyError, ValueError, TypeError) as error:
    print(f"| {kind} | {qos} | {'yes' if deaf == '1' else 'no'} | no figures: {error!r} | | | | {before} | {most} | {disk} |")
END
      stop
    done
  done
done
