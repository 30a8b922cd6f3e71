# Two commands for a newcomer: `make demo` and `make test`. Both make what they need by themselves:
# the virtual environment .venv, pinned by constraints.txt, made once and re-used while what it was
# made of stays the same.
#
#   make demo ARGS="..."      further arguments for the command behind a target
#   make demo PYTHON=...      another Python than the first suitable one on the path
#   make demo TORCH_INDEX_URL=...
#                             an index with CPU builds of torch: on Linux without a GPU it saves gigabytes
#   make demo PIP_ARGS="..."  further arguments for pip
#   make test JOBS=1          tests one after the other; otherwise two files of them at a time

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-fault test-gpu test-slow lint type fmt bench docs install clean

ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif

# The stamp's name is a hash of all that the environment was made of (Python's version, the folder,
# what pyproject.toml says of the project and its build, the pins), so that times of files, which a
# checkout sets anew, don't matter. It is written last: an interrupted installation has none.
ifneq ($(PYTHON),)
KEY := $(shell $(PYTHON) -c 'import hashlib, json, os, sys, tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb")); \
	parts = [sys.version_info[:2], os.getcwd(), project["build-system"], project["project"], open("constraints.txt").read()]; \
	print(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16])')
endif
STAMP := .venv/.complete-$(KEY)

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Two processes with a Ray session and a torch thread each: most tests wait for processes to start and end. Those
# that start whole clusters and kill parts of them (tests/e2e, tests/fault) have the machine to themselves.
JOBS := 2
# What pytest exits with where ARGS choose no test of one of the two kinds.
NOTHING_CHOSEN := 5
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  make %-11s %s\n' "$$target" "$$text"; done

demo: $(STAMP) ## The whole flow on this machine; ends with the path of report.html
	$(BIN)/sailloft demo $(ARGS)

test: $(STAMP) ## Unit, contract, parity, fault and end-to-end tests, without the slow ones
	@first=0; OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadfile \
		-m "not cluster and not slow and not gpu and not network" $(ARGS) || first=$$?; \
	[ $$first -eq 0 ] || [ $$first -eq $(NOTHING_CHOSEN) ] || exit $$first; \
	second=0; $(PYTEST) -m "cluster and not slow and not gpu and not network" $(ARGS) || second=$$?; \
	[ $$second -eq $(NOTHING_CHOSEN) ] && exit $$first || exit $$second

test-all: $(STAMP) ## All tests that need no accelerator and no network, slow ones too
	$(PYTEST) -m "not gpu and not network" $(ARGS)

test-fault: $(STAMP) ## Killed workers, torn writes, corrupt inputs
	$(PYTEST) -m "not gpu and not network" tests/fault $(ARGS)

test-gpu: $(STAMP) ## Tests that need an accelerator
	$(PYTEST) -m "gpu" $(ARGS)

test-slow: $(STAMP) ## Tests of minutes: the wheel in a clean environment, overfitting real photographs
	$(PYTEST) -m "slow and not gpu and not network" $(ARGS)

lint: $(STAMP) ## Ruff's rules and format, the import layers, the Dockerfile, known weaknesses of the pinned versions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m tests.dependency_audit

type: $(STAMP) ## Types, by pyright
	$(BIN)/pyright

fmt: $(STAMP) ## Rewrites the sources in ruff's format, with what it can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## The benchmarks, timed and printed (`make test` runs each once, untimed)
	$(BIN)/python -m tests.benchmarks

docs: $(STAMP) ## The pages of docs/ as a site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

install: $(STAMP) ## Only the virtual environment

clean: ## Removes caches and builds; keeps .venv and runs/
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find docs jobs model pipelines storage teachers tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP):
	@test -n "$(PYTHON)" || { echo "Sailloft needs Python 3.11 or later as python3 (or python3.11 and up) on the path;" \
		"found: $$(python3 --version 2>&1). Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Sailloft needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; exit 2; }
	@echo "Installing into .venv; this takes some minutes, once."
	$(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) torch hatchling
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	$(BIN)/python -m pip check
	@touch $@
