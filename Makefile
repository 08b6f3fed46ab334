# `make demo` runs the main job, `make test` checks everything. Each does all its own set-up.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check bench clean

setup:
	@tools/setup $(VENV)

demo: setup
	@$(BIN)/python tools/demo_assets.py
	$(BIN)/ascend-launch --device cpu --nproc 2 recipes/demo.yaml

check: setup
	@BIN=$(BIN) tools/check

test: check
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python tools/bench_startup.py

clean:
	rm -rf $(VENV) .cache build dist runs .pytest_cache .mypy_cache .ruff_cache
