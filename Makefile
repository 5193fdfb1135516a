# Two commands on a fresh machine (Python 3.11+ and make): `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SHARED := ../shared/data

.PHONY: install demo test test-slow lint format bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/mlis demo -o demo-out

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

test: lint
	$(BIN)/pytest -m 'not slow' -n auto --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow

# Quick, a few minutes; all of it: make bench BENCH=--full. Writes bench-out/bench.json and bench.md.
bench: install
	$(BIN)/python benchmarks/suite.py -o bench-out --data-root $(SHARED)/xlsa17 $(BENCH)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo-out bench-out .pytest_cache .ruff_cache
