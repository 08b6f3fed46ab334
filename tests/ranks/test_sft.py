"""Fine-tuning on conversations: losses do not depend on ranks, strategy or packing; an evaluation has the same bits at any
number of ranks; and a run that is interrupted ends as one that was not."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.ranks import test_resume
from tests.ranks.test_resume import assert_same
from tests.support import launch
from tests.support.launch import REPO
from tests.support.run import Job, Run, timeless

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

env, start = test_resume.env, test_resume.start  # fixtures
WORDS = ("terrible", "poor", "average", "good", "excellent")
MICRO = {1: 4, 2: 3, 3: 4, 4: 1}
"""Micro batch at each rank count: accumulation is then 3, 2, 1 and 3."""
KINDS = {
    "full": (),
    "lora": ("adapter.target_modules=[q_proj, v_proj, down_proj]", "training.learning_rate=0.02"),
    "lora on the head": ("adapter.target_modules=[q_proj, lm_head]", "training.learning_rate=0.02"),
}
PROOF = (
    ("full", "padded", "zero3", 3),
    ("full", "packed", "ddp", 4),
    ("full", "packed", "zero1", 2),
    ("lora", "padded", "zero2", 3),
    ("lora", "packed", "fsdp2", 2),
    ("lora on the head", "padded", "zero3", 2),
)
"""Each strategy, rank count, kind and packing at least once."""
WHOLE = tuple(
    (kind, packing, strategy, ranks)
    for kind in ("full", "lora")
    for packing in ("padded", "packed")
    for strategy in ("ddp", "zero1", "zero2", "zero3", "fsdp2")
    for ranks in (2, 3, 4)
)
"""All of them, in a quarter of an hour: ASCEND_TESTS_WHOLE=1 runs these instead, and --junitxml=FILE has the differences."""
CASES = WHOLE if "ASCEND_TESTS_WHOLE" in os.environ else PROOF


def conversations(split: str) -> Iterator[str]:
    """The toy reviews as conversations of one to three turns, whose answers repeat a sentence of the review."""
    rows = [json.loads(line) for line in (REPO / "recipes" / "tiny" / f"{split}.jsonl").read_text().splitlines()]
    for turns in itertools.cycle((1, 2, 3)):
        if not rows:
            return
        taken, rows = rows[:turns], rows[turns:]
        messages = []
        for row in taken:
            answer = f"It is {WORDS[row['label']]}: {row['text'].split('.')[0]}."
            messages += [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": answer}]
        yield json.dumps({"messages": messages})


def write_recipe(folder: Path) -> Path:
    """40 conversations, 25 of them held out, which no rank count but 1 divides; longest 212 tokens."""
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(conversations(split)) + "\n")
    recipe = {
        "model": {"name": "shipped:tiny", "task": "sft"},
        "data": {
            "path": str(folder / "train.jsonl"),
            "eval": {"held": {"path": str(folder / "test.jsonl"), "limit": 25}},
            "max_length": 256,
        },
        "training": {
            "num_train_epochs": 1,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "eval_on_start": True,
        },
        "parallel": {"precision": "fp32", "global_batch_size": 12},
    }
    path = folder / "sft.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("sft"))


def words(kind: str, packing: str, strategy: str, ranks: int) -> tuple[str, ...]:
    packs = f"data.packing={'true' if packing == 'packed' else 'false'}"
    return (*KINDS[kind], packs, f"parallel.strategy={strategy}", f"parallel.micro_batch_size={MICRO[ranks]}")


@pytest.mark.parametrize(("kind", "packing", "strategy", "ranks"), CASES)
def test_losses_do_not_depend_on_ranks_or_strategy(
    job: Callable[..., Job],
    recipe: Path,
    record_property: Callable[[str, object], None],
    kind: str,
    packing: str,
    strategy: str,
    ranks: int,
):
    """In fp32 the losses of all steps agree within 1e-4 relative with one rank's, an evaluation before the first has the same
    bits, and each row is evaluated once."""
    ran = job(ranks, *words(kind, packing, strategy, ranks), recipe=recipe)
    reference = job(1, *words(kind, packing, "ddp", 1), recipe=recipe)
    assert 0 == ran.code, ran.out + ran.err
    record_property("training", difference(reference.losses, ran.losses))
    record_property(
        "evaluation", difference([reference.metrics["final"]["eval_loss"]], [ran.metrics["final"]["eval_loss"]])
    )

    assert len(ran.losses) == (10 if packing == "padded" else 5)
    assert first_evaluation(reference) == first_evaluation(ran)
    assert pytest.approx(reference.losses, rel=1e-4) == ran.losses
    for figure in ("eval_loss", "perplexity", "held_loss"):
        assert pytest.approx(reference.metrics["final"][figure], rel=1e-4) == ran.metrics["final"][figure]
    assert list(range(25)) == [row["index"] for row in ran.predictions]


def difference(expected: list[float], found: list[float]) -> float:
    """The largest, relative."""
    return max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))


def first_evaluation(run: Run) -> dict[str, object]:
    """Of the model that nothing has been trained of yet; the figures that are none of the clock."""
    (event,) = (event for event in run.events("eval") if event["step"] == 0)
    return {k: v for k, v in timeless(event).items() if k != "time"}


def test_an_evaluation_has_the_same_bits_at_any_number_of_ranks(
    job: Callable[..., Job], recipe: Path, ascend_launch: Callable, tmp_path: Path
):
    """Losses of all rows, and every figure, of one model at 1 to 4 ranks, whole and in shards; and they are what transformers
    alone computes of each row by itself."""
    trained = job(1, *words("full", "packed", "ddp", 1), recipe=recipe)
    runs = []
    for ranks, strategy in ((1, "ddp"), (2, "ddp"), (3, "ddp"), (4, "ddp"), (3, "zero3")):
        out = tmp_path / f"{strategy}{ranks}"
        argv = (
            "eval",
            recipe,
            "--checkpoint",
            trained.dir / "model",
            "--device",
            "cpu",
            "--nproc",
            str(ranks),
            "--run-dir",
            out,
            f"parallel.strategy={strategy}",
        )
        ran = ascend_launch(*argv, OMP_NUM_THREADS="1")
        assert 0 == ran.code, ran.out + ran.err
        runs.append(Run(out))

    final = [
        {k: v for k, v in run.metrics["final"].items() if "second" not in k and "runtime" not in k} for run in runs
    ]
    assert [final[0]] * 5 == final
    assert [runs[0].predictions] * 5 == [run.predictions for run in runs]
    assert trained.predictions == runs[0].predictions

    facts = json.loads((trained.dir / "data.json").read_text())["evals"]["held"]
    from datasets import load_from_disk

    model = AutoModelForCausalLM.from_pretrained(trained.dir / "model").eval()
    for row, found in zip(load_from_disk(facts["path"]), runs[0].predictions, strict=True):
        ids, use = torch.tensor(row["input_ids"]), torch.tensor(row["trained"]).bool()[1:]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1][use]
        losses = functional.cross_entropy(logits, ids[1:][use], reduction="none").double()
        assert (int(use.sum()), pytest.approx(float(losses.sum()), rel=1e-5)) == (found["count"], found["loss"])
        assert int((logits.argmax(-1) == ids[1:][use]).sum()) == found["correct"]


@pytest.fixture
def render(tmp_path: Path, recipe: Path, env: dict[str, str]) -> Callable[..., Run]:
    """A run directory as a launch makes it: two epochs, a checkpoint every 3 steps, dropout, packed."""
    model = tmp_path / "tiny"
    shutil.copytree(REPO / "recipes" / "tiny", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))

    def make(name: str, nproc: int, strategy: str, *more: str) -> Run:
        options = (
            f"model.name={model}",
            "data.packing=true",
            "training.num_train_epochs=2",
            "training.save_strategy=steps",
            "training.save_steps=3",
            f"parallel.strategy={strategy}",
            *more,
        )
        argv = launch.command("render", "--out", tmp_path / name, "--device", "cpu", "--nproc", str(nproc))
        launch.run([*argv, recipe, *options], env, kind="cpu-zero", timeout_s=500).check_returncode()
        return Run(tmp_path / name)

    return make


def job_of(run: Run, attempt: int = 0, **fault: object) -> dict[str, object]:
    return {"run": str(run.dir), "attempt": attempt, "fault": {"rank": None, **fault} if fault else None}


@pytest.mark.parametrize(("strategy", "nproc"), [("ddp", 4), ("zero2", 2), ("zero3", 2), ("fsdp2", 2)])
def test_a_killed_packed_run_resumes_exactly(
    render: Callable[..., Run],
    start: Callable,
    strategy: str,
    nproc: int,
):
    """Killed in the middle of the second epoch and started again, it ends with the same weights, bit for bit, and the same
    figures, rows and logged losses; with dropout, NEFTune, accumulation and DataLoader workers."""
    more = (
        f"parallel.micro_batch_size={3 if nproc == 2 else 1}",
        "training.dataloader_num_workers=1",
        "training.neftune_noise_alpha=5",
    )
    whole, cut = (render(name, nproc, strategy, *more) for name in ("whole", "cut"))

    codes = start(job_of(whole), job_of(cut, 0, rank=1, step=8, do="SIGKILL"), job_of(cut, 1))

    assert codes == [[0] * nproc, [1, -9] + [1] * (nproc - 2), [0] * nproc]
    assert [(event["step"], event["notes"]) for event in cut.events("resume")] == [(6, [])]
    assert_same(whole, cut)


def test_other_ranks_go_on_with_a_packed_run(render: Callable[..., Run], start: Callable):
    """Two ranks' checkpoint from the middle of an epoch is taken up by one rank and by three, under other strategies: the
    losses go on as if nothing had happened (no dropout here; NEFTune's noise is of a row and a step, not of a rank)."""
    more = ("model.name=recipes/tiny", "training.neftune_noise_alpha=5")
    whole = render("whole", 2, "zero2", *more)
    others = [render(f"{s}-{n}", n, s, *more) for s, n in (("ddp", 1), ("zero3", 3), ("fsdp2", 3))]
    start(job_of(whole, 0, rank=0, step=7, do="SIGKILL"))
    for other in others:
        shutil.copytree(whole.dir / "checkpoints", other.dir / "checkpoints")

    codes = start(job_of(whole, 1), *(job_of(other) for other in others))

    assert {0} == {code for one in codes for code in one}
    for other in others:
        assert [event["step"] for event in other.events("resume")] == [6]
        assert {s: pytest.approx(whole.losses_by_step[s], rel=1e-4) for s in range(7, 11)} == other.losses_by_step


def test_a_packed_run_told_to_stop_ends_with_the_same_weights(render: Callable[..., Run], start: Callable):
    """SIGTERM in the middle of an epoch leaves a checkpoint of that step. From it the same ranks end with the weights of a run
    that was not stopped, bit for bit; other ranks under other strategies with the same to rounding."""
    more = (
        "model.name=recipes/tiny",
        "training.neftune_noise_alpha=5",
        "training.save_strategy='no'",
        "training.save_steps=null",
    )
    whole, cut = (render(name, 2, "zero2", *more) for name in ("whole", "cut"))
    others = [render(f"{s}-{n}", n, s, *more) for s, n in (("ddp", 1), ("fsdp2", 3))]
    start(job_of(whole), job_of(cut, 0, rank=1, step=7, do="SIGTERM"))
    for other in others:
        shutil.copytree(cut.dir / "checkpoints", other.dir / "checkpoints")

    codes = start(job_of(cut, 1), *(job_of(other) for other in others))

    assert {0} == {code for one in codes for code in one}
    (told,) = cut.events("preempted")
    assert (True, True) == (told["saved"], told["step"] in (7, 8, 9))
    assert_same(whole, cut)
    expected = whole.weights()
    for other in others:
        assert [event["step"] for event in other.events("resume")] == [told["step"]]
        found = other.weights()
        assert 1e-5 > max(float((expected[name] - found[name]).abs().max()) for name in expected)
