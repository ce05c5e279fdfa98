# `make` says what there is. Everything runs in .venv, which is made when missing and renewed when stale.

BUDGET ?= 5m
RECIPE ?=
BENCH ?=
ARGS ?=

SHELL := /bin/sh
BIN := .venv/bin
SUPPORTED := import sys; sys.exit(not sys.version_info >= (3, 11))
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && command -v $$python && break; done)
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -V))
# A changed dependency, pin or Python is a changed stamp.
STAMP := .venv/installed-$(shell (cat pyproject.toml constraints.txt; echo "$(VERSION)") | cksum | cut -d ' ' -f 1)

.PHONY: help setup run ui test test-all check bench clean
.DEFAULT_GOAL := help

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Install into .venv, and no more

$(STAMP):
	@test -n "$(PYTHON)" || { echo "shoestring needs Python 3.11 or newer, and found none: install it, or make PYTHON=/path/to/python3"; exit 1; }
	@test "$$($(BIN)/python -c 'import pip' 2>/dev/null && $(BIN)/python -V)" = "$(VERSION)" || { echo "Making .venv with $(VERSION)"; rm -rf .venv; \
		$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment: see the lines above"; exit 1; }; }
	@echo "Installing into .venv; the first time takes minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@$(BIN)/python -m tasks.new_database
	@rm -f .venv/installed-*
	@touch $@

run: $(STAMP) ## Train the best model that BUDGET=5m buys; RECIPE=name or file
	@$(BIN)/shoestring run $(RECIPE) --budget $(BUDGET)

ui: $(STAMP) ## Open the Prefect and MLflow pages, with a worker; ctrl-c closes them
	@$(BIN)/shoestring ui

test: $(STAMP) ## The quick tests, minutes on two cores
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(STAMP) ## All tests
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## Format, lint, types and import arrows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## All benchmarks, or BENCH=name; ARGS="--quick" for a rough answer
	@$(BIN)/python -m tests.benchmarks $(BENCH) $(ARGS)

clean: ## Remove .venv and caches; runs and models in .shoestring stay
	@rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.shoestring/*' -prune -exec rm -rf {} +
