#!/usr/bin/env bash
# Plants each fault behind its cfg, which is used nowhere else, and runs the test that must find it (design §12).
# Prints a table; fails when a fault is not found. ONLY=name runs one.
set -uo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR=${MUTANTS_TARGET_DIR:-target/mutants}
# fault, package, what runs
faults='
stale_epoch_accepted logd-broker --test=model
forget_packet_ids_on_takeover logd-broker --test=model
will_after_resumption logd-broker --test=model
take_a_key_twice logd-broker --test=model
settle_a_lease_twice logd-broker --test=queue_model
forget_delivery_count logd-broker --test=queue_model
dead_letter_lost logd-broker --test=queue_model
settlement_of_an_old_epoch logd-broker --test=queue_model
take_a_message_id_twice logd-broker --test=queue_model
half_a_transaction logd-broker --test=queue_model
restart_forgets_work_left logd-broker --test=queue_steps
skip_sync logd-log --test=crash
drop_last_batch logd-log --test=crash
acknowledge_before_commit fluxmq --test=broker
acknowledge_before_majority logd-raft --test=cluster
forget_vote logd-raft --test=cluster
skip_sync_on_followers logd-raft --test=cluster
lose_live_entries logd-raft --test=cluster
'
# The cfg goes to our crates only, by a compiler wrapper of its own for each fault: dependencies are built once.
wrappers=$(mktemp -d)
trap 'rm -rf "$wrappers"' EXIT
found=0 missed=0
echo "| fault | found by |"
echo "|---|---|"
while read -r fault package what; do
  [ -n "$fault" ] || continue
  [ -z "${ONLY:-}" ] || [ "$ONLY" = "$fault" ] || continue
  log=$(mktemp)
  printf '#!/bin/sh\nexec "$@" --cfg "planted=\\"%s\\""\n' "$fault" >"$wrappers/$fault"
  chmod +x "$wrappers/$fault"
  if RUSTC_WORKSPACE_WRAPPER="$wrappers/$fault" cargo test -p "$package" "$what" >"$log" 2>&1; then
    echo "| $fault | **nobody** |"; missed=$((missed + 1))
  elif grep -q "^test result: FAILED\|panicked at" "$log"; then
    echo "| $fault | $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | paste -sd' ') |"; found=$((found + 1))
  else
    echo "| $fault | does not build |"; tail -5 "$log" >&2; missed=$((missed + 1))
  fi
  rm -f "$log"
done <<<"$faults"
echo "$found passed, $missed failed"
[ $missed -eq 0 ]
