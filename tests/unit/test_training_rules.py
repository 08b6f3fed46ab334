"""Training arguments that contradict each other, or do nothing, are refused where the recipe is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher import assets
from launcher.accelerators import detect
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.report import page

Write = Callable[..., Path]
CPU = Cluster("cpu", source="a test")
BEST = {"load_best_model_at_end": True}
PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau"}


def said(path: Path, *overrides: str) -> str:
    with pytest.raises(LaunchError) as caught:
        load.load(path, overrides, {})
    return caught.value.what


def arguments(path: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    return decide.make(load.load(path, overrides, {}), CPU, plan.Options(**options)).training_arguments


@pytest.mark.parametrize(
    ("training", "key", "words"),
    [
        ({"learning_rate": 0}, "learning_rate", "0 must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate", ".inf is not a finite number"),
        ({"learning_rate": math.nan}, "learning_rate", ".nan is not a finite number"),
        ({"learning_rate": 10**400}, "learning_rate", "a number of that size is not a finite number"),
        ({"num_train_epochs": 0}, "num_train_epochs", "0 must be above 0"),
        ({"num_train_epochs": math.inf}, "num_train_epochs", "is not a finite number"),
        ({"max_steps": -3}, "max_steps", "-3 steps train nothing"),
        ({"seed": -1}, "seed", "-1 must be at least 0"),
        ({"seed": 2**32}, "seed", "must be below 4294967296"),
        ({"data_seed": -1}, "data_seed", "-1 must be at least 0"),
        ({"adam_beta2": 1.0}, "adam_beta2", "1.0 must be below 1"),
        ({"save_steps": 0}, "save_steps", "0 must be above 0"),
        ({"eval_steps": 2.5}, "eval_steps", "2.5 must be a whole number of steps"),
        ({"weight_decay": math.nan}, "weight_decay", "is not a finite number"),
        ({"ddp_timeout": 0}, "ddp_timeout", "0 must be above 0"),
        # schedules
        ({"save_strategy": "epoch", "save_steps": 5}, "save_steps", "has no effect with save_strategy: epoch"),
        ({"save_strategy": "no", "save_steps": 5}, "save_steps", "or set save_strategy: steps"),
        ({"eval_strategy": "epoch", "eval_steps": 5}, "eval_steps", "has no effect with eval_strategy: epoch"),
        ({"logging_strategy": "no", "logging_steps": 5}, "logging_steps", "has no effect with logging_strategy: no"),
        ({"eval_strategy": "steps"}, "eval_strategy", "`steps` needs eval_steps"),
        ({**BEST, "save_strategy": "no"}, "load_best_model_at_end", "needs save_strategy"),
        ({**BEST, "save_steps": 5}, "load_best_model_at_end", "saving is by steps and evaluation by epoch"),
        ({**BEST, "eval_steps": 5}, "load_best_model_at_end", "saving is by epoch and evaluation by steps"),
        ({**BEST, "save_steps": 5, "eval_steps": 2}, "load_best_model_at_end", "5 is none of 2"),
        ({**BEST, "save_steps": 0.5, "eval_steps": 2}, "load_best_model_at_end", "0.5 is none of 2"),
        ({**BEST, "save_strategy": "steps", "eval_steps": 300}, "load_best_model_at_end", "500 is none of 300"),
        ({**BEST, "eval_strategy": "no"}, "load_best_model_at_end", "evaluation by no"),
        ({**BEST, "save_only_model": True}, "load_best_model_at_end", "needs whole checkpoints"),
        ({"save_strategy": "best", "eval_strategy": "no"}, "save_strategy", "set eval_strategy"),
        ({"eval_strategy": "no", "eval_delay": 3}, "eval_delay", "has no effect"),
        ({**BEST, "eval_delay": 4}, "eval_delay", "is more than the 3 epochs of the training"),
        ({"eval_steps": 5, "max_steps": 10, "eval_delay": 11}, "eval_delay", "is more than the 10 steps"),
        # the figure
        (
            {**BEST, "metric_for_best_model": "f2"},
            "metric_for_best_model",
            "`f2` is none of loss, accuracy, f1; did you mean `f1`?",
        ),
        ({**BEST, "metric_for_best_model": "eval_F1"}, "metric_for_best_model", "did you mean `f1`?"),
        ({**BEST, "metric_for_best_model": "los"}, "metric_for_best_model", "did you mean `loss`?"),
        ({**BEST, "metric_for_best_model": "mae"}, "metric_for_best_model", "mae is not computed"),
        ({**BEST, "metric_for_best_model": "confusion_matrix"}, "metric_for_best_model", "is a table and no figure"),
        ({"metric_for_best_model": "f2"}, "metric_for_best_model", "is none of"),
        ({"metric_for_best_model": ""}, "metric_for_best_model", "`` is none of"),
        ({"metric_for_best_model": "f1", "eval_strategy": "no"}, "metric_for_best_model", "nothing is evaluated"),
        ({**BEST, "greater_is_better": True}, "greater_is_better", "of loss less is better"),
        (
            {**BEST, "metric_for_best_model": "f1", "greater_is_better": False},
            "greater_is_better",
            "of f1 more is better",
        ),
        ({"greater_is_better": True}, "greater_is_better", "has no effect without metric_for_best_model"),
        # schedulers
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type", "needs one of min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "cosine_warmup_with_min_lr"}, "lr_scheduler_type", "needs one of min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type", "needs num_decay_steps"),
        ({"lr_scheduler_type": "greedy"}, "lr_scheduler_type", "needs min_lr"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-7, "min_lr_rate": 0.1}},
            "lr_scheduler_kwargs",
            "needs one of",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": "low"}},
            "lr_scheduler_kwargs",
            "min_lr: expected a number, got 'low'",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1.0}},
            "lr_scheduler_kwargs",
            "min_lr 1.0 must be below the learning_rate",
        ),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycels": 1}},
            "lr_scheduler_kwargs",
            "did you mean `num_cycles`?",
        ),
        (
            {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"min_lr": 1e-7}},
            "lr_scheduler_kwargs",
            "unknown key 'min_lr'; linear takes none",
        ),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": "{}"}, "lr_scheduler_kwargs", "expected a mapping"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": math.nan}},
            "lr_scheduler_kwargs",
            "is not a finite number",
        ),
        *(
            ({"lr_scheduler_type": name, "lr_scheduler_kwargs": {key: value}}, "lr_scheduler_kwargs", words)
            for name, key, value, words in (
                ("inverse_sqrt", "timescale", 0, "timescale: 0 must be above 0"),
                ("warmup_stable_decay", "num_decay_steps", -5, "num_decay_steps: -5 must be above 0"),
                ("cosine_with_min_lr", "min_lr", -1e-6, "min_lr: -1e-06 must be at least 0"),
                ("cosine_with_min_lr", "min_lr_rate", 2, "min_lr_rate: 2 must be at most 1"),
                ("polynomial", "power", -1, "power: -1 must be above 0"),
            )
        ),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, "warmup_steps", "constant_with_warmup has one"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, "learning_rate", "lr_end 1e-07 must be below"),
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 5, "decay_type": "round"},
            },
            "lr_scheduler_kwargs",
            "'round' is none of",
        ),
        ({**PLATEAU, "eval_strategy": "no"}, "lr_scheduler_type", "nothing is evaluated"),
        (
            {**PLATEAU, "metric_for_best_model": "f1", "lr_scheduler_kwargs": {"mode": "min"}},
            "lr_scheduler_kwargs",
            "mode is max for f1",
        ),
        # optimizers
        *(
            ({"optim": name}, "optim", "needs bitsandbytes")
            for name in ("adamw_8bit", "paged_adamw_32bit", "lion_8bit", "rmsprop_bnb")
        ),
        ({"optim": "galore_adamw"}, "optim", "needs optim_target_modules"),
        ({"optim": "galore_adamw_layerwise"}, "optim", "neither several ranks nor"),
        ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1", "has no effect: optim sgd does not read it"),
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, "optim_args", "did you mean `momentum`?"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim_args", "'momentum' is not KEY=VALUE"),
        ({"optim_args": "momentum=0.9"}, "optim_args", "does not read momentum"),
        ({"optim": "sgd", "optim_args": "momentum=high"}, "optim_args", "momentum: expected a number, got 'high'"),
        ({"optim": "sgd", "optim_args": "momentum=-1"}, "optim_args", "must be a finite number of at least 0"),
        ({"optim": "sgd", "optim_args": "nesterov=true"}, "optim_args", "nesterov needs momentum"),
        ({"optim": "rmsprop", "optim_args": "centered=2"}, "optim_args", "centered: expected true or false"),
        ({"optim": "stable_adamw", "optim_args": "kahan_sum=false"}, "optim_args", "leave it out for false"),
        ({"optim": "adamw"}, "optim", "did you mean `adamw_torch`?"),
        ({"optim_target_modules": "all-linear"}, "optim_target_modules", "has no effect"),
        # together
        ({"run_name": "x"}, "run_name", "has no effect"),
        ({"report_to": "wandbb"}, "report_to", "did you mean `wandb`?"),
        ({"report_to": [["wandb"]]}, "report_to", "is none of all, none,"),
        ({"trackio_space_id": "x"}, "trackio_space_id", "without report_to: trackio"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor", "without dataloader_num_workers"),
        ({"gradient_checkpointing": True, "activation_checkpointing": True}, "gradient_checkpointing", "older name"),
        (
            {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
            "gradient_checkpointing_kwargs",
            "has no effect without gradient_checkpointing",
        ),
        ({"liger_kernel_config": {"rope": False}}, "liger_kernel_config", "without use_liger_kernel"),
        ({"log_level": "warn"}, "log_level", "did you mean `warning`?"),
        ({"debug": "tpu_metrics_debug"}, "debug", "`underflow_overflow` is the only one"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy", "depends on the number of ranks"),
        # never taken
        ({"torch_compile": True}, "torch_compile", "not supported here"),
        ({"torch_compile_backend": "inductor"}, "torch_compile_backend", "not supported here"),
        ({"push_to_hub": True}, "push_to_hub", "hf upload"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint", "--run-dir"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(recipe: Write, training: dict[str, Any], key: str, words: str):
    """Before anything starts, so in --dry-run and submit too."""
    path = recipe(training=training)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.startswith(f"  {key}:"))

    text = said(path)

    assert text.startswith(f"{path}:{line}: training.{key}: ")
    assert words in text
    assert 1 == len(text.splitlines())


@pytest.mark.parametrize(
    "training",
    [
        BEST,
        {**BEST, "metric_for_best_model": "eval_f1", "greater_is_better": True},
        {**BEST, "save_steps": 6, "eval_steps": 3, "metric_for_best_model": "loss"},
        {**BEST, "save_steps": 0.3, "eval_steps": 0.1},
        {**BEST, "save_strategy": "best", "eval_steps": 7},
        {"save_strategy": "steps", "save_steps": 5, "logging_steps": 0.1},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "warmup_steps": 0.1},
        {**PLATEAU, "lr_scheduler_kwargs": {"factor": 0.5, "patience": 1}},
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True"},
        {"logging_strategy": "epoch", "eval_strategy": "steps", "logging_steps": 5},
        {"max_steps": -1},
        {"eval_delay": 3},
        {"debug": ""},
    ],
)
def test_what_fits_together_passes(recipe: Write, training: dict[str, Any]):
    assert training == load.load(recipe(training=training), (), {}).spec.training


def test_null_takes_back_what_a_lower_layer_says(recipe: Write):
    path = recipe(training={"logging_steps": 5, "seed": 3})

    assert {"logging_strategy": "epoch"} == load.load(
        path, ("training.logging_steps=null", "training.logging_strategy=epoch", "training.seed=null"), {}
    ).spec.training
    assert "command line training.seed: no value is given" in said(path, "training.seed=")


def test_a_shipped_recipe_is_not_to_be_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchError) as caught:
        load.load(assets.recipe(Path("tiny-cpu")), ("training.logging_strategy=epoch",), {})

    assert (
        "set training.logging_steps on the command line; training.logging_steps=null is its default"
        == caught.value.hint
    )


def test_a_word_of_the_command_line_is_named_once(recipe: Write):
    assert "command line: training.seed: -1 must be at least 0" == said(recipe(), "training.seed=-1")


def test_figures_of_a_script_are_its_own(recipe: Write, tmp_path: Path):
    """Nobody here knows what it computes."""
    (tmp_path / "mine.py").write_text("")
    path = recipe(script="mine.py", training={**BEST, "metric_for_best_model": "bleu", "greater_is_better": False})

    assert "bleu" == load.load(path, (), {}).spec.training["metric_for_best_model"]


@pytest.mark.parametrize(
    ("name", "greater"),
    [("loss", False), ("mae", False), *((name, True) for name in ("accuracy", "precision", "recall", "f1"))],
)
def test_the_best_is_looked_for_in_the_right_direction(recipe: Write, name: str, greater: bool):
    """transformers takes every figure but the loss for one of which more is better, and keeps the worst by mae."""
    path = recipe(
        metrics=["accuracy", "precision", "recall", "f1", "mae"], training={**BEST, "metric_for_best_model": name}
    )
    found = arguments(path)

    assert (name, greater) == (found["metric_for_best_model"], found["greater_is_better"])
    assert greater != page.less_is_better(name)


@pytest.mark.parametrize(("name", "mode"), [("f1", "max"), ("mae", "min"), (None, "min")])
def test_a_scheduler_that_follows_a_figure_follows_its_direction(recipe: Write, name: str | None, mode: str):
    """Its own default is min, by which the rate would fall while the accuracy grows."""
    found = arguments(recipe(metrics=["f1", "mae"], training={**PLATEAU, "metric_for_best_model": name}))

    assert {"mode": mode} == found["lr_scheduler_kwargs"]
    assert (name or "loss") == found["metric_for_best_model"]


@pytest.mark.parametrize(
    ("training", "strategies"),
    [
        ({}, ("epoch", "epoch")),
        ({"save_steps": 5}, ("steps", "epoch")),
        ({"eval_steps": 5}, ("epoch", "steps")),
        ({"save_strategy": "no", "eval_steps": 5}, ("no", "steps")),
    ],
)
def test_steps_alone_imply_the_strategy(recipe: Write, training: dict[str, Any], strategies: tuple[str, str]):
    """Ours is the epoch's end otherwise, by which they would do nothing."""
    found = arguments(recipe(training=training))

    assert strategies == (found["save_strategy"], found["eval_strategy"])
    assert training.items() <= found.items()


def test_rows_to_evaluate_are_needed_by_what_evaluates(recipe: Write):
    for training in ({"eval_steps": 5}, {"eval_on_start": True}, {"eval_strategy": "epoch"}):
        assert "there is no data.eval" in said(recipe(data={"eval": None}, training=training))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({"model": {"name": "a\0b"}}, "model.name"),
        ({"data": {"data_files": {"train": "a\0", "test": "b"}}}, "data.data_files.train"),
        ({"data": {"data_files": {"train": ["x", "a\0"]}}}, "data.data_files.train.1"),
        ({"output_dir": "\0"}, "output_dir"),
        ({"training": {"run_name": "\0", "report_to": "wandb"}}, "training.run_name"),
    ],
)
def test_a_nul_is_refused_wherever_it_stands(recipe: Write, place: dict[str, Any], text: str):
    """Every system call would refuse the path, in a rank or with a traceback."""
    found = said(recipe(**place))

    assert f": {text}: " in found
    assert "holds a NUL character" in found


@pytest.mark.parametrize(
    ("training", "key", "package"),
    [
        ({"optim": "grokadamw"}, "optim", "grokadamw"),
        ({"optim": "schedule_free_adamw"}, "optim", "schedulefree"),
        ({"optim": "adamw_torch_4bit"}, "optim", "torchao"),
        ({"use_liger_kernel": True}, "use_liger_kernel", "liger_kernel"),
        ({"report_to": ["comet_ml"]}, "report_to", "comet_ml"),
        ({"report_to": "wandb"}, "report_to", "wandb"),
    ],
)
def test_a_package_that_is_missing_is_named_where_the_training_is_to_run(
    recipe: Write, training: dict[str, Any], key: str, package: str
):
    """Not where it is only planned or submitted from: another machine has it. None of them is in this environment."""
    path = recipe(training=training)
    load.load(path, (), {})

    with pytest.raises(LaunchError, match=rf"training\.{key}: .*needs {package}, which is not installed"):
        load.load(path, (), {}, trains_here=True)


@pytest.mark.parametrize(
    ("training", "cluster", "words"),
    [
        ({"ddp_bucket_cap_mb": 5}, detect.assumed(8, Nodes()), "is DDP's, and the strategy is zero3"),
        ({"optim": "adamw_torch_npu_fused"}, CPU, "adamw_torch_npu_fused needs NPUs"),
        ({"use_liger_kernel": True}, CPU, "its kernels need cards"),
    ],
)
def test_what_the_strategy_or_the_device_would_ignore_is_refused(
    recipe: Write, training: dict[str, Any], cluster: Cluster, words: str
):
    loaded = load.load(recipe(training=training), (), {})
    with pytest.raises(LaunchError) as caught:
        decide.make(loaded, cluster, plan.Options())

    assert words in caught.value.what
    assert "mine.yaml:" in caught.value.what


@pytest.mark.parametrize("use", [None, plan.Use(mode="eval", weights="/x"), plan.Use(mode="predict", weights="/x")])
def test_attention_that_needs_cards_is_refused_without_them(recipe: Write, use: plan.Use | None):
    """Whatever is done with the model; it would be refused when the ranks load it."""
    loaded = load.load(recipe(model={"attn_implementation": "flash_attention_2"}), (), {})
    with pytest.raises(LaunchError, match=r"mine.yaml:\d+: model.attn_implementation: flash_attention_2 needs cards"):
        decide.make(loaded, CPU, plan.Options(use=use))

    assert decide.make(loaded, detect.assumed(8, Nodes()), plan.Options(use=use))


def test_null_takes_back_what_a_file_says(recipe: Write):
    """So that saving can be switched off for a try without an edit."""
    path = recipe(training={"save_strategy": "steps", "save_steps": 7})
    made = load.load(path, ["training.save_strategy=no", "training.save_steps=null"], {})

    assert {"save_strategy": "no"} == made.spec.training
