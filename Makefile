# The verbs of this repository. `make demo` and `make test` need Python 3.11+, git and a package index, nothing else.
SHELL := /bin/sh
PYTHON ?= python3
BOOTSTRAP := .venv-uv
UV := $(BOOTSTRAP)/bin/uv
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
# Where a shell or an image sets it, each of the hundreds of processes of a test run would compile all it imports, half of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check format docs soak-sim clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    run the main job on the embedded local cloud (ARGS=... goes to headrace demo)"
	@echo "make test    run the checks and tests that CI runs"
	@echo "make check   lint, types, import contracts, template, docs"
	@echo "make format  format and fix what can be fixed"
	@echo "make docs    generate the reference pages from the code"
	@echo "make soak-sim SEEDS=100000   many more simulated worlds than make test runs (FIRST=... is the first seed)"

setup: .venv/.stamp

.venv/.stamp: pyproject.toml uv.lock requirements-uv.txt hatch_build.py $(wildcard shared/compiled/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version)" >&2; echo >&2; echo "hint: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(UV) || { $(PYTHON) -m venv $(BOOTSTRAP) && $(BOOTSTRAP)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt; }
	@$(UV) sync --quiet --locked --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@$(BIN)/python -c 'import sys; from shared.compiled import COLUMNS; sys.exit(COLUMNS is None)' || echo "note: no C compiler made the compiled part; headrace does the same without it, at up to twice the cost per event" >&2
	@touch .venv/.stamp

demo: setup
	@$(BIN)/headrace demo $(ARGS)

# Three workers for two cores: a third of the tests wait for processes of their own.
test: setup
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

check: setup
	@$(BIN)/ruff format --check --quiet . || { echo "error: not formatted" >&2; echo >&2; echo "hint: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/mypy tests/typing/api.py
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/cfn-lint infra/template.yaml
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python -m infra.reference --check

format: setup
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

docs: setup
	@$(BIN)/python -m infra.reference

# Seeds beyond those of `make test`, so that a soak looks at worlds nobody has seen.
SEEDS ?= 100000
FIRST ?= 1000000
soak-sim: setup
	@$(BIN)/python -m pytest -q -n 2 tests/simulation/test_worlds.py -k every_promise --sim-first-seed $(FIRST) --sim-seeds $(SEEDS)

clean:
	rm -rf .venv $(BOOTSTRAP) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
