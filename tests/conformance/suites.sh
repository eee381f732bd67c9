#!/usr/bin/env bash
# Runs public suites of others, one after the other, each against a fresh broker: make suites.
#   RUNNERS  folder of the runners mqtt-testmqtt.sh, mqtt-paho-testing.sh, mqtt-paho-golang-fvt.sh; default ../shared/suites
#   SUITES   folder with testmqtt/ (executable testmqtt), paho-testing/ (work tree) and paho-golang/ (paho-fvt.test), made
#            beforehand from their public repositories; nothing of them is kept here
#   FLUXMQ   the executable; default target/debug/fluxmq (or CARGO_TARGET_DIR)
# The last line is "N passed, N failed", added up.
set -u
here=$(cd "$(dirname "$0")" && pwd)
: "${SUITES:?set SUITES to the folder that holds testmqtt, paho-testing and paho-golang}"
runners=${RUNNERS:-$here/../../../shared/suites}
fluxmq=${FLUXMQ:-${CARGO_TARGET_DIR:-$here/../../target}/debug/fluxmq}
host=127.0.0.61 # a loopback address of our own: one suite knows no port but 1883
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
good=0 bad=0
for suite in testmqtt:mqtt-testmqtt paho-testing:mqtt-paho-testing paho-golang:mqtt-paho-golang-fvt; do
  "$fluxmq" --config "$here/suites.yaml" --data-dir memory --mqtt $host:1883 --mqtt-ws off --amqp off --http off --coap off \
    --grpc off --admin off >"$work/broker" 2>&1 &
  broker=$!
  until grep -q '^ready' "$work/broker"; do kill -0 $broker || { cat "$work/broker"; exit 2; }; sleep 0.1; done
  echo "== ${suite%%:*}"
  SUITE=$SUITES/${suite%%:*} BROKER_HOST=$host BROKER_PORT=1883 bash "$runners/${suite#*:}.sh" | tee "$work/said" | grep -v '^ok '
  kill $broker && wait $broker 2>/dev/null
  counts=$(tail -1 "$work/said")
  good=$((good + ${counts%% passed*})) bad=$((bad + $(sed 's/.*passed, \(.*\) failed/\1/' <<<"$counts")))
done
echo "$good passed, $bad failed"
[ $bad -eq 0 ]
