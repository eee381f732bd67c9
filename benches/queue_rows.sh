#!/usr/bin/env bash
# Work queues beside their peers: a separate `logd` by the Rust client, NATS JetStream (sync_interval always, and the
# default) and RabbitMQ quorum queues; 256 B, window and prefetch 1,000, confirms and an acknowledgement for each
# message; 1 queue (2 publishers, 2 consumers) and 16 (a publisher and a consumer each). As fast as it goes, then open
# loop at half of that peer's best rate. Peers in turn, ROUNDS (3) times; a broker is started afresh for each turn.
#   PEERS="logd nats-sync nats rabbitmq"   ROUNDS=3   SECONDS_PER_RUN=5   LABEL=queue-rows   NOTE="what else ran"
#   BUDGET_S=900                no round begins that would end later; fewer rounds are then said
#   BENCH_DIR=dir               release binaries of `logd` and of `fluxmq-bench` with peers, not built here
#   OTHER_LOGD=path             a second logd, measured as `other` in the same rounds
# Results: benches/results/<date>-<commit>-<label>. The peers are those `benches/versus/run.sh` installs.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${BENCH_DIR:-}" ]; then
  # Apart, so that the broker has the features of its own build.
  cargo build --release -p logd
  cargo build --release -p fluxmq-bench --features peers
  BENCH_DIR=${CARGO_TARGET_DIR:-target}/release
fi
PYTHONDONTWRITEBYTECODE=1 python3 benches/versus/queues.py "$BENCH_DIR"
