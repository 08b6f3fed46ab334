# `make demo` runs the main job, `make test` proves every claim of the README, `make test-all` checks everything.
# Each does all its own set-up.
VENV ?= .venv
BIN := $(VENV)/bin

# Two processes, a file in one of them: its tests share finished jobs and daemons. In order, since short files come last.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo check test test-rest test-npu test-all matrix bench docs messages clean

setup:
	@tools/setup $(VENV)

demo: setup
	@$(BIN)/python tools/demo_assets.py
	$(BIN)/ascend-launch --device cpu --nproc 2 recipes/demo.yaml

check: setup
	@BIN=$(BIN) tools/check

test: setup
	$(PYTEST) -m "not slow and not npu"

# What `make test` leaves out: other cases of the same claims, Slurm and ssh.
test-rest: setup
	$(PYTEST) -m "slow and not npu"

# On virtual Ascend cards: an environment of its own, with torch_npu.
test-npu:
	tests/npu/run

# Many releases of torch, transformers and the rest, see docs/versions.md: hours. `make matrix SETS="torch-2.10"` for some.
matrix: setup
	$(BIN)/python tools/matrix $(SETS)

test-all: check test test-rest test-npu

bench: setup
	$(BIN)/python tools/bench_startup.py

# Pages that are made from the code: docs/recipes.md, docs/cli.md and docs/versions.md, and docs/troubleshooting.md, which is not committed.
docs: setup
	@$(BIN)/python tools/reference_docs.py
	@$(BIN)/python tools/troubleshooting_docs.py

# Texts for translators, and every language's catalogue; `make messages LANGUAGE=zh` begins one.
messages: setup
	@$(BIN)/python tools/messages.py $(LANGUAGE)

clean:
	rm -rf $(VENV) .cache build dist runs .pytest_cache .mypy_cache .ruff_cache
