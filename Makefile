# What newcomers, developers and continuous integration run; `make help` lists it.

PYTHON ?= python3
ARGS ?=
# Processes that run tests side by side; each takes some 3 GB.
WORKERS ?= 2

PY := .venv/bin/python
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
DOCS := .venv-docs/.installed
PARALLEL := -n $(WORKERS) --dist worksteal
UNFINISHED := .venv/.unfinished

# A stamp says that an installation came to its end. It is void where the environment's Python is
# gone, or where an installation was interrupted: that may have left packages half written.
VOID := $(shell test -x $(PY) -a ! -e $(UNFINISHED) || rm -f $(RUN) $(DEV))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo onednn test test-fast test-full lint docs clean

help:  ## list these commands
	@grep -E '^[a-z-]+:.*  ## ' Makefile | awk -F ':.*  ## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo '  options: PYTHON=python3.12 (makes .venv), ARGS="-k name" (given to demo and pytest), WORKERS=2'

demo: $(RUN)  ## fine-tune a real network on real photographs, in about ten minutes on 2 cores
	$(PY) -m experiments.demo $(ARGS)

onednn: $(RUN)  ## install and build oneDNN's convolutions: faster on a Linux CPU, optional
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-onednn.txt
	$(PY) -m tl_jax.onednn

test: $(DEV)  ## install what tests need and run them
	$(PY) -m pytest $(PARALLEL) $(ARGS)

test-fast: $(DEV)  ## run the tests that compile little, in about two minutes
	$(PY) -m pytest tests $(PARALLEL) -m "not full and not slow" $(ARGS)

test-full: $(DEV)  ## run the exhaustive tests too (every architecture; long)
	TL_JAX_TEST_XLA_FLAGS=--xla_backend_optimization_level=0 \
		$(PY) -m pytest $(PARALLEL) -m "full or not full" $(ARGS)

lint: $(DEV)  ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(DOCS)  ## build documentation and API reference into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --clean --quiet
	@echo 'open site/index.html'

clean:  ## remove the environment, caches and builds; runs/ is left alone
	rm -rf .venv .venv-docs build dist site *.egg-info .jax_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DOCS): requirements-docs.txt
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(RUN): requirements.txt
	$(make_venv)
	$(call install,requirements.txt)
	@touch $@

$(DEV): requirements-dev.txt requirements-onednn.txt requirements.txt
	$(make_venv)
	$(call install,requirements-dev.txt)
	@touch $(RUN) $@

# Keeps a sound environment; otherwise makes one, if this Python can.
define make_venv
@if test ! -e $(UNFINISHED) && $(PY) -m pip --version >/dev/null 2>&1; then exit 0; fi; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "make: Python 3.11 or newer is needed; $(PYTHON) is" \
		"$$("$(PYTHON)" --version 2>/dev/null || echo 'no working Python')." >&2; \
	echo "make: name one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "make: $(PYTHON) cannot make virtual environments: it lacks venv or ensurepip." >&2; \
	echo "make: on Debian or Ubuntu install the package python3-venv and run make again." >&2; exit 1; }; \
"$(PYTHON)" -m venv --clear .venv
endef

# The mark stays only if the installation is cut short: pip undoes one that fails, not one killed.
define install
@echo "installing $(1) into .venv (the first time this takes minutes)"
@touch $(UNFINISHED)
@trap 'exit 130' HUP INT TERM; \
$(PY) -m pip install --quiet --disable-pip-version-check --progress-bar off -r $(1) </dev/null; \
status=$$?; rm -f $(UNFINISHED); exit $$status
endef
