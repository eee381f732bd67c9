for m in ours tight policy; do
  echo "# MODE=$m ENTRIES=4000000" ; date; uptime
  MODE=$m ENTRIES=4000000 nice -n 10 timeout 1500 "${CARGO_TARGET_DIR:-target}"/release/examples/purge_race 2>&1 | tail -12
done
for m in ours tight; do
  echo "# MODE=$m ENTRIES=1000000 EVERY=300 APPLY_NS=8000"; date; uptime
  MODE=$m ENTRIES=1000000 EVERY=300 APPLY_NS=8000 nice -n 10 timeout 1500 "${CARGO_TARGET_DIR:-target}"/release/examples/purge_race 2>&1 | tail -12
done
date
