# One entry for everything. `make` alone lists the targets; none asks a question.
PYTHON ?= python3
STATE ?= .kythera
ARGS ?=
SEEDS ?= 500
WORKERS ?= 2
SLOW_WORKERS ?= 3
BIN := .venv/bin
PYTEST = $(BIN)/pytest -q -n $(WORKERS)
QUICK := "not real and not story"
SLOW := "real or story"
SETUP := $(PYTHON) scripts/setup.py
PIP_COMPILE := $(BIN)/pip-compile -q --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

.DEFAULT_GOAL := help
.PHONY: help setup up check test lint bench bench-fleet chaos crash sim clean requirements

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

setup: ## everything `make up` needs; done once, then a no-op
	@$(SETUP)

up: ## one machine becomes the platform (ARGS="--http 127.0.0.1:8000 …")
	@$(SETUP)
	@exec $(BIN)/kythera up --state $(STATE) --example $(ARGS)

lint:
	@$(SETUP) --checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint ## fast: style, types, layers, and the tests that start no process (ARGS="-k name")
	$(PYTEST) -m $(QUICK) $(ARGS)

test: ## everything: checks, then all tests, real processes and both wranglers included
	@$(SETUP) --test
	@$(MAKE) --no-print-directory lint
	$(if $(ARGS),,$(PYTEST) -m $(QUICK))
	$(if $(ARGS),$(BIN)/pytest -q $(ARGS),$(BIN)/pytest -q -n $(SLOW_WORKERS) --dist loadfile --no-loadscope-reorder -m $(SLOW))

bench: ## measure the promises of ARCHITECTURE.md; prints a table, writes JSON
	@$(SETUP) --bench
	$(BIN)/python -m bench $(ARGS)

bench-fleet: ## measure the promises of a fleet, five machines on this one; takes minutes
	@$(SETUP) --bench
	$(BIN)/python -m bench --fleet $(ARGS)

chaos: ## 30 random faults over 10 minutes on a real fleet (ARGS="--seed 7 --minutes 2 --faults 9")
	@$(SETUP) --test
	$(BIN)/python -m tests.chaos $(ARGS)

crash: ## 200 rounds of writes to all stores while all is killed (ARGS="--seed 7 --rounds 50")
	@$(SETUP) --test
	$(BIN)/python -m tests.crash $(ARGS)

sim: ## random histories of a machine's and a fleet's deciding code (SEEDS=20000)
	@$(SETUP)
	$(BIN)/python -m kythera.sim --seeds $(SEEDS) $(ARGS)

requirements: ## pin anew what requirements*.in name (ARGS=--upgrade)
	@$(SETUP) --checks
	$(PIP_COMPILE) $(ARGS) -o requirements.txt requirements.in
	$(PIP_COMPILE) $(ARGS) -o requirements-dev.txt requirements-dev.in

clean: ## remove what set-up and tests made (the platform's state stays: $(STATE))
	rm -rf .venv node_modules tests/wrangler/*/node_modules
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
