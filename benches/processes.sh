# Processes of a measurement, for scripts that source this: they run in $work and end with the script.
work=$(mktemp -d)
pids=()
stop() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; wait "$p" 2>/dev/null || true; done; pids=(); }
trap 'stop; rm -rf "$work"' EXIT

# ours NAME COMMAND…: starts one of our processes and waits until it is ready.
ours() {
  local name=$1
  shift
  rm -f "$work/$name"
  "$@" >"$work/$name" 2>&1 &
  pids+=($!)
  until grep -qs "^ready" "$work/$name"; do kill -0 "${pids[-1]}" || { cat "$work/$name"; exit 1; }; sleep 0.1; done
}
