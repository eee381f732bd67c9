#!/usr/bin/env bash
# Plants each fault behind its cfg, which is used nowhere else, and runs the test that must find it (design §12).
# Prints a table; fails when a fault is not found. ONLY=name runs one, ONLY=package those of a package.
set -uo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR=${MUTANTS_TARGET_DIR:-target/mutants}
# Fault, package, what runs; of `chaos` the tests of its short part with that in their name, of `server` that test of it.
# Their broker is processes, which are built first, with the fault.
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
compaction_drops_an_entry logd-log --test=crash
swap_before_sync logd-log --test=crash
unlink_before_rename logd-log --test=crash
unlink_while_a_slice_is_out logd-log --test=compaction
recycle_while_a_slice_is_out logd-log --test=compaction
acknowledge_before_commit chaos fluxmq_is_killed
suback_before_barrier chaos suback
barrier_waits_for_nobody chaos suback
lease_not_tested chaos wakes_up_late
leases_end_together chaos wills_of
filter_not_announced chaos below_one_level
relay_acknowledged_before_taken chaos relayed_message
relay_not_said_again chaos relayed_message
qos2_key_forgotten chaos every_step
retained_race chaos subscribes_while
retained_not_waited_for chaos subscribes_while
retained_under_way_forgotten chaos subscribes_while
leases_of_the_dead_kept chaos shared
shared_by_each_gateway chaos shared
connack_before_the_old_one_is_gone chaos sessions_move
delivery_to_an_old_epoch chaos cannot_be_told
stale_epoch_accepted chaos cannot_be_told
forget_packet_ids_on_takeover chaos every_step
will_twice chaos wills_of
settled_before_the_log server queue_kills
anybody_settles server queues
lease_end_not_counted server queues
transactions_settle_anything server queues
presented_leases_forgotten server queues
acknowledge_before_majority logd-raft --test=cluster
forget_vote logd-raft --test=cluster
skip_sync_on_followers logd-raft --test=cluster
lose_live_entries logd-raft --test=cluster
'
# The cfg goes to our crates only, by a compiler wrapper of its own for each fault: dependencies are built once. Faults of
# the chaos harness are in one build, which is told by a variable which of them it has.
wrappers=$CARGO_TARGET_DIR/wrappers
mkdir -p "$wrappers"
found=0 missed=0
echo "| fault | found by |"
echo "|---|---|"
while read -r fault package what; do
  [ -n "$fault" ] || continue
  [ -z "${ONLY:-}" ] || [ "$ONLY" = "$fault" ] || [ "$ONLY" = "$package" ] || continue
  log=$(mktemp)
  cfg=$fault build=true test="cargo test -p $package $what"
  case $package in
    chaos) cfg=by_name build="cargo build --workspace --bins" test="cargo test --workspace --test short $what" ;;
    server) cfg=by_name test="cargo test --workspace --test $what" ;;
  esac
  if [ ! -x "$wrappers/$cfg" ]; then
    printf '#!/bin/sh\nexec "$@" --cfg "planted=\\"%s\\""\n' "$cfg" >"$wrappers/$cfg"
    chmod +x "$wrappers/$cfg"
  fi
  export RUSTC_WORKSPACE_WRAPPER=$wrappers/$cfg
  if ! $build >"$log" 2>&1; then
    echo "| $fault | does not build |"; tail -5 "$log" >&2; missed=$((missed + 1))
  elif PLANTED_FAULT=$fault $test >"$log" 2>&1; then
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
