# What people and CI run. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
# Where the oldest PyTorch goes that is supported; it runs on Python 3.12 and older.
OLDEST ?= .venv-oldest
OLDEST_PYTHON ?= $(PYTHON)
# Where Ray goes, with the packages of VENV beside it.
RAY ?= target/ray
OLDEST_RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# The Pythons in which the wheel is tried.
WHEEL_PYTHONS ?= $(PYTHON)
# Seconds each fuzz target runs with `make fuzz`.
FUZZ_SECONDS ?= 600

GOLDEN := fixtures/golden
REWRITTEN := target/rewritten
# nextest runs tests in parallel across binaries and ends those that hang (.config/nextest.toml). Where
# it is missing plain cargo does: it names a test that is slow, and is ended after two hours.
RUNNER := $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run" \
  || echo "timeout 7200 cargo test")

.PHONY: wheel check-features oldest-rust help test test-rust test-torch test-python test-oldest python real-files lint proofs fuzz golden tools bench-train \
  learning-curve python-release bench-python bench-engine bench-commands bench-parts bench-growth \
  bench-unfenced bench-shards bench-kills upstream-lightning upstream-dcp upstream-burn test-burn-learner test-candle instructions test-ray

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

test: test-rust test-candle test-torch test-python ## Every test; installs what it needs

test-rust: tools ## The Rust tests and the examples in the docs
	SCAI_REWRITTEN=$(CURDIR)/$(REWRITTEN) $(RUNNER) --workspace --all-features
	cargo test --workspace --all-features --doc

test-torch: $(VENV)/ready ## Real torch loads what Rust wrote; its networks are the same
	test -d $(REWRITTEN) || $(MAKE) test-rust
	$(VENV)/bin/python $(GOLDEN)/check_roundtrip.py $(GOLDEN)/files $(REWRITTEN)
	SCAI_PYTHON=$(CURDIR)/$(VENV)/bin/python SCAI_TENSORBOARD_PYTHON=$(CURDIR)/$(VENV)/bin/python \
	  $(RUNNER) --workspace --all-features --test it py_

test-python: python ## The Python package, its types and the code of the guides
	$(VENV)/bin/python -m pytest
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python -m mypy.stubtest scai._native

test-oldest: python $(OLDEST)/ready ## The Python tests with the oldest PyTorch that is supported
	PYTHONPATH=$(CURDIR)/python $(OLDEST)/bin/python -m pytest

test-ray: python $(RAY)/ready ## The tests of scai.integrations.ray; installs Ray
	PYTHONPATH=$(CURDIR)/python $(RAY)/bin/python -m pytest tests/python/test_ray.py

# burn's learner takes minutes to build, so its crate is outside the workspace.
BURN_LEARNER := --manifest-path crates/scai-burn-train/Cargo.toml --target-dir target/burn-learner

CANDLE := --manifest-path crates/scai-candle/Cargo.toml --target-dir target/candle

test-candle: $(VENV)/ready ## The adapter for candle; SCAI_PROOFS=full kills thirty times
	cargo clippy $(CANDLE) --all-targets -- -D warnings
	SCAI_PYTHON=$(CURDIR)/$(VENV)/bin/python cargo test $(CANDLE) -- --nocapture

test-burn-learner: ## The checkpointers for burn's learner; SCAI_PROOFS=full kills thirty trainings
	cargo clippy $(BURN_LEARNER) --all-targets -- -D warnings
	cargo test $(BURN_LEARNER) -- --nocapture

python: $(VENV)/ready ## The Python package, built for work on it, in $(VENV)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/maturin develop --quiet

wheel: $(VENV)/zig ## A manylinux wheel in dist/, installed and used in each of WHEEL_PYTHONS
	rm -f dist/scai-*.whl
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" maturin build --release --zig --compatibility manylinux2014 --out dist
	$(VENV)/bin/python tests/wheel.py dist/scai-*.whl $(WHEEL_PYTHONS:%=--python %)

python-release: $(VENV)/ready
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/maturin develop --quiet --release

lint: $(VENV)/ready ## Formatter, clippy, rustdoc and ruff, warnings denied
	for crate in . crates/scai-candle crates/scai-burn-train; do \
	  cargo fmt --manifest-path $$crate/Cargo.toml --all --check || exit 1; done
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --document-private-items
	$(VENV)/bin/ruff check python tests fixtures bench docs train.py

check-features: ## The command and the extension without the trainer
	cargo check -p scai-cli -p scai-python --no-default-features

# The oldest Rust that is supported; rustup has to be there if another one is used.
oldest-rust: ## The workspace with the oldest Rust that is supported
	case "$$(rustc --version)" in "rustc $(OLDEST_RUST)."*) cargo check --workspace --all-features;; \
	  *) rustup toolchain install $(OLDEST_RUST) --profile minimal \
	    && cargo +$(OLDEST_RUST) check --workspace --all-features;; esac

proofs: tools ## The slow proofs: every system call, thousands of kills
	SCAI_PROOFS=full cargo test --release -p scai-checkpoint --all-features -- --nocapture
	SCAI_PROOFS=full cargo test --release -p scai-cli --test it train_kill -- --nocapture
	test ! -e $(VENV)/ready || SCAI_PROOFS=full $(VENV)/bin/python -m pytest tests/python/test_trees.py tests/python/test_lightning.py

real-files: python ## Real files of packages that ship weights, with scai and with torch; downloads them
	$(VENV)/bin/python tests/real_files.py --download target/real-files

upstream-lightning: python ## Lightning's own tests, with its class and with scai's; UP is a clone of its repository
	$(VENV)/bin/pip install --quiet --disable-pip-version-check pytest-rerunfailures pytest-timeout \
	  pytest-random-order cloudpickle scikit-learn 'jsonargparse[signatures]' tensorboard
	$(VENV)/bin/python tests/upstream_lightning.py $(UP)

upstream-dcp: python ## PyTorch's own tests of DCP with scai's classes; UP is their folder, DCP=--quick runs a part
	$(VENV)/bin/pip install --quiet --disable-pip-version-check expecttest parameterized pytest-timeout
	$(VENV)/bin/python tests/upstream_dcp.py $(UP) $(DCP)

upstream-burn: ## burn-train's own tests of checkpoints, with its checkpointers and with scai's
	CARGO_TARGET_DIR=$(CURDIR)/target/burn-learner tests/upstream_burn.sh target/upstream-burn

bench-kills: python ## Trainings with frameworks killed at random moments, with their own saves and with scai's
	$(VENV)/bin/python bench/kills.py

bench-python: python-release $(VENV)/rivals ## Saving and loading from Python, against other systems
	$(VENV)/bin/python -W ignore bench/rivals.py

bench-shards: python-release ## Saves and loads of several ranks, against PyTorch's own
	$(VENV)/bin/python -W ignore bench/shards.py --ranks 1 2 4

bench-engine: ## Saves beside raw writes, loads beside copies of memory
	cargo run --release -p scai-checkpoint --example rates

bench-unfenced: python-release ## How often a write beside a live save is noticed
	$(VENV)/bin/python bench/unfenced.py

bench-commands: python-release ## What listing and comparing checkpoints takes
	cargo build --release
	$(VENV)/bin/python bench/commands.py

bench-parts: ## The engine's parts, each by itself
	cargo bench -p scai-checkpoint --bench parts

bench-growth: $(VENV)/plot ## How costs grow with bytes, tensors and checkpoints: docs/growth.svg
	mkdir -p target
	cargo run --release -p scai-checkpoint --example growth > target/growth.jsonl
	$(VENV)/bin/python docs/plot_growth.py target/growth.jsonl docs/growth.svg

# INSTRUCTIONS=--require fails where valgrind is missing, INSTRUCTIONS=--update writes the baseline.
instructions: tools ## The engine's instructions, compared with bench/instructions.json
	$(PYTHON) bench/instructions.py $(INSTRUCTIONS)

bench-train: ## What checkpoints cost the trainer, and how fast it plays and learns
	cargo run --release -p scai-train --example cost

learning-curve: $(VENV)/plot ## The default training, half an hour, and docs/learning.png
	cargo run --release -- train --resume never --checkpoint-dir target/learning/checkpoints
	for simulations in 64 200; do \
	  cargo run --release -- eval target/learning/checkpoints/checkpoint_iter_100.pt \
	    --games 200 --simulations $$simulations --positions || exit 1; \
	done
	$(VENV)/bin/python docs/plot_learning.py logs/metrics.jsonl docs/learning.png

# `manager` is about the order of operations: five times as many without AddressSanitizer.
fuzz: ## Fuzz each target for FUZZ_SECONDS (needs cargo-fuzz)
	for target in $$(ls fuzz/fuzz_targets | sed 's/\.rs$$//'); do \
	  case $$target in manager) sanitizer=none;; *) sanitizer=address;; esac; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run -s $$sanitizer $$target -- -max_total_time=$(FUZZ_SECONDS) \
	    -dict=fuzz/dictionary.txt -max_len=8192 -rss_limit_mb=2048 -malloc_limit_mb=128 \
	    -timeout=20 -print_final_stats=1 || exit 1; \
	done

# strace is what the crash tests kill and fail system calls with, valgrind counts instructions; what
# needs them says so where they are missing.
tools:
	@missing=; for tool in strace valgrind; do \
	  command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq $$missing; } || true

$(VENV)/ready: tests/requirements.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

$(OLDEST)/ready: tests/requirements-oldest.txt
	test -d $(OLDEST) || $(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-oldest.txt
	touch $@

$(RAY)/ready: tests/requirements-ray.txt $(VENV)/ready
	test -d $(RAY)/bin || $(VENV)/bin/python -m venv $(RAY)
	$(VENV)/bin/python -c 'import site; print(*site.getsitepackages())' > $$(echo $(RAY)/lib/python*/site-packages)/shared.pth
	$(RAY)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-ray.txt
	touch $@

# zig links against an old glibc, so that the wheel runs on any Linux of the last ten years.
$(VENV)/zig: $(VENV)/ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check 'maturin[zig]>=1.9,<2'
	touch $@

$(VENV)/rivals: bench/requirements.txt $(VENV)/ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	touch $@

$(VENV)/plot:
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check matplotlib
	touch $@
