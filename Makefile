# Targets a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# The one place that pins torch; installed first so that nothing else pulls another build.
TORCH  ?= torch==2.13.0
PEERS  ?= .venv-peers
NODE   := tests/clients/node
BUF    := $(NODE)/node_modules/.bin/buf
SOURCES = $(shell git ls-files 'csrc/*' 'tests/cpp/*' 'tests/bench/*' 'tests/cuda_*' | grep -E '\.(h|cc|cuh|cu)$$')
# As csrc/cuda/toolchain.cmake looks for them; empty where there is none.
NVCC   := $(or $(CUDACXX),$(shell command -v nvcc 2>/dev/null),$(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc))
GPU    := $(or $(wildcard /dev/nvidia[0-9]*),$(shell nvidia-smi -L 2>/dev/null))
CUDA_DEPS := $(if $(NVCC),$(VENV)/.cuda-deps)
BUILD_DEPS := $(if $(or $(filter on,$(PHI3SVC_CUDA)),$(if $(filter off emulated,$(PHI3SVC_CUDA)),,$(GPU))),$(CUDA_DEPS))
# For a build by hand, without pip: the interpreter and its pybind11.
PYTHON_FLAGS = -DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-slow bench bench-peers lint typecheck format protos lint-protos test-cpp sanitize \
        cuda-check test-cuda-emulated embedded clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | \
	  awk -F'|' '{printf "  make %-20s %s\n", $$1, $$2}'

$(VENV)/.deps: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "phi3svc needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@echo "==> creating $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> installing torch (the largest download)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	@echo "==> installing build, runtime and test dependencies"
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")' > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt
	@touch $@

setup: $(VENV)/.deps ## create .venv with every dependency

$(VENV)/.cuda-deps: $(VENV)/.deps
	@echo "==> installing what the CUDA backend is built with"
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["optional-dependencies"]["cuda"], sep="\n")' > $(VENV)/cuda-requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r $(VENV)/cuda-requirements.txt
	@touch $@

build: setup $(BUILD_DEPS) ## compile the extension, install phi3svc into .venv (editable)
	@echo "==> compiling the extension and installing phi3svc"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .

demo: build ## stream a chat answer, label a review, find entities: all over gRPC
	@$(BIN)/phi3svc demo

test: build ## run the test suite
	$(BIN)/python -m pytest

test-slow: build ## the minutes-long tests: Phi-3-mini at full size, 10 GB of memory, 26 of disk
	$(BIN)/python -m pytest -m slow

bench: build ## measure again what tests/bench/results holds
	$(BIN)/python -m tests.bench.speculation
	$(BIN)/python -m tests.bench.step_overhead
	$(BIN)/python -m tests.bench.block_sparse
	$(BIN)/python -m tests.bench.barrier
	$(BIN)/python -m tests.bench.embedded
	$(BIN)/python -m tests.bench.quality --plot tests/bench/results/quality.svg

$(PEERS)/.deps: tests/bench/peers/requirements.txt
	@echo "==> creating $(PEERS): llama.cpp is compiled for this CPU, the rest is downloaded"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check $(TORCH)
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@CMAKE_ARGS=-DGGML_NATIVE=ON $(PEERS)/bin/python -m pip install -q --disable-pip-version-check \
	  --no-binary llama-cpp-python llama-cpp-python==0.3.36
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --target $(PEERS)/transformers-5 \
	  --upgrade transformers==5.23.0
	@touch $@

bench-peers: build $(PEERS)/.deps ## the same work by other engines, side by side: 40 minutes, 12 GB of disk
	$(BIN)/python -m tests.bench.peers --peers $(PEERS) $(PEERS_FLAGS)

lint: setup ## ruff, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

typecheck: build ## mypy, strict on the package
	$(BIN)/mypy

format: setup ## rewrite sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

$(BUF): $(NODE)/package.json
	npm install --prefix $(NODE) --silent --no-fund --no-audit
	@touch $@

protos: setup ## regenerate phi3svc/v1 from protos/
	$(BIN)/python protos/generate.py

lint-protos: $(BUF) ## buf lint, and buf breaking against the last released image
	$(BUF) lint protos
	$(BUF) breaking protos --against protos/released.binpb

test-cpp: setup ## build and run the C++ unit tests
	$(BIN)/cmake -S . -B build/cpp -G Ninja -DCMAKE_BUILD_TYPE=Release -DPHI3SVC_BUILD_TESTS=ON \
	  -DPHI3SVC_BUILD_PYTHON=OFF -DPHI3SVC_CUDA=off
	$(BIN)/cmake --build build/cpp
	$(BIN)/ctest --test-dir build/cpp --output-on-failure

sanitize: setup ## the C++ tests under address+undefined and thread sanitizers
	for kind in address,undefined thread; do \
	  $(BIN)/cmake -S . -B build/san-$$kind -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DPHI3SVC_BUILD_TESTS=ON -DPHI3SVC_SANITIZE=$$kind -DPHI3SVC_BUILD_PYTHON=OFF -DPHI3SVC_CUDA=off && \
	  $(BIN)/cmake --build build/san-$$kind && \
	  $(BIN)/ctest --test-dir build/san-$$kind --output-on-failure || exit 1; \
	done

cuda-check: setup $(CUDA_DEPS) ## compile the CUDA backend and look at its kernels; needs nvcc, no GPU
	@test -n "$(NVCC)" || { echo "cuda-check: no nvcc on PATH nor in /usr/local/cuda/bin"; exit 1; }
	$(BIN)/cmake -S . -B build/cuda -G Ninja -DPHI3SVC_CUDA=on -DPHI3SVC_BUILD_TESTS=ON $(PYTHON_FLAGS)
	$(BIN)/cmake --build build/cuda --target _core cuda_cutlass_tests
	$(BIN)/ctest --test-dir build/cuda/tests/cuda_cutlass --output-on-failure
	$(BIN)/python -m tests.cuda_check build/cuda/csrc/_core.*.so

test-cuda-emulated: setup ## the tests of ops and model over the CUDA kernels, run by the CPU
	$(BIN)/cmake -S . -B build/cuda-emulated -G Ninja -DPHI3SVC_CUDA=emulated -DPHI3SVC_BUILD_TESTS=ON $(PYTHON_FLAGS)
	$(BIN)/cmake --build build/cuda-emulated --target _core test_cuda_emulator test_cuda_wgmma
	$(BIN)/ctest --test-dir build/cuda-emulated -R test_cuda_ --output-on-failure
	PHI3SVC_TEST_EXTENSION=$$(echo $(CURDIR)/build/cuda-emulated/csrc/_core.*.so) $(BIN)/python -m pytest \
	  $$($(BIN)/python tests/cuda_suites.py emulated)

embedded: build ## train the three embedded models again, into build/embedded (half an hour)
	$(BIN)/python -m phi3svc.embedded.training.train --out build/embedded

clean: ## remove build products, keep .venv
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
