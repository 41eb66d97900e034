# The commands of daily work: `make help` lists them.

PYTHON ?= python3
VENV := .venv
FLOORS := .venv-floors
BIN := $(VENV)/bin
# Number of processes that share the tests; 0 runs them in one.
JOBS ?= auto
# BROWSER=1 installs chromium by apt-get first, for the tests of HTML pages; without chromium they are skipped.
BROWSER ?=
# Options of pytest, such as ARGS="-m 'not slow'" or ARGS=tests/data.
ARGS ?=
# How many times as many cases `make fuzz` tries as `make test`.
FUZZ ?= 20
# Further options of pip, such as an index of PyTorch's CPU builds.
PIP_EXTRA ?=
# Only errors are printed.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_EXTRA)
# Tests of one file stay together: they share what the file's fixtures made. Each process computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo fewshot-demo smollm2 test floors fuzz lint docs wheel results bench instructions chromium clean

help: ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name about; do printf 'make %-13s %s\n' "$$name" "$$about"; done

demo: $(VENV)/.installed ## install once, then train, score, compare and draw on the embedded corpus
	@$(BIN)/dynlm demo

fewshot-demo: $(VENV)/.installed ## install once, then few-shot learning on embedded data, two minutes
	@$(BIN)/dynlm fewshot demo

smollm2: $(VENV)/.installed-hf ## install once, then SmolLM2 reads newer documentation with a memory, some minutes
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/smollm2.sh

test: $(VENV)/.installed-dev $(if $(BROWSER),chromium) lint ## install once, then check style, types and imports, and run all tests
	@$(PYTEST) $(ARGS)

# PyTorch is the tested version: its oldest release for this machine may include gigabytes of GPU libraries.
floors: $(FLOORS)/.installed ## read untrusted files with the oldest versions that pyproject.toml admits
	@OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest -n $(JOBS) --dist loadfile -W ignore tests/fuzz tests/data tests/fewshot tests/test_safe_files.py tests/test_safe_sizes.py \
		tests/evaluation/test_score_file.py tests/evaluation/test_score_selection.py

fuzz: $(VENV)/.installed-dev ## try some 200,000 damaged and hostile files, others each time; FUZZ=100 tries more
	@DYNLM_FUZZ=$(FUZZ) $(PYTEST) tests/fuzz

lint: $(VENV)/.installed-dev ## check style, types and the layers of imports
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "not in ruff's format: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary dynlm benchmarks
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report" >&2; exit 1; }

docs: $(VENV)/.installed-docs ## build the documentation site into site/; a broken link or a missing docstring fails
	@report=$$(NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict 2>&1) || { echo "$$report" >&2; exit 1; }

wheel: $(VENV)/.installed-dev ## build the wheel and the source distribution into dist/
	@$(BIN)/python -m hatchling build

results: $(VENV)/.installed-dev ## make README.md's table: train and study on WikiText-2 in DIR=..., a night on two cores
	@$(BIN)/dynlm study --config study-wikitext-2 $(if $(DIR),--corpus.path "$(DIR)")
	@$(BIN)/python scripts/readme_results.py
	@$(BIN)/python scripts/readme_pictures.py

bench: $(VENV)/.installed-dev ## time reading, training, tokenising and starting, beside the machine's own limits
	@$(PIP) -e '.[benchmarks]' || echo "higher and torchopt could not be installed; what needs them is skipped" >&2
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.maml_step

instructions: $(VENV)/.installed-dev ## count the instructions of a segment, and compare with the last count (valgrind)
	@$(BIN)/python -m benchmarks.instructions

clean: ## remove .venv, caches and builds; runs/ stays
	@rm -rf $(VENV) $(FLOORS) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	@find dynlm docs tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Tests open the report and the heat map in a browser and are skipped where there is none, so that nothing here may fail.
# Playwright's Python package drives it and downloads none of its own.
chromium:
	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root='sudo -n'; else exit 0; fi; \
		echo "installing chromium with apt-get, for the tests of HTML pages"; \
		{ $$as_root apt-get update && $$as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 </dev/null \
			|| echo "chromium could not be installed; its tests are skipped"; \
	fi

# Stamps: dependencies are installed again when pyproject.toml or constraints.txt changes. The second includes the first.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing dynlm into $(VENV) (once; a few minutes, most of it PyTorch)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing dynlm and its tools into $(VENV) (once; a few minutes, most of it PyTorch)"
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-hf: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing dynlm and transformers into $(VENV) (once; a few minutes, most of it PyTorch)"
	@$(PIP) -e '.[hf]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing mkdocs into $(VENV) (once)"
	@$(PIP) $$(sed -n 's/^docs = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	@touch $@

$(FLOORS)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing the oldest versions that dynlm admits into $(FLOORS) (once)"
	@$(BIN)/python -m venv --clear $(FLOORS)
	@sed -n '/^dependencies = \[/,/^\]/s/^ *"\([a-z0-9_]*\)[^>]*>=\([0-9.]*\)".*/\1==\2/p' pyproject.toml \
		| grep -v '^torch==' > $(FLOORS)/constraints.txt
	@grep '^torch[<=]' constraints.txt >> $(FLOORS)/constraints.txt
	@$(FLOORS)/bin/python -m pip install -qq --disable-pip-version-check -c $(FLOORS)/constraints.txt -e . pytest pytest-xdist hypothesis
	@touch $@

# A virtual environment that works is kept; an incomplete one is created again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "dynlm needs Python 3.10 or later, and '$(PYTHON)' is not: name another with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] && sudo= || sudo='sudo '; \
		echo "'$(PYTHON)' cannot make a virtual environment: run $${sudo}apt-get install python3-venv, then make again" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@
