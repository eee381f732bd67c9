#!/usr/bin/env bash
# FluxMQ beside its peers (`make versus`): builds what is ours, finds or installs the peers this machine can run,
# and runs ROUNDS (5) rounds in turn. Installed peers stay in VERSUS_CACHE (~/.cache/fluxmq-versus), so only the first
# run installs. Takes about 20 minutes on a quiet machine of two cores; the first time 10 more for builds and installs.
#   PEERS="floor fluxmq nats"   fewer peers      ROWS="qos0 qos1"   fewer rows
#   ROUNDS=1 SECONDS_PER_RUN=1 CONNECTIONS=1000  the size           LABEL=name NOTE="what else ran"  in the result
#   FLUXMQ_BIN, NATS_SERVER     other binaries   FLUXMQ_GO_BIN      FluxMQ in Go, by path only
#   BUDGET_S=1500               no round begins that would end later; fewer rounds are then said
#   METRICS=yes                 our brokers with their page of metrics: messages per commit round
#   OTHER_BIN                   a second fluxmq, measured beside the first
#   INSTALL=no                  take the peers that are there       BENCH_DIR=dir   our release binaries, not built
# Results go to benches/results/<date>-<commit>-<label>.
set -euo pipefail
cd "$(dirname "$0")/../.."
began=$(date +%s)
cache=${VERSUS_CACHE:-$HOME/.cache/fluxmq-versus}
wants() { [ -z "${PEERS:-}" ] || [[ " $PEERS " == *" $1 "* ]]; }

if [ -z "${BENCH_DIR:-}" ]; then
  # Apart, so that the broker has the features of its own build, and that build is used again.
  cargo build --release -p fluxmq -p logd -p mqtt-gateway
  cargo build --release -p floor
  cargo build --release -p fluxmq-bench --features peers
  BENCH_DIR=${CARGO_TARGET_DIR:-target}/release
fi

if [ "${INSTALL:-yes}" = yes ]; then
  mkdir -p "$cache"
  if { wants nats || wants nats-sync; } && [ -z "${NATS_SERVER:-}" ] && [ ! -x "$cache/bin/nats-server" ] && command -v go >/dev/null; then
    GOBIN=$cache/bin go install github.com/nats-io/nats-server/v2@latest || echo "nats-server could not be installed"
  fi
  if wants rumqttd && [ ! -x "$cache/bin/rumqttd" ]; then
    CARGO_TARGET_DIR=$cache/build cargo install rumqttd --version 0.20.0 --no-default-features --root "$cache" || echo "rumqttd could not be installed"
    rm -rf "$cache/build"
  fi
  if wants artemis && [ ! -x "$cache/artemis/bin/artemis" ] && command -v mvn java >/dev/null; then
    # 2.40.0 is the newest whose archive of programs is to be had.
    if mvn -q -B dependency:copy -Dartifact=org.apache.activemq:apache-artemis:2.40.0:tar.gz:bin -DoutputDirectory="$cache/download"; then
      mkdir -p "$cache/artemis"
      tar xzf "$cache"/download/apache-artemis-*.tar.gz -C "$cache/artemis" --strip-components=1
      rm -rf "$cache/download"
    else
      echo "artemis could not be installed"
    fi
  fi
  for peer in mosquitto rabbitmq-server; do
    if wants "${peer%-server}" && [ ! -x "/usr/sbin/$peer" ]; then
      # As root only; the service need not run, and must not.
      RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$peer" >/dev/null 2>&1 || echo "no $peer here: apt-get install -y $peer"
    fi
  done
fi
wants fluxmq-go && [ -z "${FLUXMQ_GO_BIN:-}" ] && echo "no FluxMQ in Go: FLUXMQ_GO_BIN names its binary"
export ABSENT_FLUXMQ_GO="by FLUXMQ_GO_BIN only" VERSUS_CACHE=$cache
echo "built and installed in $(($(date +%s) - began)) s; now the rounds"
PYTHONDONTWRITEBYTECODE=1 python3 benches/versus/versus.py "$BENCH_DIR"
echo "all in $(($(date +%s) - began)) s"
