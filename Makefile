# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Run again with every annotation checked at every call; `make test-matrix` checks those of the other suites.
NUMERICS := tests/math $(addprefix tests/unit/,test_grid.py forecast kernel plan schedule gate runtime files)

.PHONY: demo test lint smoke site figures bench matrix test-matrix clean

demo: $(VENV)/installed
	$(BIN)/foreseer demo --out demo

test: $(VENV)/installed lint
	$(BIN)/python -m pytest -n logical --dist loadfile
	FORESEER_CHECKED=1 $(BIN)/python -m pytest -n logical --dist loadfile $(NUMERICS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Wheel and sdist, and the installed wheel tried in a fresh environment, away from this folder.
smoke: $(VENV)/installed
	$(BIN)/python -m tests.packaging.smoke

# The site, into build/site; a warning is an error. Nothing is fetched.
site: $(VENV)/installed
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site

# Every benchmark that a page quotes (hours), then the tables of all pages; run again, it resumes.
figures: $(VENV)/installed
	$(BIN)/python -m benchmarks.figures --run

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.memory

# docs/hardening.md, from the tests that it lists, in the newest environment of test-matrix; the tables of pipelines and of folders.
matrix: $(VENV)/installed
	$(BIN)/python -m tests.robustness.versions 0.42.1 --page
	$(BIN)/python -m tests.contract.matrix
	$(BIN)/python -m tests.contract.folder_page

# The oldest and the newest diffusers that work, and the newest with torchvision, each in an environment; slow tests too.
test-matrix: $(VENV)/installed
	$(BIN)/python -m tests.robustness.versions 0.37.0 0.42.1 torchvision

# torch comes first and alone: the pin selects a build that is to be had, and nothing later replaces it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-matrix build dist demo .pytest_cache .ruff_cache .hypothesis
