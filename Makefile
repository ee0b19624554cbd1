PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CHECK := build/check

.PHONY: help install demo test lint format type clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Create .venv and install everything, once

# torch first: its CPU build is chosen here, the rest then accepts it.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[langchain,llama-index,train]' --group dev
	touch $@

demo: install  ## Ask Python's own reference, plain and compressed, side by side
	$(BIN)/refrag demo

# Not against this folder's files: what users install is the wheel, and files may be missing in it.
# worksteal: a few notebooks and training runs take as long as hundreds of other tests.
test: install  ## Build the wheel and run every test against it
	rm -rf $(CHECK)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(CHECK)/dist .
	$(BIN)/python -m pip install --quiet --no-deps --target $(CHECK) $(CHECK)/dist/*.whl
	cp -R README.md cookbooks docs pyproject.toml recipes tests $(CHECK)
	cd $(CHECK) && PYTHONPATH=$(CURDIR)/$(CHECK) $(CURDIR)/$(BIN)/python -m pytest -n 2 --dist worksteal

lint: install  ## Check style, types and which way imports point
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: install  ## Check types
	$(BIN)/mypy

clean:  ## Remove the environment, caches and build outputs
	rm -rf $(VENV) build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
