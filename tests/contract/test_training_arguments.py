"""Every TrainingArguments field has an effect or is refused, and the tables of rules are those of the installed version."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import TrainingArguments, optimization, trainer_optimizer, training_args
from transformers.integrations import integration_utils
from transformers.trainer_utils import SchedulerType

import launcher
from launcher.accelerators import detect
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import (
    load,
    metrics,
    optimizers,
    problems,
    schedulers,
    schedules,
    trackers,
    training_fields,
    training_rules,
)
from launcher.recipe.load import Loaded
from launcher.recipe.optimizers import OPTIMIZERS
from launcher.recipe.schedulers import SCHEDULERS
from launcher.recipe.trackers import _LEVELS, NAMES_RUNS, TRACKERS
from launcher.render import files
from launcher.rundir.paths import RunDir
from launcher.worker.training.trainer import RecipeTrainer

FIELDS = {f.name: f for f in dataclasses.fields(TrainingArguments)}
WORKERS = {"dataloader_num_workers": 2}
TRACKIO = {"report_to": "trackio"}
CHANGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "activation_checkpointing_kwargs": ({"use_reentrant": False}, {"activation_checkpointing": True}),
    "adam_beta1": (0.8, {}),
    "adam_beta2": (0.8, {}),
    "adam_epsilon": (1e-6, {}),
    "data_seed": (3, {}),
    "dataloader_multiprocessing_context": ("spawn", WORKERS),
    "dataloader_num_workers": (2, {}),
    "dataloader_persistent_workers": (True, WORKERS),
    "dataloader_prefetch_factor": (3, WORKERS),
    "ddp_bucket_cap_mb": (3, {}),
    "ddp_timeout": (77, {}),
    "debug": ("underflow_overflow", {}),
    "eval_delay": (2.0, {}),
    "eval_steps": (7, {}),
    "eval_strategy": ("no", {}),
    "gradient_checkpointing_kwargs": ({"use_reentrant": False}, {"gradient_checkpointing": True}),
    "greater_is_better": (True, {"load_best_model_at_end": True}),
    "include_num_input_tokens_seen": ("all", {}),
    "label_smoothing_factor": (0.1, {}),
    "learning_rate": (1e-3, {}),
    "liger_kernel_config": ({"rope": False}, {"use_liger_kernel": True}),
    "log_level": ("debug", {}),
    "log_level_replica": ("debug", {}),
    "logging_steps": (3, {}),
    "logging_strategy": ("epoch", {}),
    "lr_scheduler_kwargs": ({"num_cycles": 1.5}, {"lr_scheduler_type": "cosine"}),
    "lr_scheduler_type": ("cosine", {}),
    "max_grad_norm": (0.5, {}),
    "max_steps": (9, {}),
    "metric_for_best_model": ("f1", {}),
    "neftune_noise_alpha": (5.0, {}),
    "num_train_epochs": (1.5, {}),
    "optim": ("sgd", {}),
    "optim_args": ("momentum=0.9", {"optim": "sgd"}),
    "optim_target_modules": ("all-linear", {"optim": "apollo_adamw"}),
    "project": ("mine", TRACKIO),
    "report_to": ("tensorboard", {}),
    "run_name": ("mine", {"report_to": "wandb"}),
    "save_steps": (7, {}),
    "save_strategy": ("no", {}),
    "save_total_limit": (3, {}),
    "seed": (3, {}),
    "torch_empty_cache_steps": (3, {}),
    "trackio_bucket_id": ("b", TRACKIO),
    "trackio_space_id": ("s", TRACKIO),
    "trackio_static_space_id": ("s", TRACKIO),
    "train_sampling_strategy": ("random", {}),
    "warmup_steps": (3, {}),
    "weight_decay": (0.1, {}),
}
"""A value that is not the default, and what the field needs beside it; a bool is turned round."""
ACCEPTED = sorted(FIELDS.keys() - training_fields.OWNED.keys())

Write = Callable[..., Path]


def change(name: str) -> tuple[Any, dict[str, Any]]:
    if name in CHANGED:
        return CHANGED[name]
    default = FIELDS[name].default
    is_bool = isinstance(default, bool) or "bool" in training_fields.fields()[name].types
    assert is_bool, f"{name} is new in this transformers: give it a value in CHANGED, or a reason in OWNED"
    return not default, {}


def made(path: Path, num_cards: int = 8) -> tuple[Loaded, plan.Plan]:
    loaded = load.load(path, (), {})
    return loaded, decide.make(loaded, detect.assumed(num_cards, Nodes()), plan.Options())


def in_a_rank(found: plan.Plan, folder: Path) -> dict[str, Any]:
    """What a rank's TrainingArguments hold."""
    values = {k: v for k, v in found.training_arguments.items() if k != "ddp_backend"}
    return TrainingArguments(**values, output_dir=str(folder)).to_dict()


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_changed_field_reaches_the_ranks_and_the_files(recipe: Write, tmp_path: Path, name: str):
    """Nothing of ours writes over it, and none of the run's files are the same; or the change is refused."""
    value, beside = change(name)
    fixed = {"parallel": {"precision": "fp32", "strategy": "ddp"}}
    try:
        before, after = (made(recipe(training=t, **fixed)) for t in (beside, {**beside, name: value}))
    except LaunchError:
        return
    texts = [files.texts(loaded, found, RunDir(tmp_path), {}) for loaded, found in (before, after)]
    one, other = in_a_rank(before[1], tmp_path), in_a_rank(after[1], tmp_path)

    assert texts[0] != texts[1]
    assert one[name] != other[name]
    assert (value if name not in ("debug", "report_to") else [value]) == other[name]


@pytest.mark.parametrize("options", [{"debug": True}, {"use": plan.Use(mode="eval", weights="/x")}])
def test_without_evaluations_nothing_that_follows_them_is_left(recipe: Write, tmp_path: Path, options: dict[str, Any]):
    """A recipe that trains is also evaluated, and run in a debugger; transformers takes those arguments."""
    training = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "load_best_model_at_end": True,
        "eval_on_start": True,
        "dataloader_num_workers": 2,
        "dataloader_prefetch_factor": 2,
    }
    loaded = load.load(recipe(training=training), (), {})
    found = decide.make(loaded, Cluster("cpu", source="a test"), plan.Options(**options)).training_arguments

    args = TrainingArguments(**{k: v for k, v in found.items() if k != "ddp_backend"}, output_dir=str(tmp_path))
    assert ("no", "no", False, False) == (
        args.eval_strategy,
        args.save_strategy,
        args.load_best_model_at_end,
        args.eval_on_start,
    )


def test_every_accepted_field_is_read_by_what_runs():
    """By a method of Trainer that ours reaches, by what that calls, or by our own code; a field of a method that we replace
    would be without effect."""
    assert set() == set(ACCEPTED) - _read_fields()


def _read_fields() -> set[str]:
    sources = [*_reached_methods(), *_own_properties()]
    sources += map(
        inspect.getsource,
        (
            transformers.trainer_callback,
            trainer_optimizer,
            integration_utils,
            transformers.integrations.deepspeed,
            optimization,
        ),
    )
    worker = Path(launcher.__file__).parent / "worker"
    sources += [path.read_text(encoding="utf-8") for path in worker.rglob("*.py")]
    text = "\n".join(sources)
    read = set(re.findall(r"\bargs\.(\w+)", text)) | set(re.findall(r'training_arguments(?:\.get\(|\[)"(\w+)"', text))
    read |= set(re.findall(r"\bstate\.(\w+_steps)", text))  # TrainerState.compute_steps turns shares into numbers
    return read | {
        name.replace("activation", "gradient") for name in read
    }  # the older names, which __post_init__ copies


def _reached_methods() -> Iterator[str]:
    """Sources of RecipeTrainer's methods, those of Trainer only where ours call them, directly or by others."""
    own = [c for c in RecipeTrainer.__mro__ if c.__module__.startswith("launcher.")]
    waiting = ["train", *(name for c in own for name, value in vars(c).items() if inspect.isfunction(value))]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for owner in RecipeTrainer.__mro__:
            function = vars(owner).get(name)
            function = getattr(function, "__func__", function)
            if not inspect.isfunction(function):
                continue
            source = inspect.getsource(function)
            yield source
            waiting += re.findall(r"(?:self|super\(\))\.(\w+)", source)
            if f"super().{name}(" not in source:
                break


def _own_properties() -> Iterator[str]:
    """What TrainingArguments answers out of its fields: verbosity, steps of warmup, who logs."""
    for name in ("get_process_log_level", "get_warmup_steps", "should_log", "ddp_timeout_delta"):
        value = inspect.getattr_static(TrainingArguments, name)
        yield inspect.getsource(value.fget if isinstance(value, property) else value).replace("self.", "args.")


def test_every_scheduler_takes_what_the_table_says():
    """get_scheduler hands lr_scheduler_kwargs on to all but two, which it passes over."""
    given = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    functions = {kind.value: function for kind, function in optimization.TYPE_TO_SCHEDULER_FUNCTION.items()}
    classes = {"reduce_lr_on_plateau": torch.optim.lr_scheduler.ReduceLROnPlateau, "greedy": optimization.GreedyLR}
    takes = {name: set(inspect.signature(classes.get(name, f)).parameters) - given for name, f in functions.items()}
    takes |= {"constant": set(), "constant_with_warmup": set()}

    assert {s.value for s in SchedulerType} == SCHEDULERS.keys()
    assert takes == {name: set(found.takes) for name, found in SCHEDULERS.items()}


@pytest.mark.parametrize("name", [s.value for s in SchedulerType])
def test_what_a_scheduler_needs_is_what_it_fails_without(name: str):
    """Made with nothing but its name, where the table says that nothing is needed; refused where it is."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    needs = SCHEDULERS[name].needs_one_of
    if needs and name != "greedy":  # greedy's default is there, and wrong
        with pytest.raises((ValueError, TypeError)):
            optimization.get_scheduler(name, optimizer, 0, 100)
    given = {needs[0]: 1e-6 if "lr" in needs[0] else 10} if needs else {}

    assert optimization.get_scheduler(name, optimizer, 0, 100, given) is not None


def test_every_optimizer_is_in_the_table_with_what_it_reads():
    """Its package, adam_ arguments, keys of optim_args and target modules, from the source of what makes it."""
    found = {}
    for kind in training_args.OptimizerNames:
        source = inspect.getsource(trainer_optimizer._OPTIMIZER_HANDLERS[kind])
        keys = set(re.findall(r'optim_args(?:\.(?:get|pop)\(|\[)"(\w+)"', source))
        keys |= {
            key for group in re.findall(r"for key in \(([^)]*)\)", source) for key in re.findall(r'"(\w+)"', group)
        }
        keys |= set(re.findall(r'if "(\w+)" in ctx\.optim_args', source))
        found[kind.value] = (
            keys,
            "_setup_low_rank_optimizer(" in source,
            set(re.findall(r"^ +from (\w+)[\w.]* import", source, re.M)) - {"torch", "torch_npu"},
        )

    table = OPTIMIZERS
    assert found.keys() == table.keys()
    supported = {name: row for name, row in found.items() if not table[name].refused}
    assert {n: row[0] for n, row in supported.items()} == {n: set(table[n].args) for n in supported}
    assert {n: row[1] for n, row in supported.items()} == {n: table[n].has_targets for n in supported}
    assert {n: row[2] for n, row in found.items()} == {n: {o.package} - {""} for n, o in table.items()}


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_adam_arguments_reach_only_the_optimizers_that_read_them(name: str, tmp_path: Path):
    """Asked of those that need no other package."""
    args = TrainingArguments(output_dir=str(tmp_path), optim=name, adam_beta1=0.5, adam_epsilon=0.25, use_cpu=True)
    _, options = transformers.Trainer.get_optimizer_cls_and_kwargs(args)

    assert bool(OPTIMIZERS[name].adam) == (options.get("betas", (0,))[0] == 0.5 and options["eps"] == 0.25)


def test_every_tracker_is_in_the_table():
    """With those whose callback reads run_name."""
    callbacks = integration_utils.INTEGRATION_TO_CALLBACK
    named = {
        n
        for n, c in callbacks.items()
        if any(
            "args.run_name" in inspect.getsource(b)
            for b in c.__mro__[:-1]
            if b.__module__ == integration_utils.__name__
        )
    }

    assert set(callbacks) == TRACKERS.keys()
    assert named == NAMES_RUNS


def test_log_levels_are_the_installed_ones():
    assert set(training_args.trainer_log_levels) == set(_LEVELS)


def test_each_figure_has_a_direction():
    """The recipe's metrics and the loss; a table has none."""
    directions = {name: metrics.greater_is_better(name) for name in ("loss", *metrics.BUILT_IN)}

    less_is_better = {"loss", "mae", "mse", "rmse", "perplexity", "hamming_loss"}
    assert less_is_better == {name for name, greater in directions.items() if greater is False}
    assert {"confusion_matrix"} == {name for name, greater in directions.items() if greater is None}


SCHEDULES = [
    dict(zip(("save_strategy", "eval_strategy", "save_steps", "eval_steps", "logging_steps"), row, strict=True))
    for row in itertools.product(
        ["no", "steps", "epoch", "best"], ["no", "steps", "epoch"], [None, 4, 0.5], [None, 2, 3, 0.25], [None, 4]
    )
]


def test_no_schedule_that_transformers_refuses_passes(tmp_path: Path):
    """All of 288 combinations with load_best_model_at_end: what it raises for, and what its Trainer raises for, is a
    problem here too, and the rest is none but for what would be ignored."""
    passed = []
    for values in SCHEDULES:
        training = {k: v for k, v in values.items() if v is not None} | {"load_best_model_at_end": True}
        refused = list(training_rules.problems(training, metrics=[metrics.load("f1")], has_eval=True))
        if any("has no effect" in text for _, text in refused):
            continue
        try:
            TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{"logging_steps": 10, **training})
            is_fine = training["save_strategy"] != "best" or training["eval_strategy"] != "no"
            is_fine &= training["save_strategy"] != "no"
            # transformers lets 500 pass beside a quarter of all steps, since 500 % 0.25 is 0.
            is_fine &= training["save_strategy"] != "steps" or (training.get("save_steps", 500) < 1) == (
                training.get("eval_steps", 4) < 1
            )
            is_fine &= training["eval_strategy"] != "steps" or bool({"eval_steps", "logging_steps"} & training.keys())
        except ValueError:
            is_fine = False
        assert is_fine == (not refused), (training, refused)
        passed += [training] if is_fine else []

    assert 10 < len(passed) < len(SCHEDULES) / 4


def test_the_rules_import_no_library():
    """Loading a recipe takes milliseconds: the tables are ours."""
    trees = [
        ast.parse(inspect.getsource(m)) for m in (training_rules, schedules, schedulers, optimizers, trackers, problems)
    ]
    names = {a.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}

    assert {"difflib", "importlib.util", "math"} == names
