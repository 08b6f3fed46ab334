"""What TrainingArguments need of each other and of the recipe, so that nothing is refused only in the ranks, or ignored.

The tables repeat rules of transformers 5.23 (training_args.py, optimization.py, trainer_optimizer.py, trainer.py), since
importing it takes seconds; tests/contract/test_training_arguments.py compares them with the installed version.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.messages import Message
from launcher.recipe.metrics import Metric
from launcher.recipe.optimizers import OPTIMIZERS, Optimizer, optimizer_problems
from launcher.recipe.problems import Problem, value_problem
from launcher.recipe.schedulers import scheduler_problems
from launcher.recipe.schedules import Schedule, best, load_best, schedule_problems
from launcher.recipe.trackers import ALTERNATIVES, OF_WORKERS, TRACKERS, reporting, trackers


def _recomputation(training: Mapping[str, Any]) -> Iterator[Problem]:
    is_on = training.get("gradient_checkpointing") or training.get("activation_checkpointing")
    for end in ("", "_kwargs"):
        old, new = f"gradient_checkpointing{end}", f"activation_checkpointing{end}"
        if training.get(old) is not None and training.get(new) is not None:
            yield old, Message("is the older name of {new}; give one of them", new=new)
        for key in (old, new):
            if end and training.get(key) and not is_on:
                yield key, Message("has no effect without {key}: true", key=key.removesuffix(end))


def _together(training: Mapping[str, Any]) -> Iterator[Problem]:
    for key in OF_WORKERS:
        if training.get(key) and not training.get("dataloader_num_workers"):
            yield (
                key,
                Message("has no effect without dataloader_num_workers, since rows are then loaded by the rank itself"),
            )
    if training.get("liger_kernel_config") is not None and not training.get("use_liger_kernel"):
        yield "liger_kernel_config", Message("has no effect without use_liger_kernel: true")
    yield from _debug(training.get("debug"))
    if training.get("train_sampling_strategy") == "batch_rebalance":
        text = Message("batch_rebalance depends on the number of ranks; group_by_length balances ranks too")
        yield "train_sampling_strategy", text


def _debug(value: Any) -> Iterator[Problem]:
    for name in value.split() if isinstance(value, str) else value or ():
        if name != "underflow_overflow":
            yield "debug", Message("{name!r} is not a choice; `underflow_overflow` is the only one", name=name)


def problems(
    training: Mapping[str, Any],
    *,
    metrics: Sequence[Metric],
    has_eval: bool,
    has_script: bool = False,
    sets: Sequence[str] = (),
) -> Iterator[Problem]:
    """What is wrong with a training section whose fields have the right types.

    Args:
        training: TrainingArguments by name, as a recipe has them.
        metrics: what an evaluation computes.
        has_eval: whether the recipe has rows to evaluate.
        has_script: a program of the user's trains, whose figures nobody knows.
        sets: names of the sets that are evaluated each for itself.
    """
    bad = {name: text for name, value in training.items() if (text := value_problem(name, value))}
    yield from bad.items()
    training = {name: value for name, value in training.items() if name not in bad}
    schedule = Schedule.of(training, has_eval=has_eval)
    yield from schedule_problems(training, schedule, has_eval=has_eval)
    yield from load_best(training, schedule)
    if not has_script:
        yield from best(training, schedule, metrics, sets)
    yield from scheduler_problems(training, schedule, metrics)
    yield from optimizer_problems(training)
    yield from reporting(training)
    yield from _recomputation(training)
    yield from _together(training)


def missing_packages(training: Mapping[str, Any]) -> Iterator[Problem]:
    """What the training section needs and this environment does not have. Looks for modules, and imports none."""
    optimizer = OPTIMIZERS.get(training.get("optim", ""), Optimizer())
    if optimizer.package and not optimizer.refused and not _is_installed(optimizer.package):
        needs = Message(
            "needs {package}, which is not installed: pip install {pip}", package=optimizer.package, pip=optimizer.pip
        )
        yield "optim", f"{training['optim']} {needs}"
    if training.get("use_liger_kernel") and not _is_installed("liger_kernel"):
        yield "use_liger_kernel", Message("needs liger_kernel, which is not installed: pip install liger-kernel")
    for name in trackers(training):
        modules = (TRACKERS.get(name, ""), *ALTERNATIVES.get(name, ()))
        if modules[0] and not any(map(_is_installed, modules)):
            yield (
                "report_to",
                Message(
                    "{name} needs {module}, which is not installed; install it, or set report_to: none",
                    name=name,
                    module=modules[0],
                ),
            )


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
