# Two commands on a fresh machine (Python 3.11+ and make): `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SHARED := ../shared/data

.PHONY: core install demo test test-slow test-lowest test-lowest-extras torture fuzz lint format bench docs pages audit clean

# pip installs PyTorch, so that a local index or wheel of it is used; uv installs the rest, faster.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
UV  := $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt

core: $(VENV)/.core
install: $(VENV)/.installed

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch uv
	$(UV) -e .
	touch $@

$(VENV)/.installed: $(VENV)/.core
	$(UV) -e '.[dev]'
	touch $@

demo: core
	$(BIN)/mlis demo -o demo-out

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

test: lint
	$(BIN)/pytest -m 'not slow' -n auto --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow

# kill -9 at 50 random moments of each command, as far as half an hour allows, then every other fault,
# and attacks on the server. Shorter: make torture TORTURE='--kills 10 --seconds 300'.
torture: install
	$(BIN)/python torture/kills.py -o torture-out $(TORTURE)
	$(BIN)/python torture/server.py
	$(BIN)/pytest tests/faults/test_faults.py tests/faults/test_shortage.py

# 100,000 damaged files for every reader; stop it at any time, it goes on where it stopped. For ten
# minutes: make fuzz FUZZ='--seconds 600'.
fuzz: install
	nice -n 10 $(BIN)/python torture/fuzz.py -o fuzz-out $(FUZZ)

# Quick, a few minutes; all of it: make bench BENCH=--full. Writes bench-out/bench.json and bench.md.
bench: install
	$(BIN)/python benchmarks/suite.py -o bench-out --data-root $(SHARED)/xlsa17 $(BENCH)

# The core with the lowest declared versions of all but PyTorch; extras with pretrained models stay out.
LOWEST := .venv-lowest
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
	  'torch==2.13.0' -e '.[parquet,metric]' pytest pytest-xdist hypothesis psutil
	$(LOWEST)/bin/pytest -m 'not slow' -o filterwarnings=default -n auto --dist loadfile tests \
	  --ignore tests/project/test_docs.py --ignore tests/project/test_docs_site.py --ignore tests/project/test_packaging.py \
	  --ignore tests/serve_cases.py --ignore-glob 'tests/serving/*' --ignore tests/io/test_share.py \
	  --ignore tests/cli/test_cli_features.py --ignore-glob 'tests/features/test_features_[bw]*'

# The extras with the lowest declared versions of what they need.
test-lowest-extras:
	$(PYTHON) -m venv $(LOWEST)-extras
	$(LOWEST)-extras/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest-extras.txt \
	  -e '.[images,text,serve,tune,onnx,parquet,metric]' pytest pytest-xdist hypothesis psutil httpx
	$(LOWEST)-extras/bin/pytest -m 'not slow' -o filterwarnings=default -n auto --dist loadfile \
	  tests/serving tests/features tests/cli/test_cli_features.py tests/experiments/test_tune*.py \
	  tests/io/test_export.py tests/cli/test_predict_images.py tests/incremental/test_add_classes.py

# The site, in site/. Read it with: .venv/bin/mkdocs serve
docs: install
	$(BIN)/mkdocs build --strict

# The pages that are written by scripts.
pages: install
	$(BIN)/python tools/settings_page.py
	$(BIN)/python tools/licences.py

# Known holes in the pinned versions; asks a public service.
audit: install
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) $(LOWEST)-extras build dist site demo-out bench-out torture-out fuzz-out .pytest_cache .ruff_cache
