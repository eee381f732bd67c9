#!/usr/bin/env bash
# A newcomer's first minutes with mosquitto's clients: every QoS and both versions byte for byte, a retained message, and a
# session that loses its broker to kill -9 while somebody publishes and finds everything that was acknowledged.
#
#   newcomer.sh one BIN_DIR          fluxmq
#   newcomer.sh two BIN_DIR          logd and mqtt-gateway; each killed once, then both
#
# BIN_DIR holds the release binaries. Needs mosquitto-clients. Ends with `N passed, N failed`.
set -u
mode=$1 bin=$(cd "$2" && pwd)
dir=$(mktemp -d)
port=$((20000 + RANDOM % 5000)) grpc=$((26000 + RANDOM % 3000))
passed=0 failed=0 pids=()
cd "$dir" || exit 1
trap 'kill -9 ${pids[@]:-} 2>/dev/null; rm -rf "$dir"' EXIT

start() { # name, command …: waits until it says that it is ready
  local name=$1; shift
  "$@" >"$name.out" 2>>"$name.err" &
  eval "$name=$!"; pids+=($!)
  until grep -q '^ready in ' "$name.out"; do kill -0 "${!name}" || { cat "$name.err"; exit 1; }; done
}
start_fluxmq() { start fluxmq "$bin/fluxmq" --mqtt 127.0.0.1:$port --mqtt-ws off --grpc off --admin off --data-dir data; }
start_logd() { start logd "$bin/logd" --grpc 127.0.0.1:$grpc --admin off --data-dir data; }
start_gateway() {
  start gateway "$bin/mqtt-gateway" --logd http://127.0.0.1:$grpc --mqtt 127.0.0.1:$port --mqtt-ws off --admin off
}
hard() { kill -9 "$@"; wait "$@" 2>/dev/null; } # and its ports are free again
check() { # what, status
  if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "ok      $1"; else failed=$((failed + 1)); echo "FAILED  $1"; fi
}

case $mode in
  one) start_fluxmq; victims="fluxmq" ;;
  two) start_logd; start_gateway; victims="logd gateway both" ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac

mkdir in
for i in $(seq 0 99); do
  n=$((i * i * 105)); [ "$i" = 99 ] && n=1048576
  head -c $n /dev/urandom >in/$(printf %02d "$i")
done
cat in/* >want
for version in 311 5; do
  for qos in 0 1 2; do
    timeout 120 mosquitto_sub -h 127.0.0.1 -p $port -V $version -q $qos -t 'live/+' -C 100 -N >got &
    sub=$!
    # It does not say when it is subscribed.
    sleep 0.5
    for file in in/*; do mosquitto_pub -h 127.0.0.1 -p $port -V $version -q $qos -t live/x -f "$file"; done
    wait $sub
    cmp -s want got; check "100 messages of 0 B to 1 MiB, MQTT $version, QoS $qos" $?
  done
done

mosquitto_pub -h 127.0.0.1 -p $port -q 1 -r -t kept/a -m retained
got=$(timeout 10 mosquitto_sub -h 127.0.0.1 -p $port -t 'kept/+' -C 1)
[ "$got" = retained ]; check "a retained message comes to who subscribes later" $?

for victim in $victims; do
  id="away-$victim"
  timeout 10 mosquitto_sub -h 127.0.0.1 -p $port -c -i $id -q 1 -t "away/$victim" -E
  : >acknowledged
  ( for n in $(seq 1 100000); do
      timeout 20 mosquitto_pub -h 127.0.0.1 -p $port -q 1 -t "away/$victim" -m "$n" 2>/dev/null && echo "$n" >>acknowledged
    done ) &
  writer=$!; pids+=($writer)
  until [ "$(wc -l <acknowledged)" -ge 200 ]; do sleep 0.01; done
  case $victim in
    fluxmq) hard $fluxmq; start_fluxmq ;;
    logd) hard $logd; start_logd ;;
    gateway) hard $gateway; start_gateway ;;
    both) hard $logd $gateway; start_logd; start_gateway ;;
  esac
  until [ "$(wc -l <acknowledged)" -ge 400 ]; do sleep 0.01; done
  kill $writer; wait $writer 2>/dev/null
  sleep 1 # the last one, which nobody counts, is in or not
  mosquitto_pub -h 127.0.0.1 -p $port -q 1 -t "away/$victim" -m end
  timeout 60 mosquitto_sub -h 127.0.0.1 -p $port -c -i $id -q 1 -t "away/$victim" >got &
  sub=$!; pids+=($sub)
  until grep -q '^end$' got; do kill -0 $sub 2>/dev/null || break; sleep 0.05; done
  kill $sub 2>/dev/null; wait $sub 2>/dev/null
  missing=$(sort acknowledged | comm -23 - <(sort -u got) | wc -l)
  grep -q '^end$' got && [ "$missing" = 0 ] && [ "$(grep -c . acknowledged)" -ge 400 ]
  check "$victim killed with -9 while somebody publishes: $(wc -l <acknowledged) acknowledged, $missing missing" $?
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
