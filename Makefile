# Needs Python >= 3.11 with pip, and make; uses uv when it is on PATH. Everything lands in .venv.
# `make PYTHON=/path/to/python ...` picks the interpreter, `make UV= ...` does without uv.

VENV := .venv
PY := $(VENV)/bin/python
UV ?= $(shell command -v uv 2>/dev/null)
PYTHON ?=
CANDIDATES = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
ARGS ?=
WORKERS ?= 2
# The whole suite runs on two cores. With ARGS it runs in one process, where -s, -x and --pdb do what one expects.
PARALLEL = $(if $(ARGS),,-n $(WORKERS) --dist worksteal)

# The tests start many Pythons: without bytecode each of them would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL: # the targets share .venv
.PHONY: help demo test test-long test-wheel test-oldest check lint format bench dist clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: $(VENV)/.stamp-demo ## See it work: a pull against a local sandbox, no account needed
	@$(PY) examples/demo.py $(ARGS)

test: $(VENV)/.stamp-test ## Run the tests (ARGS="-k cursor -x" goes to pytest)
	$(PY) -X dev -m pytest $(PARALLEL) $(ARGS)

test-long: $(VENV)/.stamp-test ## Run the tests that take minutes, and search new Hypothesis examples
	HYPOTHESIS_PROFILE=search $(PY) -X dev -m pytest -m "long or hypothesis" -o faulthandler_timeout=1800 $(ARGS)

check: lint test ## Everything that must pass: format, lint, types, tests

lint: $(VENV)/.stamp-dev ## Format check, ruff, mypy, pyright
	$(VENV)/bin/ruff format --check --quiet || { echo "run: make format" >&2; exit 1; }
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright --pythonpath $(PY)

format: $(VENV)/.stamp-dev ## Format, and fix what ruff can fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

bench: $(VENV)/.stamp-test ## Run the benchmarks (ARGS goes to them)
	$(PY) -m benchmarks $(ARGS)

dist: $(VENV)/.stamp-dev ## Build dist/*.tar.gz and dist/*.whl
	rm -rf dist
	$(PY) -m build --outdir dist . >/dev/null

# The sources are not on the path here: the tests run in a copy without the package.
WHEEL_VENV := build/wheel/venv/bin
test-wheel: dist ## Test the built wheel in a clean environment
	rm -rf build/wheel && mkdir -p build/wheel/src
	$(PY) -m zipfile -l dist/*.whl | grep -q 'truto_ci_async/py.typed'
	! $(PY) -m zipfile -l dist/*.whl | grep -E '^(tests|examples|benchmarks|typings)/'
	for name in *; do case $$name in truto_ci_async|build|dist) ;; *) cp -R "$$name" build/wheel/src/ ;; esac; done
	$(PY) -m venv build/wheel/venv
	$(WHEEL_VENV)/python -m pip install --quiet 'pip>=25.1'
	$(WHEEL_VENV)/python -m pip install --quiet dist/*.whl
	cd build/wheel/src && ../venv/bin/python -W error -c 'import truto_ci_async' && ../venv/bin/truto-ci --help >/dev/null
	$(WHEEL_VENV)/python -m pip install --quiet "$$(echo dist/*.whl)[all]" --group test
	cd build/wheel/src && ../venv/bin/python -X dev -m pytest $(PARALLEL) $(ARGS)

test-oldest: ## Test with the oldest dependencies we allow (needs uv)
	@[ -n "$(UV)" ] || { echo "error: test-oldest needs uv (pip install uv)" >&2; exit 1; }
	rm -rf build/oldest
	"$(UV)" venv --quiet --python "$(or $(PYTHON),3.11)" build/oldest
	"$(UV)" pip install --python build/oldest/bin/python --resolution lowest-direct -e '.[all]' --group test
	build/oldest/bin/python -X dev -m pytest $(PARALLEL) $(ARGS)

clean: ## Remove everything these commands made
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setting up .venv: one stamp per set of packages, made again when pyproject.toml changes -----------

$(VENV)/.stamp-demo: WHAT = -e '.[cli]'
$(VENV)/.stamp-test: WHAT = -e '.[all]' --group test
$(VENV)/.stamp-test: INCLUDES = $(VENV)/.stamp-demo
$(VENV)/.stamp-dev: WHAT = -e '.[all]' --group dev
$(VENV)/.stamp-dev: INCLUDES = $(VENV)/.stamp-demo $(VENV)/.stamp-test

# pip understands --group since 25.1, newer than what many Pythons bring.
$(VENV)/.stamp-demo $(VENV)/.stamp-test $(VENV)/.stamp-dev: $(VENV)/.stamp-venv pyproject.toml
	@echo "Setting up $(VENV): $(WHAT)" >&2
	@if [ -n "$(UV)" ]; then \
	  "$(UV)" pip install --quiet --python $(PY) $(WHAT); \
	else \
	  { $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; } && \
	  $(PY) -m pip install --quiet --disable-pip-version-check 'pip>=25.1' && \
	  $(PY) -m pip install --quiet --disable-pip-version-check $(WHAT); \
	fi
	@touch $@ $(INCLUDES)

$(VENV)/.stamp-venv:
	@if [ -n "$(UV)" ]; then \
	  "$(UV)" venv --quiet --allow-existing --python "$(or $(PYTHON),>=3.11)" $(VENV); \
	else \
	  for python in $(CANDIDATES); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      "$$python" -m venv $(VENV) && touch $@ && exit; exit 1; \
	    fi; \
	  done; \
	  echo "error: no Python >= 3.11 with venv and pip among: $(CANDIDATES) (set one with make PYTHON=/path/to/python)" >&2; \
	  exit 1; \
	fi
	@touch $@
