# setup: a virtual environment with the CPU extras.  demo: one-shot FGL, end to end.  test, lint, bench.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint bench clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fglfast needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $@

demo: setup
	$(BIN)/fglfast demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-json benchmarks/results/pytest-benchmark.json

clean:
	rm -rf .venv fglfast-demo engines/build
