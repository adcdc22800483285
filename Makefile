# Needs Python 3.11 or later, make and a package index; everything else goes into .venv.
#
#   PYTHON  the interpreter that .venv is made with (after `make clean` where there is one already)
#   ARGS    what to pass on to the program that a target runs: make test ARGS="-k reward"

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# One thread a worker: with two each, two workers would fight over two cores.
# -rs: what was skipped, and why, in a line each before the last, so that nobody takes it for passed.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -rs

.PHONY: help install demo bench test test-slow lint clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## make .venv with the project and all it needs

# The stamp is written last: an install that was broken off leaves none, and the next one goes on from there.
$(INSTALLED): requirements/pinned.txt requirements/no-deps.txt pyproject.toml setup.cfg
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "RC-NAS needs Python 3.11 or later; \
	$(PYTHON) is %d.%d. Name another: make install PYTHON=python3.12" % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): about 6 GB and a few minutes the first time."
	@$(PIP) install -r requirements/pinned.txt
	@$(PIP) install --no-deps -r requirements/no-deps.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## run the quickstart
	@$(BIN)/python -m experiments.quickstart $(ARGS)

# Parts of one thread each; the names go to stderr, so that ARGS=--json leaves nothing but JSON on stdout.
bench: install ## measure speed against the published code (about 10 minutes on two idle cores)
	@for each in peak training attacks env search cost_model "memory --inner-steps 1 --attack fgsm"; do \
		echo "== benchmarks.$$each" >&2; \
		OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$$each $(ARGS) || exit 1; \
	done

test: install ## run the tests (minutes on two cores)
	@$(PYTEST) $(ARGS)

test-slow: install ## run the tests that train for minutes
	@$(PYTEST) -m slow $(ARGS)

lint: install ## check style and types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

clean: ## remove .venv and everything else that was made
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
