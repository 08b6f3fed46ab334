# `make demo` runs the main job, `make test` checks everything. Each does all its own set-up.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-npu check bench clean

setup:
	@tools/setup $(VENV)

demo: setup
	@$(BIN)/python tools/demo_assets.py
	$(BIN)/ascend-launch --device cpu --nproc 2 recipes/demo.yaml

check: setup
	@BIN=$(BIN) tools/check

# Two processes, a file in one of them: its tests share finished jobs and daemons. In order, since short files come last.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# On virtual Ascend cards: an environment of its own, with torch_npu.
test-npu:
	tests/npu/run

bench: setup
	$(BIN)/python tools/bench_startup.py

clean:
	rm -rf $(VENV) .cache build dist runs .pytest_cache .mypy_cache .ruff_cache
