#!/usr/bin/env bash
# Our rows of design §11 (live, durable, idle), for every step that might cost CPU: the floor, Mosquitto, `fluxmq` in
# one process and, where they are built, `logd` + `mqtt-gateway` as two (CPU and RssAnon of both together), in turn,
# ROUNDS (3) times. Takes about four minutes. The result is benches/results/<date>-<commit>-live; all the settings of
# versus/run.sh hold, which this calls.
set -euo pipefail
cd "$(dirname "$0")/.."
export ROUNDS=${ROUNDS:-3} CONNECTIONS=${CONNECTIONS:-10000} LABEL=${LABEL:-live} INSTALL=no
export PEERS=${PEERS:-floor mosquitto fluxmq two-tier}
exec benches/versus/run.sh
