#!/usr/bin/env bash
# Many MQTT connections with one subscription each: connections a second, µs of CPU and KiB of anonymous memory each, over
# all processes of the broker; Mosquitto in the same run. Rows: plain TCP and TLS, then unique filters on two gateways
# of one logd. CONNECTIONS (15000) are made by two load processes; 20,000 open files each are enough.
#   BIN      folder of the release binaries (default target/release)
#   OUT      folder for the figures (default a temporary one)
#   ROWS     which (default all)
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release} out=${OUT:-$(mktemp -d)} n=${CONNECTIONS:-15000}
rows=${ROWS:-mosquitto fluxmq two-tier mosquitto-tls fluxmq-tls two-gateways}
port=${PORT:-28900}
ulimit -n 20000
. benches/processes.sh
mkdir -p "$out"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \
  -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout "$work/key.pem" \
  -out "$work/request" 2>/dev/null
openssl x509 -req -in "$work/request" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
  -extfile <(printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE') -out "$work/cert.pem" 2>/dev/null

mosquitto_on() {
  printf '%s\n' "listener $port 127.0.0.1" 'user root' 'allow_anonymous true' 'max_connections -1' "$@" >"$work/mosquitto.conf"
  mosquitto -c "$work/mosquitto.conf" >"$work/mosquitto" 2>&1 &
  pids+=($!)
  until (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do kill -0 "${pids[-1]}" || { cat "$work/mosquitto"; exit 1; }; sleep 0.1; done
}

gateway() { # NAME PORT
  ours "$1" "$bin/mqtt-gateway" --logd "http://127.0.0.1:$((port + 9))" --mqtt "127.0.0.1:$2" --mqtt-ws off --admin off
}

tls=() addrs=(127.0.0.1:$port)
start() {
  tls=() addrs=(127.0.0.1:$port)
  local off=(--mqtt-ws off --amqp off --http off --coap off --grpc off --admin off)
  case $1 in
    mosquitto) mosquitto_on ;;
    mosquitto-tls) mosquitto_on "certfile $work/cert.pem" "keyfile $work/key.pem"; tls=(--tls "$work/ca.pem") ;;
    fluxmq) ours fluxmq "$bin/fluxmq" --data-dir "$work/data-$1" --mqtt ${addrs[0]} "${off[@]}" ;;
    fluxmq-tls)
      FLUXMQ_MQTT_TLS_LISTEN=${addrs[0]} FLUXMQ_MQTT_TLS_CERTIFICATE=$work/cert.pem FLUXMQ_MQTT_TLS_KEY=$work/key.pem \
        ours fluxmq "$bin/fluxmq" --data-dir "$work/data-$1" --mqtt off "${off[@]}"
      tls=(--tls "$work/ca.pem") ;;
    two-tier | two-gateways)
      ours logd "$bin/logd" --data-dir "$work/data-$1" --grpc "127.0.0.1:$((port + 9))" --admin off
      gateway gateway-1 $port
      [ "$1" = two-tier ] || { gateway gateway-2 $((port + 1)); addrs+=(127.0.0.1:$((port + 1))); } ;;
  esac
}

rss() { local sum=0 p; for p in "${pids[@]}"; do sum=$((sum + $(awk '/^RssAnon/ {print $2}' "/proc/$p/status"))); done; echo $sum; }
cpu() { local sum=0 p; for p in "${pids[@]}"; do sum=$((sum + $(cut -d')' -f2- "/proc/$p/stat" | awk '{print $12 + $13}'))); done; echo $sum; }

echo "| broker | connections | a second | µs of CPU each | KiB each | KiB before |" | tee "$out/table.md"
echo "|---|---|---|---|---|---|" | tee -a "$out/table.md"
for row in $rows; do
  start "$row"
  before=$(rss) cpu_before=$(cpu) began=$(date +%s%N)
  load=()
  for part in a b; do
    args=()
    for addr in "${addrs[@]}"; do args+=(--addr "$addr"); done
    rm -f "$work/$part.json"
    mkfifo "$work/$part.hold"
    # A child's children may have to be told about: the load's own limit is 20,000 files as well.
    "$bin/fluxmq-bench" storm "${args[@]}" "${tls[@]}" --connections $((n / 2)) --at-once 50 --name "$part" --hold \
      --json "$work/$part.json" <"$work/$part.hold" >"$out/$row-$part.txt" 2>&1 &
    load+=($!)
    exec {hold}>"$work/$part.hold"
    holds+=("$hold")
  done
  for part in a b; do
    until [ -s "$work/$part.json" ]; do kill -0 "${load[0]}" "${load[1]}" || { cat "$out/$row-$part.txt"; exit 1; }; sleep 0.05; done
  done
  took=$((($(date +%s%N) - began) / 1000000))
  ticks=$(($(cpu) - cpu_before))
  sleep 3
  after=$(rss)
  for hold in "${holds[@]}"; do exec {hold}>&-; done
  holds=()
  wait "${load[@]}"
  rm -f "$work"/*.hold
  cp "$work/a.json" "$out/$row-a.json"
  cp "$work/b.json" "$out/$row-b.json"
  awk -v row="$row" -v n="$n" -v ms=$took -v ticks=$ticks -v hz="$(getconf CLK_TCK)" -v b="$before" -v a="$after" \
    'BEGIN {printf "| %s | %d | %.0f | %.0f | %.2f | %d |\n", row, n, n * 1000 / ms, ticks / hz * 1e6 / n, (a - b) / n, b}' |
    tee -a "$out/table.md"
  stop
done
