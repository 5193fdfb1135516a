# Two commands on a fresh machine (Python 3.11+ and make): `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SHARED := ../shared/data

.PHONY: install demo test test-slow torture fuzz lint format bench clean

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

# kill -9 at 50 random moments of each command, as far as half an hour allows, then every other fault.
# Shorter: make torture TORTURE='--kills 10 --seconds 300'.
torture: install
	$(BIN)/python torture/kills.py -o torture-out $(TORTURE)
	$(BIN)/pytest tests/test_faults.py

# 100,000 damaged files for every reader; stop it at any time, it goes on where it stopped. For ten
# minutes: make fuzz FUZZ='--seconds 600'.
fuzz: install
	nice -n 10 $(BIN)/python torture/fuzz.py -o fuzz-out $(FUZZ)

# Quick, a few minutes; all of it: make bench BENCH=--full. Writes bench-out/bench.json and bench.md.
bench: install
	$(BIN)/python benchmarks/suite.py -o bench-out --data-root $(SHARED)/xlsa17 $(BENCH)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo-out bench-out torture-out fuzz-out .pytest_cache .ruff_cache
