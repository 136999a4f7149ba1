# Targets a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# The one place that pins torch; installed first so that nothing else pulls another build.
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint format

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.deps: pyproject.toml
	@test -x $(BIN)/python || { echo "==> creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "==> installing torch (the largest download)"
	$(BIN)/python -m pip install -q $(TORCH)
	@echo "==> installing build, runtime and test dependencies"
	$(BIN)/python -m pip install -q $$($(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*("\"%s\"" % d for d in p["dependencies"] + p["optional-dependencies"]["dev"]))' | tr -d '"' | sed 's/ / /g')
	@touch $@

setup: $(VENV)/.deps ## create .venv with every dependency

build: setup ## compile the extension and install phi3svc in .venv (editable)
	@echo "==> compiling the extension"
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .

demo: build ## start the server on the embedded models, stream a chat answer, classify, stop
	$(BIN)/phi3svc demo

test: build ## run the test suite
	$(BIN)/python -m pytest
