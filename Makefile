# What a person types. `make run` and `make test` do all the set-up on a machine with Rust.
CARGO ?= cargo
ARGS ?=
TARGET = $(or $(CARGO_TARGET_DIR),target)

.PHONY: run build test lint fmt bench guard versus mutants chaos tools clients suites

run: build
	exec $(TARGET)/release/fluxmq $(ARGS)

build: tools
	@[ -x $(TARGET)/release/fluxmq ] || echo "building release binaries; the first time takes about six minutes on two cores"
	$(CARGO) build --release -p fluxmq

tools:
	@missing=""; for tool in $(CARGO) cc cmake; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	  echo "missing:$$missing; install with: apt-get install -y gcc cmake, and Rust from rustup (https://rustup.rs)"; exit 1; fi

test: tools lint
	$(CARGO) test --workspace --all-targets

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

# Our own rows: three rounds. What the figures mean: docs/performance.md.
bench: tools
	benches/live_rows.sh

# Instructions beside their baseline, by callgrind; apart from `make test`, because it needs release builds and valgrind.
guard: tools
	benches/micro/instructions.sh

mutants:
	tests/mutants/run.sh

# Processes killed, stopped and cut off under load, at full length with release binaries; the power cut needs root.
chaos: tools
	tests/chaos/long.sh

# All peers this machine can run: about 20 minutes, the first time 10 more for builds and installs.
versus: tools
	benches/versus/run.sh
