"""What a model writes on virtual cards is what it writes on CPU ranks."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO, Machine

pytestmark = pytest.mark.slow

RECIPE = REPO / "recipes" / "chat-tiny.yaml"
WORDS = (
    "data.eval=11",
    "training.max_steps=4",
    "parallel.eval_batch_size=2",
    "metrics=[exact_match, text_f1]",
    "generation.max_new_tokens=8",
    "generation.rows=5",
)


def written(folder: Path) -> tuple[list[str | None], list[float]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    final = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["final"]
    return [row["text"] for row in rows], [final[name] for name in ("exact_match", "text_f1", "generated")]


@pytest.fixture(scope="module")
def on_cpu(machine: Machine):
    @cache
    def run() -> tuple[list[str | None], list[float]]:
        folder = machine.folder / "written"
        ran = machine.launch(
            "--device", "cpu", "--nproc", "2", "--run-dir", folder, RECIPE, "parallel.strategy=ddp", *WORDS
        )
        assert ran.code == 0, ran.text[-4000:]
        return written(folder)

    return run


@pytest.mark.parametrize(
    ("strategy", "words"), [("ddp", ()), ("fsdp2", ()), ("zero3", ("generation.gather_weights=false",))]
)
def test_texts_on_cards_are_those_of_cpu_ranks(
    machine: Machine, on_cpu, tmp_path: Path, strategy: str, words: tuple[str, ...]
) -> None:
    ran = machine.launch(
        "--nproc", "2", "--run-dir", tmp_path / "run", RECIPE, f"parallel.strategy={strategy}", *WORDS, *words
    )
    assert ran.code == 0, ran.text[-4000:]
    assert on_cpu() == written(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(machine: Machine) -> Path:
    """Weights that have texts to say."""
    folder = machine.folder / "trained"
    ran = machine.launch(
        "--device", "cpu", "--nproc", "1", "--run-dir", folder, RECIPE, "data.eval=11", "parallel.strategy=ddp"
    )
    assert ran.code == 0, ran.text[-4000:]
    return folder / "model"


def test_texts_in_16_bit_do_not_depend_on_cards(machine: Machine, trained: Path, tmp_path: Path) -> None:
    """Of one set of weights, drawn; batches of two that neither number of cards divides."""
    made = {}
    for strategy, nproc in (("ddp", "1"), ("ddp", "2"), ("zero2", "2")):
        out = tmp_path / f"{strategy}{nproc}"
        ran = machine.launch(
            *("eval", RECIPE, "--checkpoint", trained, "--device", "npu", "--nproc", nproc, "--run-dir", out),
            *(*WORDS, "generation.do_sample=true", f"parallel.strategy={strategy}", "parallel.precision=bf16"),
        )
        assert ran.code == 0, ran.text[-4000:]
        made[strategy, nproc] = written(out)

    texts, (_, _, count) = made["ddp", "1"]
    assert 5 == count == sum(bool(text) for text in texts)
    assert made["ddp", "1"] == made["ddp", "2"] == made["zero2", "2"]
