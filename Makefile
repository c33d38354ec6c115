# One command each: `make demo` runs every task on the small model, `make test` runs the tests.
# Both set up .venv first. Torch is a step of its own, pinned, so that nothing later replaces it. On a
# machine without a GPU, PIP_EXTRA_INDEX_URL set to PyTorch's CPU wheel index saves gigabytes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test check fix clean

demo: $(VENV)/ready
	$(BIN)/omni-diffusion demo --out demo-out

test: $(VENV)/ready
	$(BIN)/python -m pytest

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev,eval]"
	touch $@
