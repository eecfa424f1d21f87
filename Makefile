# make demo   creates .venv, installs everything, runs the main job
# make test   the checks that must pass on a clean clone; make test-all adds the slow ones
PYTHON ?= python3
VENV ?= .venv
# Arguments for pip, for example: make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PIP_ARGS ?=
# Processes that run tests side by side.
JOBS ?= 2
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

export HF_HUB_OFFLINE = 1
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo test test-all lint docs install clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tacit needs Python 3.11 or newer; name one: make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/tacit demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

docs: install
	$(BIN)/python docs/make_cli.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
