# `make run` and `make test` do all set-up themselves: they need python3 (3.11 or newer, with venv), git and make.
PYTHON ?= python3
ATHERIS := atheris>=3
VENV := .venv
BIN := $(VENV)/bin
ARCHIVE ?= ./incidents
# What `make mutate` changes, by the names in tests/mutations.py; all of them if empty.
MODULES ?=
# What `make fuzz` feeds, by the names in tests/fuzz/parsers.py (all of them if empty), and for how long each.
PARSERS ?=
SECONDS ?= 60
# Processes that run tests; most of these wait rather than compute.
JOBS ?= 2
# Interpreters beside $(PYTHON) that the unit tests also run on, where they are present.
OTHER_PYTHONS ?= 3.12 3.13

# What the packages run on, and counts the packages of one version.
PYTHON311 ?= python3.11
RELEASE ?= 1

.PHONY: run test check unit-others test-slow test-vm mutate fuzz bench docs packages clean

run: $(VENV)/.run
	@$(BIN)/collector run --now --archive $(ARCHIVE) --reason "make run"; status=$$?; \
	test $$status -eq 0 -o $$status -eq 3 || exit $$status; \
	echo; echo "Look at it:  $(BIN)/collector show latest --archive $(ARCHIVE)"

test: check
	$(BIN)/pytest -n $(JOBS)
	@$(MAKE) --no-print-directory unit-others

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit-others: $(VENV)/.dev
	@PYTHON=$(BIN)/python JOBS=$(JOBS) sh tests/other_pythons.sh $(OTHER_PYTHONS)

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow
	@$(MAKE) --no-print-directory fuzz SECONDS=20

# Under Debian's own kernel, by qemu without KVM.
test-vm: $(VENV)/.dev
	$(BIN)/pytest -m vm tests/e2e/test_debian_kernel.py

mutate: $(VENV)/.dev
	$(BIN)/python tests/mutations.py $(MODULES)

fuzz: $(VENV)/.fuzz
	cd tests && ../$(BIN)/python -m fuzz $(SECONDS) $(PARSERS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/message_catalog.py

packages: .venv-packages/.tools
	@.venv-packages/bin/python packaging/build.py $(RELEASE)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "collector needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run

# Without atheris (another machine than x86-64, a newer Python) inputs are damaged at random.
$(VENV)/.fuzz: $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: '$(ATHERIS)'
	@touch $@

.venv-packages/.tools: packaging/build-requirements.txt
	@$(PYTHON311) -m venv .venv-packages || \
	  { echo "the packages need Python 3.11: apt-get install python3.11-venv, or make packages PYTHON311=..."; exit 1; }
	.venv-packages/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
