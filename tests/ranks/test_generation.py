"""Texts of an evaluation: the same ones at any number of ranks and under each strategy, and a training that writes ends as one
that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ranks.test_sft import recipe as recipe  # a fixture
from tests.support.run import Job, Run

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

METRICS = "metrics=[perplexity, exact_match, text_f1, chrf]"
LEARNT = ("training.num_train_epochs=6", "parallel.strategy=ddp", "parallel.micro_batch_size=4")
SOME = ("generation.rows=9", "generation.max_new_tokens=12", "parallel.eval_batch_size=2")
"""Five batches, the last of one row: no rank count but 1 and 5 divides them."""
FEW = ("generation.rows=3", "generation.max_new_tokens=12", "parallel.eval_batch_size=2")
"""Two batches: of three ranks or four, some have none."""
EVALUATIONS = [(2, "ddp", SOME), (3, "ddp", SOME), (4, "ddp", FEW), (3, "zero3", SOME), (4, "zero3", FEW)]
IN_STEP = "generation.gather_weights=false"
LORA = ("adapter.target_modules=[q_proj, v_proj, down_proj]", "training.learning_rate=0.02")
TRAININGS = [
    (2, "zero1", ()),
    (3, "zero2", LORA),
    (3, "zero3", ()),
    (2, "zero3", (*LORA, IN_STEP)),
    (3, "fsdp2", (IN_STEP,)),
    (2, "fsdp2", (*LORA, IN_STEP)),
    (3, "fsdp2", LORA),
]
SHORT = ("training.max_steps=2", "parallel.precision=fp32", "training.eval_strategy=steps", "training.eval_steps=1")


@pytest.fixture
def evaluated(job: Callable[..., Job], recipe: Path, ascend_launch: Callable, tmp_path: Path) -> Callable[..., Run]:
    """Texts of one model."""
    trained = job(1, *LEARNT, recipe=recipe)

    def run(ranks: int, strategy: str, *words: str) -> Run:
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        argv = ("eval", recipe, "--checkpoint", trained.dir / "model", "--device", "cpu", "--nproc", str(ranks))
        ran = ascend_launch(
            *argv, "--run-dir", out, f"parallel.strategy={strategy}", METRICS, *words, OMP_NUM_THREADS="1"
        )
        assert 0 == ran.code, ran.out + ran.err
        return Run(out)

    return run


def final(run: Run) -> dict[str, float]:
    return {k: v for k, v in run.metrics["final"].items() if "second" not in k and "runtime" not in k}


def weights(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run.dir / "model").glob("*.safetensors"))}


def test_texts_and_scores_are_the_same_at_any_number_of_ranks(evaluated: Callable[..., Run]):
    """With greedy texts and with drawn ones, whole weights and weights in shards; also where some ranks have no rows."""
    draws = "generation.do_sample=true"
    expected = {words: evaluated(1, "ddp", draws, *words) for words in (SOME, FEW)}

    for ranks, strategy, words in EVALUATIONS:
        run = evaluated(ranks, strategy, draws, *words, *((IN_STEP,) if words == FEW else ()))
        assert expected[words].predictions == run.predictions, (ranks, strategy, words)
        assert final(expected[words]) == final(run)
    written = [row for row in expected[SOME].predictions if row["text"] is not None]
    assert 9 == len(written) == final(expected[SOME])["generated"]
    assert any(row["text"] for row in written)


@pytest.mark.parametrize(("ranks", "strategy", "words"), TRAININGS)
def test_a_training_that_writes_ends_as_one_that_does_not(
    job: Callable[..., Job], recipe: Path, ranks: int, strategy: str, words: tuple[str, ...]
):
    """To the last bit of its weights, with dropout too; its texts are those of one rank."""
    dropout = ("adapter.lora_dropout=0.1",) if LORA[0] in words else ()
    of = (f"parallel.strategy={strategy}", *dropout)
    plain = tuple(word for word in words if word != IN_STEP)
    silent = job(ranks, *SHORT, *of, *plain, recipe=recipe)
    writes = job(ranks, *SHORT, *of, *words, *SOME, METRICS, recipe=recipe)
    assert 0 == silent.code == writes.code, writes.out + writes.err

    assert weights(silent) == weights(writes)
    assert silent.losses == writes.losses
    if LORA[0] not in words:
        alone = job(1, *SHORT, "parallel.strategy=ddp", *plain, *SOME, METRICS, recipe=recipe)
        assert [row["text"] for row in alone.predictions] == [row["text"] for row in writes.predictions]
