#!/usr/bin/env bash
# Proof that the measurements see what they are for: plants a slow-down in the publish path (cfg planted = "slow_publish",
# about 20 % of a QoS 1 message), and asks the guard (benches/micro/instructions.sh) and the comparison
# (versus, ROWS="qos0 qos1 qos2", the planted build as `other` in turn with the good one) whether they see it.
# Fails unless the guard passes the good build and refuses the planted one, and versus calls the planted one slower.
# FLUXMQ_BIN and PLANTED_BIN name binaries instead of building them.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "${PLANTED_BIN:-}" ]; then
  RUSTC_WORKSPACE_WRAPPER=$PWD/benches/versus/planted-rustc.sh cargo build --release -p fluxmq
  cp "$bin/fluxmq" "$work/planted"
  PLANTED_BIN=$work/planted
fi
if [ -z "${FLUXMQ_BIN:-}" ]; then
  # Builds nothing when the good one was there: it is put back in its place.
  cargo build --release -p fluxmq
  cp "$bin/fluxmq" "$work/good"
  FLUXMQ_BIN=$work/good
fi
failed=0
expect() { # what, wanted exit code, command
  local code=0
  "${@:3}" >"$work/said" 2>&1 || code=$?
  tail -n 20 "$work/said"
  if [ "$code" -ne "$2" ]; then echo "FAILED: $1: exit code $code instead of $2"; failed=1; else echo "as wanted: $1"; fi
}
expect "the guard passes the good build" 0 env FLUXMQ_BIN="$FLUXMQ_BIN" benches/micro/instructions.sh
expect "the guard refuses the planted build" 1 env FLUXMQ_BIN="$PLANTED_BIN" benches/micro/instructions.sh
FLUXMQ_BIN=$FLUXMQ_BIN OTHER_BIN=$PLANTED_BIN PEERS="floor fluxmq other" ROWS="${ROWS:-qos0 qos1 qos2}" \
  LABEL=planted INSTALL=no NOTE="other is the build with planted = \"slow_publish\". ${NOTE:-}" benches/versus/run.sh | tee "$work/versus"
result=$(grep '/benches/results/' "$work/versus" | tail -n 1)
if grep -q '^| QoS 1, 2 .*\*\*slower\*\*' "$result/README.md"; then echo "as wanted: versus calls the planted build slower"
else echo "FAILED: versus does not see the planted build"; failed=1; fi
exit $failed
