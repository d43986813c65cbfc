# `make demo` and `make test` do all their set-up themselves. What they install lies in a per-user cache.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: build setup demo test test-slow check format lints docs bench arith-weights clean

CACHE ?= $(or $(OPD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/opd)
PYTHON ?= python3
STORE ?= runs/demo

export CARGO_TARGET_DIR ?= $(CACHE)/target
# Threads that spin while they wait would take the core from whoever else has work.
export OMP_WAIT_POLICY = passive

LIBTORCH := $(CACHE)/.libtorch
LIBTORCH_WHEELS := torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85

build: setup
	cargo build --bin opd
	mkdir -p bin
	cp -f $(CARGO_TARGET_DIR)/debug/opd bin/opd

# libtorch's CPU build, as three wheels: 0.5 GB on disk. The marker says which; a broken download leaves none.
setup: $(LIBTORCH)/.torch-2.11.0
	ln -sfn $(LIBTORCH) .libtorch

$(LIBTORCH)/.torch-2.11.0:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.95 or newer" >&2; exit 2; }
	@command -v c++ >/dev/null || { echo "a C++ compiler is missing: apt-get install build-essential" >&2; exit 2; }
	@$(PYTHON) -m pip --version >/dev/null || { echo "pip is missing: apt-get install python3-pip" >&2; exit 2; }
	@echo "fetching libtorch (0.5 GB on disk, once)"
	rm -rf $(LIBTORCH) $(LIBTORCH).part
	$(PYTHON) -m pip install -q --root-user-action=ignore --disable-pip-version-check \
		--no-deps --no-compile --target $(LIBTORCH).part $(LIBTORCH_WHEELS)
	mv $(LIBTORCH).part $(LIBTORCH)
	touch $@

# The main job on real input: a run of pipelines/arith.toml, its summary, and two questions to its store.
demo: build
	@pipelines/demo.sh bin/opd $(STORE)

test: build
	storage/with-s3.sh cargo test --workspace

# The same with more kills at random moments, and more seeds.
test-slow: build
	OPD_TEST_KILLS=200 PROPTEST_CASES=2000 storage/with-s3.sh cargo test --workspace

check: format lints docs test

format:
	cargo fmt --all --check

lints: setup
	cargo clippy --workspace --all-targets -- -D warnings

docs: setup
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# In the profile that people run; cargo's own bench profile would compile everything once more.
bench: setup
	storage/with-s3.sh cargo bench --profile dev

# Generates the problems, trains the tokenizer and both cold starts again: about 25 minutes on 2 cores.
arith-weights: build $(CACHE)/arith-venv/bin/python
	$(PYTHON) pipelines/arith/generate.py
	mkdir -p runs
	$(PYTHON) pipelines/arith/generate.py --sft 60000 runs/arith-sft.jsonl
	$(CACHE)/arith-venv/bin/python pipelines/arith/train_tokenizer.py runs/arith-sft.jsonl
	$(PYTHON) pipelines/arith/generate.py --check runs/arith-sft.jsonl
	bin/opd sft pipelines/arith/teacher-sft.toml --out runs/arith-teacher
	bin/opd sft pipelines/arith/student-sft.toml --out runs/arith-student
	cp runs/arith-teacher/model.safetensors pipelines/arith/teacher/
	cp runs/arith-student/model.safetensors pipelines/arith/student/

$(CACHE)/arith-venv/bin/python:
	$(PYTHON) -m venv $(CACHE)/arith-venv
	$(CACHE)/arith-venv/bin/python -m pip install -q --disable-pip-version-check tokenizers==0.23.3

clean:
	rm -rf bin runs
	cargo clean
