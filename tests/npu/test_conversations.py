"""Fine-tuning on conversations, on two virtual cards: the losses are those of CPU ranks, in fp32 and in bf16."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO, Machine

pytestmark = pytest.mark.slow

RECIPE = REPO / "recipes" / "chat-tiny.yaml"
KINDS = {"full": (), "lora": ("adapter.target_modules=[q_proj, v_proj, down_proj]", "training.learning_rate=0.02")}
PACKING = {"padded": "data.packing=false", "packed": "data.packing=true"}
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
TOLERANCES = {"fp32": 1e-4, "bf16": 5e-3}
"""Of losses, relative: in bf16 what is rounded depends on how ranks and strategies cut their sums."""
WHOLE = tuple(itertools.product(TOLERANCES, KINDS, PACKING, STRATEGIES))
"""With ASCEND_TESTS_WHOLE=1; --junitxml=FILE -o junit_family=xunit1 then has the differences."""
PROOF = (("fp32", "full", "packed", "zero3"), ("fp32", "lora", "padded", "fsdp2"), ("bf16", "full", "packed", "ddp"))


def losses(run: Path) -> list[float]:
    """Of each step, and of each evaluation."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [e["loss"] for e in events if e["event"] == "log"] + [e["eval_loss"] for e in events if e["event"] == "eval"]


@pytest.fixture(scope="session")
def trained(machine: Machine) -> Callable[..., list[float]]:
    """Losses of the toy conversations under these words."""

    @cache
    def run(device: str, nproc: int, precision: str, kind: str, packing: str, strategy: str) -> list[float]:
        folder = machine.folder / "-".join((device, str(nproc), precision, kind, packing, strategy))
        words = (PACKING[packing], f"parallel.precision={precision}", f"parallel.strategy={strategy}", *KINDS[kind])
        short = ("training.num_train_epochs=1", "training.logging_steps=1", "training.eval_on_start=true")
        where = ("--device", device, "--nproc", str(nproc), "--run-dir", folder)
        ran = machine.launch(*where, RECIPE, "parallel.micro_batch_size=1", *words, *short)
        assert 0 == ran.code, ran.text[-4000:]
        return losses(folder)

    return run


@pytest.mark.parametrize(
    ("precision", "kind", "packing", "strategy"), WHOLE if "ASCEND_TESTS_WHOLE" in os.environ else PROOF
)
def test_losses_on_cards_are_those_of_a_cpu_rank(
    trained: Callable[..., list[float]],
    record_property: Callable[[str, object], None],
    precision: str,
    kind: str,
    packing: str,
    strategy: str,
) -> None:
    """Of every step, and of the evaluations before the first and after the last."""
    expected = trained("cpu", 1, precision, kind, packing, "ddp")
    found = trained("npu", 2, precision, kind, packing, strategy)
    record_property("difference", max(abs(a - b) / a for a, b in zip(expected, found, strict=True)))

    assert pytest.approx(expected, rel=TOLERANCES[precision]) == found
