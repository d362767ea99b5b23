# Two commands do all set-up: `make demo` runs the main job, `make test` passes the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt
DEMO := runs/demo
DEMO_OPTIONS := --rounds 40 --no-report --quiet

.PHONY: demo test test-slow lint clean

demo: $(VENV)/.installed
	@rm -rf $(DEMO)
	@echo "Training on the embedded synthetic dataset (400 users, 300 items, 12 planted clusters) ..."
	$(BIN)/fedjax-rec run cgfedrec --clusters 12 --init-std 0.01 $(DEMO_OPTIONS) --out $(DEMO)/cgfedrec
	$(BIN)/fedjax-rec run pfedrec --local-epochs 2 $(DEMO_OPTIONS) --out $(DEMO)/pfedrec
	$(BIN)/fedjax-rec run local $(DEMO_OPTIONS) --out $(DEMO)/local
	@$(BIN)/fedjax-rec report $(DEMO)/cgfedrec $(DEMO)/pfedrec $(DEMO)/local --out $(DEMO)/report.html

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Those of more than 10 seconds (notebooks, a Ray cluster, several processes, what is killed and
# resumes) and every benchmark at toy size. And what depends on the compiler, compiled as users'
# programs are. CI runs them too.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not compiler"
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n 2 --dist loadfile -m compiler

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml .ci/constraints.txt | $(BIN)/pip
	@echo "Installing into $(VENV) (a minute or two) ..."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml .ci/constraints.txt | $(BIN)/pip
	$(INSTALL) --editable ".[test,lint]"
	@touch $@ $(VENV)/.installed
