#!/usr/bin/env bash
# Scenarios with mosquitto_pub and mosquitto_sub, in 3.1, 3.1.1 and 5: mosquitto.sh HOST PORT
set -eu
host=$1 port=$2
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
for version in 31 311 5; do
  for qos in 0 1 2; do
    topic=mosquitto/$version/$qos
    mosquitto_sub -h "$host" -p "$port" -V mqttv$version -q $qos -t "$topic" -t "$topic/ready" -C 101 -W 20 >"$work/got" &
    subscriber=$!
    # It is there when a message of its own way comes through.
    until grep -q ready "$work/got"; do mosquitto_pub -h "$host" -p "$port" -V mqttv$version -t "$topic/ready" -m ready; done
    seq 200 | mosquitto_pub -h "$host" -p "$port" -V mqttv$version -q $qos -t "$topic" -l
    wait $subscriber
    grep -v ready "$work/got" >"$work/numbers"
    seq "$(wc -l <"$work/numbers")" | diff -q - "$work/numbers" >/dev/null
  done
  echo "ok mosquitto clients, mqttv$version"
done
