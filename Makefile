# The verbs of the project; `make` lists them. Each sets up what it needs and does nothing twice: stamp files in .venv/
# remember what is installed. Nothing has to be there but Python 3.11 or newer, Rust, a C compiler and make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The Python that .venv/ is made from; constraints.txt was tried with the first.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
DEMO_WORKSPACE ?= demo-workspace
BENCH_ARGS ?=
PYTEST_ARGS ?=
CARGO_TARGET_DIR ?= target

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt
# A variable, because a comma in $(call ...) would end the argument.
TRAINER := ./trainer[demo,torchvision]
DENY_VERSION := 0.20.2
DENY := $(shell command -v cargo-deny || echo .tools/bin/cargo-deny)

RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)

# PyO3's build script reads these and rebuilds when they change: maturin sets them, and so must every other cargo call,
# or `cargo test` and `cargo clippy` would compile PyO3 anew after each build.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PYO3_BUILD_EXTENSION_MODULE := 1
export CARGO_TARGET_DIR
# One profile, one feature set: what the wheel is built from is what is tested.
CARGO_FLAGS := --release --locked
# One thread per test process: torch's threads fight each other on small machines.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# Says what a step does, and afterwards how long it took.
define step
@printf '== %s\n' "$(1)"; begun=$$(date +%s); $(2); printf '   took %s s\n' $$(($$(date +%s) - begun))
endef

.PHONY: help
help: ## list the verbs
	@echo 'make VERB, the times on 2 cores with an empty cache:'; \
	sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
	|| sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1  \2/p' Makefile

# --- setting up ------------------------------------------------------------------------------------------------------

$(VENV)/.made: constraints.txt
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 or newer with venv found; install one, or name it: make PYTHON=/path/to/python3' >&2; exit 2; }
	@command -v cargo >/dev/null || { echo 'error: no cargo on PATH; install Rust 1.88 or newer' >&2; exit 2; }
	$(call step,making $(VENV)/ with uv (5 s),\
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV);\
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv)
	@touch $@

$(VENV)/.data: pyproject.toml constraints.txt | $(VENV)/.made
	$(call step,installing what the data half and its tests need (10 s),\
	  $(UV) -r pyproject.toml --group build --group test --group lint; $(UV) --no-deps diagrams)
	@touch $@

# --locked is in pyproject.toml. --skip-install is not used: .venv/bin/vlmsel is what a user gets.
$(VENV)/.built: $(RUST_SOURCES) pyproject.toml | $(VENV)/.data
	$(call step,compiling and installing vlmsel (4 min the first time),\
	  VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin develop --release --uv --quiet)
	@touch $@

$(VENV)/.trainer: trainer/pyproject.toml pyproject.toml constraints.txt | $(VENV)/.built
	$(call step,installing vlmsel-trainer with torch (20 s and 6 GB of disk),\
	  $(UV) -e '$(TRAINER)' --group test-train)
	@touch $@

.tools/bin/cargo-deny:
	$(call step,compiling cargo-deny into .tools/ (4 min once; put one on PATH to skip this),\
	  env -u PYO3_PYTHON CARGO_TARGET_DIR=$(CURDIR)/.tools/target cargo install --quiet --locked cargo-deny --version $(DENY_VERSION) --root .tools;\
	  rm -rf .tools/target)

# --- verbs -----------------------------------------------------------------------------------------------------------

.PHONY: build build-data
build: $(VENV)/.built $(VENV)/.trainer ## .venv/bin/vlmsel, whole: data half and trainer (5 min)
	@echo 'built: $(BIN)/vlmsel'

build-data: $(VENV)/.built ## the data half alone, without torch (4 min)
	@echo 'built: $(BIN)/vlmsel, the data half'

.PHONY: test test-heavy
test: build ## every test but the heavy ones (8 min)
	$(call step,Rust tests,cargo test $(CARGO_FLAGS) --workspace)
	$(call step,Python tests,$(BIN)/python -m pytest $(PYTEST_ARGS))

test-heavy: build ## the tests that need minutes or gigabytes each
	$(call step,heavy Python tests,$(BIN)/python -m pytest -m heavy $(PYTEST_ARGS))

.PHONY: lint fmt
lint: build $(DENY) ## formatting, clippy, ruff, mypy, stubs, licences (2 min, the first time 6)
	$(call step,cargo fmt,cargo fmt --all --check)
	$(call step,clippy,cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings)
	$(call step,ruff,$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .)
	$(call step,mypy --strict,$(BIN)/mypy)
	$(call step,stubtest,$(BIN)/stubtest vlmsel._core)
	$(call step,cargo-deny,$(DENY) --log-level error check --hide-inclusion-graph licenses bans sources)

# libFuzzer needs a nightly compiler, and instruments every dependency: a build of its own.
FUZZ_SECONDS ?= 300
FUZZER := env -u PYO3_PYTHON -u PYO3_BUILD_EXTENSION_MODULE CARGO_TARGET_DIR=$(CURDIR)/target/fuzz PATH="$(CURDIR)/.tools/bin:$$PATH"
.PHONY: fuzz
FUZZ_TARGETS := tar parquet json text_tables manifests
fuzz: ## every reader of foreign bytes under libFuzzer; needs `rustup toolchain install nightly` (10 min + FUZZ_SECONDS, shared out)
	@rustup run nightly rustc --version >/dev/null 2>&1 || { echo 'error: no nightly compiler; rustup toolchain install nightly' >&2; exit 2; }
	$(call step,cargo-fuzz into .tools/,command -v cargo-fuzz >/dev/null || test -x .tools/bin/cargo-fuzz || $(FUZZER) cargo install --quiet --locked cargo-fuzz --version 0.13.2 --root .tools)
	$(call step,seeds,mkdir -p target/fuzz/corpus; cp -r rust/vlmsel-shards/fuzz/seeds/. target/fuzz/corpus/)
	$(call step,fuzzing for $(FUZZ_SECONDS) s,cd rust/vlmsel-shards && for target in $(FUZZ_TARGETS); do \
	  $(FUZZER) cargo +nightly fuzz run $$target --sanitizer none $(CURDIR)/target/fuzz/corpus/$$target -- \
	    -max_total_time=$$(($(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)))) -max_len=65536 -rss_limit_mb=2048 -malloc_limit_mb=600 -timeout=20; done)

fmt: $(VENV)/.data ## write the formatting that lint asks for
	cargo fmt --all
	$(BIN)/ruff check --quiet --fix . || true
	$(BIN)/ruff format --quiet .

.PHONY: demo demo-soup
demo: build ## the whole way on a small data set, with contact sheets (5 min)
	$(call step,demo in $(DEMO_WORKSPACE)/,$(BIN)/python -m vlmsel_trainer.demo $(DEMO_WORKSPACE))

demo-soup: build ## three fine-tunes of the demo's scorer and their three soups (4 min, 6 with the scorer)
	$(call step,soup demo in $(DEMO_WORKSPACE)/,$(BIN)/python -m vlmsel_trainer.demo.soup $(DEMO_WORKSPACE))

.venv-bench/.made: benches/requirements.txt constraints.txt $(VENV)/.built
	$(call step,making .venv-bench/ with the peers (2 min and 7 GB of disk),\
	  test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench;\
	  $(BIN)/uv pip install --quiet --python .venv-bench/bin/python -c constraints.txt -r benches/requirements.txt)
	@touch $@

.PHONY: bench
bench: build .venv-bench/.made ## side by side with the peers; BENCH_ARGS goes to benches/run.py
	$(call step,benches,.venv-bench/bin/python benches/run.py $(BENCH_ARGS))

.PHONY: wheel clean
wheel: $(VENV)/.data ## both distributions into dist/ (4 min)
	$(call step,vlmsel: wheel and source,\
	  VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin build --release --quiet --sdist --interpreter $(BIN)/python --out dist)
	$(call step,vlmsel-trainer: wheel,$(BIN)/uv build --quiet --wheel --out-dir dist trainer)
	@ls -l dist

clean: ## remove what the verbs made, but not demo-workspace/ and bench-data/
	rm -rf $(VENV) .venv-bench dist target .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf python/vlmsel/_core*.so trainer/*.egg-info trainer/build
	find python trainer tests benches -name __pycache__ -type d -prune -exec rm -rf {} +
