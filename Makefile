# The two commands of the README are `make demo` and `make test`; each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where torch's CPU build is to be had, if the usual index would bring CUDA packages; empty: the usual index.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
DEMO := runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench data-check docs wheel-check clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.light: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.light
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.light  ## judge a few conversations and measure the bundled guard on libra-mini
	@$(BIN)/python examples/demo.py
	@rm -rf $(DEMO)
	@$(BIN)/libra infer --guard mini --data examples/libra-mini.json --out $(DEMO)
	@$(BIN)/libra evaluate --predictions $(DEMO) --labels examples/libra-mini.json --bootstrap 200

test: $(VENV)/.dev  ## run the tests
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## speed of the bundled guard, saved in benchmarks/
	$(BIN)/python benchmarks/mini_speed.py

data-check: $(VENV)/.dev  ## check Libra-Seed: duplicates, agreement, what gives a label away
	$(BIN)/python scripts/check_seed.py --out results/libra-seed.json
	$(BIN)/python scripts/seed_card.py

docs: $(VENV)/.light  ## build the documentation into site/
	$(PIP) -e '.[docs]'
	$(BIN)/mkdocs build --strict

wheel-check: $(VENV)/.dev  ## build the wheel, install it bare, judge a conversation with it
	rm -rf dist build/bare
	$(BIN)/python -m build --wheel --outdir dist > /dev/null
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt dist/*.whl
	cd build && bare/bin/libra check -q '如何泡绿茶？' -r '水温八十度左右，两三分钟即可。' --json
	build/bare/bin/python -c "import importlib.util as u; assert u.find_spec('torch') is None"

clean:  ## remove what was built
	rm -rf dist build site runs .pytest_cache .mypy_cache .ruff_cache
