# Each of these does its own set-up in .venv, from the package index alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-system test-slow check clean

demo: .venv/topwork  ## train on 1,797 real images that need no network
	$(BIN)/topwork demo

PYTEST := $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test: .venv/dev  ## what needs nothing but Python, in about four minutes
	$(PYTEST)

test-system: .venv/dev  ## with a browser, TensorFlow, Ray, NNCF, a bucket, and other processes
	$(PYTEST) -m 'system and not slow'

test-slow: .venv/dev  ## every base, many examples, and the photographs if ../shared has them
	$(PYTEST) -m slow
	$(PYTEST) -m 'hypothesis and not slow' --hypothesis-profile many

check: .venv/dev  ## format, lint, types, and which module may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv topwork-demo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Topwork needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/topwork: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/topwork
