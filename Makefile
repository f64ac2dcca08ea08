# Everything sets itself up: a bare machine needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/.ready
# Test processes, each with a Postgres of its own. They wait for disks and children more than they compute.
WORKERS ?= 4

.PHONY: demo test check bench clean

demo: $(READY) ## the outreach agent on the sample dossier: killed half-way, resumed, approved
	@$(BIN)/python samples/demo.py

test: $(READY) ## every test, every README example, the notebook
	@$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal

check: $(READY) ## style, types and floors
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

bench: $(READY) ## every benchmark, with its floors; fails where something got worse
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file --guard || exit 1; done

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	@echo "setting up $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $(READY)

clean: ## remove what the other targets made
	rm -rf $(VENV) dist outbox .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
