#!/usr/bin/env bash
# Scenarios with mosquitto_pub and mosquitto_sub, in 3.1, 3.1.1 and 5: mosquitto.sh HOST PORT
set -eu
host=$1 port=$2
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
for version in 31 311 5; do
  for qos in 0 1 2; do
    topic=mosquitto/$version/$qos
    : >"$work/got"
    # Its debug lines, unbuffered, say when it is subscribed.
    stdbuf -oL mosquitto_sub -d -h "$host" -p "$port" -V mqttv$version -q $qos -t "$topic" -C 200 -W 20 >"$work/got" &
    subscriber=$!
    until grep -q '^Subscribed' "$work/got"; do kill -0 $subscriber; done
    seq 200 | mosquitto_pub -h "$host" -p "$port" -V mqttv$version -q $qos -t "$topic" -l
    wait $subscriber
    grep -E '^[0-9]+$' "$work/got" | diff -q - <(seq 200) >/dev/null
  done
  echo "ok mosquitto clients, mqttv$version"
done
