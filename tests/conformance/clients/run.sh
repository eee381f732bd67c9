#!/usr/bin/env bash
# Runs scenarios with clients of others against a broker it starts: make clients.
#   FLUXMQ   the executable; default target/debug/fluxmq (or CARGO_TARGET_DIR)
#   ONLY     optional: python gmqtt js browser go go5 rumqttc java mosquitto
# Packages come by the ordinary clients (pip, npm, go, cargo, mvn) into a folder that is removed again. The last line is
# "N passed, N failed".
set -u
here=$(cd "$(dirname "$0")" && pwd)
fluxmq=${FLUXMQ:-${CARGO_TARGET_DIR:-$here/../../../target}/debug/fluxmq}
only=${ONLY:-python gmqtt js browser go go5 rumqttc java mosquitto}
work=$(mktemp -d)
port=${PORT:-28830} ws_port=${WS_PORT:-28831}
"$fluxmq" --data-dir "$work/data" --mqtt 127.0.0.1:$port --mqtt-ws 127.0.0.1:$ws_port --amqp off --http off --coap off \
  --grpc off --admin off >"$work/broker" 2>&1 &
broker=$!
trap 'kill $broker; rm -rf "$work"' EXIT
until grep -q '^ready' "$work/broker"; do kill -0 $broker || { cat "$work/broker"; exit 2; }; sleep 0.1; done

client() {
  case $1 in
    python) python3 -m venv "$work/paho" && "$work/paho/bin/pip" -q install 'paho-mqtt>=2,<3' &&
      "$work/paho/bin/python" "$here/paho_python.py" 127.0.0.1 $port ;;
    gmqtt) python3 -m venv "$work/gmqtt" && "$work/gmqtt/bin/pip" -q install gmqtt &&
      "$work/gmqtt/bin/python" "$here/gmqtt_python.py" 127.0.0.1 $port ;;
    js) mkdir "$work/js" && cp "$here/mqtt_js.js" "$work/js" && cd "$work/js" && npm --silent --no-fund install mqtt@5 >/dev/null &&
      node mqtt_js.js 127.0.0.1 $port $ws_port ;;
    go) cp -r "$here/go" "$work/go" && cd "$work/go" && go mod tidy >/dev/null 2>&1 && go run . 127.0.0.1 $port ;;
    browser) mkdir "$work/browser" && (cd "$work/browser" && npm --silent --no-fund install mqtt@5 >/dev/null) &&
      bash "$here/browser.sh" "$fluxmq" "$work/browser" ;;
    go5) cp -r "$here/go5" "$work/go5" && cd "$work/go5" && go mod tidy >/dev/null 2>&1 && go run . 127.0.0.1 $port ;;
    rumqttc) cp -r "$here/rumqttc" "$work/rumqttc" && cd "$work/rumqttc" && mv manifest.toml Cargo.toml &&
      CARGO_TARGET_DIR="${RUMQTTC_TARGET_DIR:-$work/rumqttc/target}" cargo run -q -- 127.0.0.1 $port ;;
    java) cp -r "$here/java" "$work/java" && cd "$work/java" && mvn -q -B compile dependency:build-classpath -Dmdep.outputFile=path >/dev/null &&
      java -cp "target/classes:$(cat path)" Scenarios 127.0.0.1 $port ;;
    mosquitto) bash "$here/mosquitto.sh" 127.0.0.1 $port ;;
  esac
}

good=0 bad=0
for name in $only; do
  ( client "$name" ) >"$work/said" 2>&1
  rc=$?
  sed -i 's/\x1b\[[0-9;]*m//g' "$work/said" # maven colours the end of its lines
  cat "$work/said"
  good=$((good + $(grep -c '^ok ' "$work/said")))
  [ $rc -eq 0 ] || { echo "FAIL $name"; bad=$((bad + 1)); }
done
echo "$good passed, $bad failed"
[ $bad -eq 0 ]
