# Needs Python >= 3.11 with pip, and make; uses uv when it is on PATH. Everything lands in .venv.
# `make PYTHON=/path/to/python ...` picks the interpreter, `make UV= ...` does without uv.

VENV := .venv
PY := $(VENV)/bin/python
UV ?= $(shell command -v uv 2>/dev/null)
UV_OR_OURS = $(or $(UV),build/uv/bin/uv)
PYTHON ?=
CANDIDATES = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
ARGS ?=
WORKERS ?= 2
# The whole suite runs on two cores. With ARGS it runs in one process, where -s, -x and --pdb do what one expects.
PARALLEL = $(if $(ARGS),,-n $(WORKERS) --dist worksteal)

# The tests start many Pythons: without bytecode each of them would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL: # the targets share .venv
.PHONY: help demo test test-long test-services test-services-long test-wheel test-oldest test-newest test-aiohttp mutants check lint format bench docs dist lock clean postgresql redis java chromium

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: $(VENV)/.stamp-demo ## See it work: a pull against a local sandbox, and a report with charts; no account needed
	@$(PY) examples/demo.py $(ARGS)

test: $(VENV)/.stamp-test ## Run the tests (ARGS="-k cursor -x" goes to pytest)
	$(PY) -X dev -m pytest $(PARALLEL) $(ARGS)

test-long: $(VENV)/.stamp-test ## Run the tests that take minutes, and search for new Hypothesis examples
	HYPOTHESIS_PROFILE=search $(PY) -X dev -m pytest -m "(long or hypothesis) and not services" -o faulthandler_timeout=1800 $(ARGS)

# A file stays in one process, since it starts its server, cluster or browser once. Those that take longest come first.
SERVICES = $(if $(ARGS),,--no-loadscope-reorder $(patsubst %,tests/test_%.py,ray postgres dlt redis) \
	$(shell grep -l 'mark\.services' tests/test_*.py))
test-services: build/sdk/.stamp build/moto/.stamp build/services/.stamp build/docs/.stamp postgresql redis java chromium ## Run the tests against other software: Truto's Python SDK, a notebook, a browser, PostgreSQL, Redis, S3, Ray, Spark, dlt
	build/services/bin/python -X dev -m pytest -m "services and not long" $(if $(ARGS),,-n $(WORKERS) --dist loadfile) $(SERVICES) $(ARGS)

test-services-long: build/moto/.stamp build/services/.stamp postgresql ## Kill pulls on Ray, with dlt, into PostgreSQL and object storage many more times
	build/services/bin/python -X dev -m pytest -m "services and long" -o faulthandler_timeout=1800 $(SERVICES) $(ARGS)

check: lint test ## Everything that must pass: format, lint, types, tests

lint: $(VENV)/.stamp-dev ## Format check, ruff, mypy, pyright
	$(VENV)/bin/ruff format --check --quiet || { echo "run: make format" >&2; exit 1; }
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright --pythonpath $(PY)

format: $(VENV)/.stamp-dev ## Format, and fix what ruff can fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

bench: build/bench/.stamp postgresql ## Run the benchmarks beside other clients, and put the figures into the README (ARGS="--quick")
	build/bench/bin/python -m benchmarks $(ARGS)

docs: build/docs/.stamp ## Build the documentation into build/docs/site
	build/docs/venv/bin/python docs/build.py

dist: $(VENV)/.stamp-dev ## Build dist/*.tar.gz and dist/*.whl
	rm -rf dist
	$(PY) -m build --outdir dist . >/dev/null

# The sources are not on the path here: the tests run in a copy without the package.
WHEEL_VENV := build/wheel/venv/bin
test-wheel: dist ## Test the built wheel in a clean environment
	rm -rf build/wheel && mkdir -p build/wheel/src
	$(PY) -m zipfile -l dist/*.whl | grep -q 'truto_ci_async/py.typed'
	! $(PY) -m zipfile -l dist/*.whl | grep -E '^(tests|examples|benchmarks|typings)/'
	for name in *; do case $$name in truto_ci_async|build|dist|mutants) ;; *) cp -R "$$name" build/wheel/src/ ;; esac; done
	$(PY) -m venv build/wheel/venv
	$(WHEEL_VENV)/python -m pip install --quiet dist/*.whl
	cd build/wheel/src && ../venv/bin/python -W error -c 'import truto_ci_async'
	$(WHEEL_VENV)/truto-ci --help 2>&1 | grep -qF "pip install 'truto-ci-async[cli]'"
	$(WHEEL_VENV)/python -m pip install --quiet --require-hashes -r locks/test.txt
	$(WHEEL_VENV)/python -m pip install --quiet "$$(echo dist/*.whl)[all]"
	$(WHEEL_VENV)/truto-ci --help >/dev/null
	cd build/wheel/src && ../venv/bin/python -X dev -m pytest $(PARALLEL) $(ARGS)

test-oldest: $(UV_OR_OURS) ## Test with the oldest dependencies we allow
	rm -rf build/oldest
	"$<" venv --quiet --python "$(or $(PYTHON),3.11)" build/oldest
	"$<" pip install --python build/oldest/bin/python --resolution lowest-direct -e '.[all]' --group test
	build/oldest/bin/python -X dev -m pytest $(PARALLEL) $(ARGS)

# pip understands --group since 25.1, newer than what many Pythons bring.
test-newest: $(VENV)/.stamp-venv ## Test with the newest release of every dependency
	rm -rf build/newest
	$(PY) -m venv build/newest
	build/newest/bin/python -m pip install --quiet 'pip>=25.1'
	build/newest/bin/python -m pip install -e '.[all]' --group test
	build/newest/bin/python -X dev -m pytest $(PARALLEL) $(ARGS)

mutants: $(VENV)/.stamp-mutants ## Break the rules and parsers on purpose; the tests must catch 90 % (ARGS: names)
	HYPOTHESIS_PROFILE=few $(PY) tests/mutants.py $(WORKERS) $(ARGS)

test-aiohttp: ## Test the transport with the oldest and the newest aiohttp
	$(MAKE) test-oldest test-newest ARGS="tests/test_transport.py $(ARGS)"

# dev is the largest set; the others take their versions from it.
COMPILE = "$<" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command 'make lock' --upgrade pyproject.toml --group backend
lock: $(UV_OR_OURS) ## Update locks/ to the newest releases
	$(COMPILE) --extra all --group dev -o locks/dev.txt
	$(COMPILE) --extra all --group test -c locks/dev.txt -o locks/test.txt
	$(COMPILE) --extra all --group test --group mutants -c locks/dev.txt -o locks/mutants.txt
	$(COMPILE) --extra all --group test --group services -c locks/dev.txt -o locks/services.txt
	$(COMPILE) --extra all --group test --group bench -c locks/dev.txt -o locks/bench.txt
	$(COMPILE) --extra all --group docs -c locks/dev.txt -o locks/docs.txt
	$(COMPILE) --extra cli --extra charts -c locks/dev.txt -o locks/demo.txt

clean: ## Remove everything these commands made
	rm -rf $(VENV) build dist mutants .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setting up .venv: one stamp per lock, made again when the lock or pyproject.toml changes -----------

INSTALL = $(if $(UV),"$(UV)" pip install --python $(PY),$(PY) -m pip install --disable-pip-version-check) --quiet

$(VENV)/.stamp-test: INCLUDES = $(VENV)/.stamp-demo
$(VENV)/.stamp-dev $(VENV)/.stamp-mutants: INCLUDES = $(VENV)/.stamp-demo $(VENV)/.stamp-test

$(VENV)/.stamp-demo $(VENV)/.stamp-test $(VENV)/.stamp-dev $(VENV)/.stamp-mutants: $(VENV)/.stamp-%: locks/%.txt pyproject.toml $(VENV)/.stamp-venv
	@echo "Setting up $(VENV): $<" >&2
	@[ -n "$(UV)" ] || $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(INSTALL) --require-hashes -r $<
	@$(INSTALL) --no-deps --no-build-isolation -e .
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

# The SDK needs Python 3.12, so it has an environment of its own. pyenv's shims fail where no version is chosen.
SDK_CANDIDATES = $(PYTHON) python3 python3.14 python3.13 python3.12 \
	$(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1[2-9]*/bin/python)
build/sdk/.stamp: Makefile
	@rm -rf build/sdk
	@for python in $(SDK_CANDIDATES); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    echo "Setting up build/sdk: truto-python-sdk" >&2; \
	    "$$python" -m venv build/sdk && build/sdk/bin/python -m pip install --quiet --disable-pip-version-check \
	      truto-python-sdk==0.1.6 && touch $@ && exit; exit 1; \
	  fi; \
	done; \
	echo "error: no Python >= 3.12 with venv and pip among: $(SDK_CANDIDATES)" >&2; \
	exit 1

# An S3 server. It wants an older dateutil than pandas does, so it has an environment of its own.
build/moto/.stamp: Makefile $(VENV)/.stamp-venv
	@echo "Setting up build/moto" >&2
	@rm -rf build/moto
	@$(PY) -m venv build/moto
	@$(if $(UV),"$(UV)" pip install --python build/moto/bin/python,build/moto/bin/python -m pip install \
	  --disable-pip-version-check) --quiet 'moto[server]==5.2.5'
	@touch $@

# $(call system,IS THERE,NAME,PACKAGES OF DEBIAN)
define system
	@$(1) || { \
	  echo "Installing $(2), by apt-get" >&2; \
	  command -v apt-get >/dev/null || { echo "error: install $(2), so that it is on PATH" >&2; exit 1; }; \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq --no-install-recommends $(3) >/dev/null; }
endef

# The tests start servers of their own, so nothing needs to run.
postgresql:
	$(call system,ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null,PostgreSQL,postgresql)

redis:
	$(call system,command -v redis-server >/dev/null || command -v valkey-server >/dev/null,Redis,redis-server)

java: # for Spark
	$(call system,[ -n "$$JAVA_HOME" ] || command -v java >/dev/null,Java,default-jre-headless)

chromium:
	$(call system,[ -n "$$CHROMIUM" ] || command -v chromium >/dev/null || command -v chromium-browser >/dev/null,Chromium,chromium fonts-dejavu-core)

# What .venv has, and what drives the other software or is compared with this package.
build/services/.stamp build/bench/.stamp: build/%/.stamp: locks/%.txt $(VENV)/.stamp-venv
	@echo "Setting up build/$*: $<" >&2
	@rm -rf build/$*
	@$(PY) -m venv build/$*
	@$(if $(UV),"$(UV)" pip install --python build/$*/bin/python,build/$*/bin/python -m pip install \
	  --disable-pip-version-check) --quiet --require-hashes -r $<
	@$(if $(UV),"$(UV)" pip install --python build/$*/bin/python,build/$*/bin/python -m pip install \
	  --disable-pip-version-check) --quiet --no-deps --no-build-isolation -e .
	@touch $@

# The reference is made from the package, and the tutorial runs it.
build/docs/.stamp: locks/docs.txt $(VENV)/.stamp-venv
	@echo "Setting up build/docs: locks/docs.txt" >&2
	@rm -rf build/docs
	@$(PY) -m venv build/docs/venv
	@$(if $(UV),"$(UV)" pip install --python build/docs/venv/bin/python,build/docs/venv/bin/python -m pip install \
	  --disable-pip-version-check) --quiet --require-hashes -r $<
	@$(if $(UV),"$(UV)" pip install --python build/docs/venv/bin/python,build/docs/venv/bin/python -m pip install \
	  --disable-pip-version-check) --quiet --no-deps --no-build-isolation -e .
	@touch $@

# test-oldest and lock need uv; this is for machines that do not have it on PATH.
build/uv/bin/uv: | $(VENV)/.stamp-venv
	$(PY) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
