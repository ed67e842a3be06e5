# fairsweep: `make sweep` runs the main job, `make test` passes the tests. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help sweep test slow claims lint benchmarks clean

help:  ## show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "fairsweep needs Python 3.10 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,benchmarks]'
	@touch $(STAMP)

sweep: $(STAMP)  ## run the main job: tune DAGNN on real data, 12 configurations with ASHA
	$(BIN)/fairsweep run trainable=dagnn scheduler=asha budget.trials=12

test: $(STAMP)  ## run the tests, but for the slow ones
	$(BIN)/python -m pytest

slow: $(STAMP)  ## run the slow tests too
	$(BIN)/python -m pytest -m 'slow or not slow' --timeout=1800

claims: $(STAMP)  ## do the papers' claims hold? paired sweeps of all of them
	$(BIN)/fairsweep claims

# The tools read folders and know nothing of a package whose rooms lie beside it: build/lint is that package in links.
lint: $(STAMP)  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/lint && mkdir -p build/lint/fairsweep
	ln -s $(addprefix $(CURDIR)/,$(wildcard fairsweep/*.py) fairsweep/py.typed analysis cluster search_spaces trainables) build/lint/fairsweep/
	cd build/lint && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml
	cd build/lint && $(abspath $(BIN))/lint-imports ../../pyproject.toml

benchmarks: $(STAMP)  ## measure against stock Ray Tune, bare Optuna and an earlier build; an hour
	$(BIN)/python -m tests.benchmarks.bench_speed --before --runs 3
	$(BIN)/python -m tests.benchmarks.bench_start --before --runs 3
	$(BIN)/python -m tests.benchmarks.bench_claims --before --runs 3
	$(BIN)/python -m tests.benchmarks.bench_asking --before --runs 3
	$(BIN)/python -m tests.benchmarks.bench_scale --before --runs 3 --curves build/soak.svg
	$(BIN)/python -m tests.benchmarks.bench_reading
	$(BIN)/python -m tests.benchmarks.bench_search

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
