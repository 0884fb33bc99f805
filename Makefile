# A bare machine needs Python 3.11 to 3.13 with pip; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup up demo test soak check bench lock notebooks

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) scripts/setup_environment.py $(VENV)

setup: $(READY) ## install everything into .venv, and nothing else

up: $(READY) ## start servers, exchange, collectors and the Dagster UI on http://127.0.0.1:3000 (Ctrl-C stops all)
	@$(BIN)/trading up $(ARGS)

demo: $(READY) ## the same main job without a UI; ends with a summary
	@$(BIN)/trading demo $(ARGS)

test: $(READY) ## run the tests
	@$(BIN)/pytest -n 3 --dist loadfile $(ARGS)

soak: $(READY) ## run the simulation, fault and backfill tests at full size (about four hours)
	@SOAK=1 $(BIN)/pytest -s --timeout 7200 tests/simulation tests/faults tests/end_to_end/test_backfill.py $(ARGS)

bench: $(READY) ## measure hot paths: ours beside the naive way and beside the limit
	@$(BIN)/trading bench $(ARGS)

check: $(READY) ## formatting, lint, types, layers, lock file, Dagster definitions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python scripts/lock.py --check
	@$(BIN)/python scripts/notebooks.py --check
	@$(BIN)/dg check toml
	@DAGSTER_HOME=$$(mktemp -d) $(BIN)/dg check defs

lock: $(READY) ## compile requirements.lock from pyproject.toml
	@$(BIN)/python scripts/lock.py

notebooks: $(READY) ## make the Jupyter notebooks of the files in docs/notebooks
	@$(BIN)/python scripts/notebooks.py
