"""Other ways to train than the plain head: answers in a chat, LoRA, a user's own script."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.support.run import Job

from .conftest import REPO
from .test_exact import recomputed

pytestmark = pytest.mark.ranks

CHAT = (
    "model.task=causal-lm",
    'data.prompt="Review: {text} How good was it?"',
    "training.num_train_epochs=2",
    "training.logging_steps=1",
)
DIGITS = (*CHAT, 'data.answers=["1","2","3","4","5"]')
LORA = ("adapter.r=4", "training.learning_rate=0.01", "training.logging_steps=1")


def test_answers_of_one_token_are_learnt_and_scored(job):
    """Trained on the answer alone, over 2 ranks under ZeRO-2 as over one under DDP; accuracy means the same."""
    two, one = job(2, *DIGITS, "parallel.strategy=zero2"), job(1, *DIGITS)
    assert 0 == two.code, two.out + two.err

    assert pytest.approx(one.losses, rel=1e-4) == two.losses
    assert 101 == two.metrics["final"]["eval_samples"]
    assert recomputed(two.predictions)["accuracy"] == two.metrics["final"]["accuracy"]
    assert 0.8 < two.metrics["final"]["accuracy"]


@pytest.mark.slow
def test_answers_of_many_tokens_are_scored_whole_under_zero3(job):
    """Label names as answers, of different lengths, with sharded weights on 3 ranks."""
    ran = job(3, *CHAT, "parallel.strategy=zero3")

    assert 0 == ran.code, ran.out + ran.err
    assert 101 == len(ran.predictions)
    assert recomputed(ran.predictions)["accuracy"] == ran.metrics["final"]["accuracy"]
    assert 0.5 < ran.metrics["final"]["accuracy"]


@pytest.mark.parametrize("strategy", ["ddp", *(pytest.param(s, marks=pytest.mark.slow) for s in ("zero3", "fsdp2"))])
def test_lora_trains_adapter_and_head_alone(job, strategy):
    """The adapter folder holds LoRA matrices and the classification head, and learns under every kind of engine."""
    pytest.importorskip("peft", reason="the lora extra is not installed")
    ran, reference = job(2, *LORA, f"parallel.strategy={strategy}"), job(2, *LORA, "parallel.strategy=ddp")
    assert 0 == ran.code, ran.out + ran.err

    weights = load_file(ran.dir / "model" / "adapter_model.safetensors")
    heads = [name for name in weights if "score" in name]
    assert pytest.approx(reference.losses, rel=1e-4) == ran.losses
    assert all("lora_" in name or name in heads for name in weights)
    assert (5, 64) == tuple(weights[heads[0]].shape)
    assert all(value.numel() for value in weights.values())
    assert 0.8 < ran.metrics["final"]["accuracy"]


def test_a_head_of_another_size_is_replaced_under_zero3(job, tmp_path):
    """A checkpoint of 3 labels, whose weights are loaded into shards, for a recipe of 5: said, and trained from its body."""
    config = AutoConfig.from_pretrained(REPO / "recipes" / "tiny", num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(REPO / "recipes" / "tiny" / name, tmp_path)
    ran = job(2, f"model.name={tmp_path}", "parallel.strategy=zero3", "training.max_steps=2")

    assert 0 == ran.code, ran.out + ran.err
    assert "has a head of 3 labels, the recipe 5" in ran.out
    assert (5, 64) == tuple(load_file(ran.dir / "model" / "model.safetensors")["score.weight"].shape)


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_loss(job):
    """Recomputed activations give the same losses."""
    plain, recomputing = job(2, *LORA, "parallel.strategy=ddp"), job(2, *LORA, "training.gradient_checkpointing=true")

    assert pytest.approx(plain.losses, rel=1e-4) == recomputing.losses


def test_a_users_script_runs_on_every_rank(job, tmp_path):
    """`script:` beside the YAML replaces the built-in recipe, as __main__, under torchrun's environment."""
    (tmp_path / "own.py").write_text(
        "import os, pathlib, torch.distributed as dist\n"
        "from helper import greeting\n"
        "assert __name__ == '__main__'\n"
        "dist.init_process_group('gloo')\n"
        "run = pathlib.Path(os.environ['ASCEND_LAUNCH_RUN_DIR'])\n"
        "(run / f'{greeting}{dist.get_rank()}of{dist.get_world_size()}').touch()\n"
        "dist.barrier()\n"
    )
    (tmp_path / "helper.py").write_text("greeting = 'rank'\n")
    (tmp_path / "own.yaml").write_text("extends: tiny.yaml\nscript: own.py\n")
    from .conftest import REPO

    (tmp_path / "tiny.yaml").write_text((REPO / "recipes" / "tiny-cpu.yaml").read_text())

    ran = job(2, recipe=tmp_path / "own.yaml")

    assert 0 == ran.code, ran.out + ran.err
    assert ["rank0of2", "rank1of2"] == sorted(path.name for path in ran.dir.glob("rank?of?"))


@pytest.mark.slow
def test_a_task_of_another_package_trains_and_evaluates(ascend_launch, tmp_path):
    """Its loss is the mean over the tokens of a step, of which rows have different numbers: the same on two ranks as on one.
    Every row is evaluated once; its own metric chooses the best checkpoint, and is in the table, the report and `--json`."""
    words = (
        "model.task=writing",
        "data.skip=1",
        "data.train.limit=48",
        "data.eval.limit=13",
        "training.num_train_epochs=2",
        "training.logging_steps=1",
        "training.save_strategy=epoch",
        "training.load_best_model_at_end=true",
        "training.metric_for_best_model=right_tokens",
        "metrics=[right_tokens]",
    )
    packages = {"PYTHONPATH": f"{REPO}:{REPO / 'tests' / 'packages' / 'writing'}", "OMP_NUM_THREADS": "1"}

    def trained(ranks: int, *options: str) -> Job:
        run = tmp_path / f"run{ranks}"
        options = ("--nproc", str(ranks), "--device", "cpu", "--run-dir", str(run), *options)
        ran = ascend_launch(
            *options, "recipes/tiny-cpu.yaml", *words, f"parallel.micro_batch_size={6 // ranks}", **packages
        )
        assert 0 == ran.code, ran.out + ran.err
        return Job(ran.code, ran.out, ran.err, run)

    one, two = trained(1), trained(2, "--json")

    assert pytest.approx(one.losses, rel=1e-4) == two.losses
    final, rows = two.metrics["final"], two.predictions
    assert list(range(13)) == [row["index"] for row in rows]
    assert [row["correct"] for row in one.predictions] == [row["correct"] for row in rows]
    assert pytest.approx(one.metrics["final"]["eval_loss"], rel=1e-5) == final["eval_loss"]
    assert "Right Tokens" in one.out
    assert max(row["right_tokens"] for row in two.metrics["epochs"]) == final["right_tokens"]
    assert "right_tokens" == two.metrics["best"]["metric"].removeprefix("eval_")
    assert final == json.loads(two.out.splitlines()[-1])["metrics"]["final"]
    assert "right_tokens" in (two.dir / "report.html").read_text(encoding="utf-8").replace(" ", "_").lower()
