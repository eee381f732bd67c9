#!/usr/bin/env bash
# The compiler with the fault of planted.sh: as RUSTC_WORKSPACE_WRAPPER it builds only our crates anew.
exec "$@" --cfg 'planted="slow_publish"'
