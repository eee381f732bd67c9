#!/usr/bin/env bash
# MQTT.js in headless Chromium; the page comes from another port than the broker: browser.sh FLUXMQ FOLDER
# FOLDER has node_modules with mqtt. Two brokers: origins as by default (pages of the same host), and a list.
# CHROMIUM: the executable (package chromium).
set -u
here=$(cd "$(dirname "$0")" && pwd)
fluxmq=$1 work=$2
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)} ||
  { echo "no chromium: apt-get install chromium"; exit 2; }
page=${PAGE_PORT:-28840} port=${BROWSER_PORT:-28850}
cp "$here/browser.html" "$here/browser.js" "$work"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
brokers=()
trap 'for b in "${brokers[@]}"; do kill "$b"; done' EXIT

# start PORT ORIGINS: MQTT over WebSocket on PORT, and over TLS on PORT + 1.
start() {
  cat >"$work/$1.yaml" <<END
node: {data_dir: memory}
mqtt: {listen: off}
mqtt_ws: {listen: 127.0.0.1:$1, origins: $2}
mqtt_tls: {listen_ws: 127.0.0.1:$(($1 + 1)), certificate: $work/cert.pem, key: $work/key.pem}
grpc: {listen: off}
admin: {listen: off}
END
  "$fluxmq" --config "$work/$1.yaml" >"$work/$1" 2>&1 &
  brokers+=($!)
  until grep -q '^ready' "$work/$1"; do kill -0 "${brokers[-1]}" || { cat "$work/$1"; exit 2; }; sleep 0.1; done
}
start "$port" same-host
start $((port + 2)) "['http://localhost:$page']"

# urls HOST PORT: both as query.
urls() { printf 'url=ws://%s:%s/mqtt&url=wss://%s:%s/mqtt' "$1" "$2" "$1" $(($2 + 1)); }
cd "$work" && node browser.js "$page" "$chromium" \
  "127.0.0.1/what=good&label=same+host&$(urls 127.0.0.1 "$port")" \
  "localhost/what=refused&label=same+host&$(urls 127.0.0.1 "$port")" \
  "localhost/what=good&label=list&$(urls 127.0.0.1 $((port + 2)))" \
  "127.0.0.1/what=refused&label=list&$(urls 127.0.0.1 $((port + 2)))" || exit 1

# Who names no origin is no browser: let in by default, not where there is a list.
upgrade() {
  curl -sk -o /dev/null -w '%{http_code}' --max-time 2 --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
    -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -H 'Sec-WebSocket-Protocol: mqtt' "$@"
}
for scheme in http https; do
  add=$([ $scheme = http ] || echo 1)
  got="$(upgrade $scheme://127.0.0.1:$((port + add))/mqtt) $(upgrade $scheme://127.0.0.1:$((port + 2 + add))/mqtt)"
  [ "$got" = "101 403" ] || { echo "FAIL browser: no origin, $scheme: $got, not 101 403"; exit 1; }
  echo "ok browser, $scheme, missing origin let in by default and refused where there is a list"
done
