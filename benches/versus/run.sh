#!/usr/bin/env bash
# FluxMQ beside its peers (`make versus`): builds what is ours, installs the newest nats-server into a
# temporary directory unless NATS_SERVER names one, finds Mosquitto and RabbitMQ where Debian puts them, and runs
# ROUNDS (5) rounds in turn. PEERS="floor fluxmq nats" takes fewer; SECONDS_PER_RUN, CONNECTIONS set the size;
# FLUXMQ_BIN measures another fluxmq. Results go to benches/results/<date>-<commit>-versus.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${CARGO_TARGET_DIR:-target}/release
if [ -z "${BENCH_DIR:-}" ]; then
  cargo build --release -p fluxmq -p fluxmq-bench -p floor
  BENCH_DIR=$bin
fi
gobin=$(mktemp -d)
trap 'rm -rf "$gobin"' EXIT
if [ -z "${NATS_SERVER:-}" ] && command -v go >/dev/null; then
  GOBIN=$gobin go install github.com/nats-io/nats-server/v2@latest && export NATS_SERVER=$gobin/nats-server
fi
for peer in mosquitto rabbitmq-server; do
  [ -x "/usr/sbin/$peer" ] || [ -x "/usr/lib/rabbitmq/bin/$peer" ] || echo "no $peer here: apt-get install -y $peer"
done
PYTHONDONTWRITEBYTECODE=1 python3 benches/versus/versus.py "$BENCH_DIR"
