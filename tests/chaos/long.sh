#!/usr/bin/env bash
# Every scenario of the chaos harness at its full length, with release binaries (BIN_DIR, or they are built). What each
# prints goes to OUT (a directory, default target/chaos) and is summed up here. SEED and ROUNDS (of kills) say otherwise.
set -uo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
if [ -z "${BIN_DIR:-}" ]; then
  cargo build --release -p fluxmq -p logd -p mqtt-gateway -p chaos || exit 1
  export BIN_DIR=$target/release
fi
chaos=$BIN_DIR/chaos
out=${OUT:-$target/chaos}
mkdir -p "$out"
rounds=${ROUNDS:-100}
power="kill power --rounds ${POWER_ROUNDS:-50}"
if [ "$(id -u)" != 0 ]; then
  echo "left out, for it needs root: the power cut"
  power=
fi
failed=0
while read -r scenario; do
  [ -n "$scenario" ] || continue
  file=$out/$(tr -cs 'a-z0-9\n' - <<<"$scenario" | sed 's/-*$//').txt
  # shellcheck disable=SC2086 # words are arguments
  if "$chaos" $scenario --seed "${SEED:-1}" >"$file" 2>&1 </dev/null; then said=good; else said="NOT GOOD"; failed=1; fi
  echo "$said: $scenario ($file)"
done <<<"
kill fluxmq --rounds $rounds
kill logd --rounds $rounds
kill gateway --rounds $rounds
subscribe
takeover
wills
handshakes
$power
kill drain --rounds 20
kill link --rounds 50
routes
shared
"
exit $failed
