"""Ranks on what a package outside launcher/ adds, found by its entry points."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ranks.conftest import REPO
from tests.support.run import Ran

pytestmark = pytest.mark.ranks


@pytest.mark.slow
def test_two_ranks_train_on_a_packages_accelerator_with_its_kernel(ascend_launch: Callable[..., Ran], tmp_path: Path):
    """Its variables reach the ranks, its part in ranks says whether they can be forked, and its kernel computes."""
    run = tmp_path / "run"
    words = ("--device", "cores", "--nproc", "2", "--run-dir", run, "recipes/tiny-cpu.yaml", "training.max_steps=2")
    path = f"{REPO}:{REPO / 'tests' / 'packages' / 'cores'}"
    ran = ascend_launch(*words, "model.kernels=[cores-silu]", "report=false", PYTHONPATH=path, OMP_NUM_THREADS="1")

    assert 0 == ran.code, ran.err
    plan, metrics = (json.loads((run / f"{name}.json").read_text()) for name in ("plan", "metrics"))
    assert ("cores", "gloo", ["cores-silu"]) == (plan["device"], plan["backend"], plan["recipe"]["model"]["kernels"])
    assert ("cores", 2) == (metrics["device"], metrics["world_size"])
    assert "CORES_RUN" in {row["name"] for row in json.loads((run / "env.json").read_text())["set"]}
    assert "cores work in a fork" in (run / "attempt_0" / "probe.log").read_text()
