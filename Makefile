# Everything lives in .venv and in this folder; nothing is installed elsewhere.

# The first of these that is Python 3.11 or newer; name another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# torch is installed first and then pinned, so that no other package replaces the build you chose.
# TORCH_ARGS passes more to pip, as an index that holds builds for your device.
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?= --seed 1 --evaluations 44 --contexts 12

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow format clean

# Fetch the model, search, and leave the leaderboard on screen, the report and the winner in out/.
demo: out/.demo
	$(BIN)/vortex-search leaderboard --runs-dir vortex-runs
	@echo "report: out/report.html   winner: out/winner/"

out/.demo: $(VENV)/.installed
	mkdir -p out
	$(BIN)/vortex-search models fetch smollm2-135m
	$(BIN)/vortex-search start --model smollm2-135m --runs-dir vortex-runs $(DEMO_ARGS)
	$(BIN)/vortex-search report latest --runs-dir vortex-runs -o out/report.html
	$(BIN)/vortex-search export latest --best --force --runs-dir vortex-runs -o out/winner
	touch $@

# Lint, types and tests that need neither an accelerator nor much time.
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not gpu and not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not gpu" $(PYTEST_ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=..." >&2; exit 3; }
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) install "$(TORCH)" $(TORCH_ARGS)
	$(PIP) freeze | grep '^torch==' > $(VENV)/constraints.txt
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -c $(VENV)/constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c $(VENV)/constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
