"""When a run evaluates, saves and logs, and what its best checkpoint is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.messages import Message
from launcher.recipe import metrics as table
from launcher.recipe.metrics import Metric
from launcher.recipe.problems import Problem, did_you_mean, yaml

DEFAULT_STEPS = {"logging_steps": 10, "save_steps": 500}
"""Ours for logging, transformers' for saving; eval_steps follows logging_steps."""


@dataclass(frozen=True)
class Schedule:
    """The strategies of a training: what is said, else what `*_steps` imply, else the epoch's end."""

    logging: str
    evaluation: str
    saving: str

    @classmethod
    def of(cls, training: Mapping[str, Any], *, has_eval: bool) -> Schedule:
        """Of a recipe's training section; `has_eval`: whether there are rows to evaluate."""

        def strategy(kind: str, default: str) -> str:
            implied = default if training.get(f"{kind}_steps") is None else "steps"
            return str(training.get(f"{kind}_strategy") or implied)

        return cls(
            logging=strategy("logging", "steps"),
            evaluation=strategy("eval", "epoch") if has_eval else "no",
            saving=strategy("save", "epoch"),
        )


def schedule_problems(training: Mapping[str, Any], schedule: Schedule, *, has_eval: bool) -> Iterator[Problem]:
    for kind, strategy in (("logging", schedule.logging), ("eval", schedule.evaluation), ("save", schedule.saving)):
        key = f"{kind}_steps"
        if training.get(key) is not None and strategy != "steps":
            if kind == "eval" and not has_eval:
                yield key, Message("there is no data.eval to evaluate on; set it, or leave this out")
            elif not (kind == "logging" and schedule.evaluation == "steps" and training.get("eval_steps") is None):
                name = f"{kind}_strategy"
                yield (
                    key,
                    Message(
                        "has no effect with {name}: {strategy}; leave it out (training.{key}=null), or set {name}: steps",
                        name=name,
                        strategy=strategy,
                        key=key,
                    ),
                )
    asked = training.get("eval_strategy")
    if not has_eval and asked not in (None, "no"):
        yield "eval_strategy", Message("there is no data.eval to evaluate on; set it or say `no`")
    if not has_eval and training.get("eval_on_start"):
        yield "eval_on_start", Message("there is no data.eval to evaluate on; set it, or leave this out")
    if asked == "steps" and not (training.get("eval_steps") or training.get("logging_steps")):
        yield "eval_strategy", Message("`steps` needs eval_steps")
    if training.get("eval_delay") and schedule.evaluation == "no":
        yield "eval_delay", Message("has no effect, since nothing is evaluated during the training")
    yield from _delay(training, schedule)


def _delay(training: Mapping[str, Any], schedule: Schedule) -> Iterator[Problem]:
    """eval_delay counts what evaluations count; how many steps some epochs have is not known yet."""
    steps = training.get("max_steps", -1)
    if schedule.evaluation == "epoch" and steps < 0:
        total, what = training.get("num_train_epochs", 3), "epochs"
    elif schedule.evaluation == "steps" and steps > 0:
        total, what = steps, "steps"
    else:
        return
    if training.get("eval_delay", 0) > total:
        yield (
            "eval_delay",
            Message(
                "is more than the {total} {what} of the training, in which nothing would be evaluated",
                total=total,
                what=what,
            ),
        )


BY_METRIC = frozenset({"reduce_lr_on_plateau", "greedy"})
"""Schedulers that follow metric_for_best_model."""


def looks_for_best(training: Mapping[str, Any]) -> bool:
    """Whether evaluations are compared; then by the loss, unless metric_for_best_model names another figure."""
    return bool(
        training.get("load_best_model_at_end")
        or training.get("metric_for_best_model") is not None
        or training.get("save_strategy") == "best"
        or training.get("lr_scheduler_type") in BY_METRIC
    )


def best_metric(training: Mapping[str, Any]) -> str:
    """The figure that evaluations are compared by, without eval_."""
    asked = training.get("metric_for_best_model")
    return table.LOSS if asked is None else str(asked).removeprefix("eval_")


def best(
    training: Mapping[str, Any], schedule: Schedule, metrics: Sequence[Metric], sets: Sequence[str] = ()
) -> Iterator[Problem]:
    """`sets`: names of those that are evaluated each for itself."""
    asked, better = training.get("metric_for_best_model"), training.get("greater_is_better")
    names = table.of_sets([table.LOSS, *(metric.name for metric in metrics if metric.is_figure)], sets)
    name = best_metric(training)
    if asked is not None and name not in names:
        yield "metric_for_best_model", _no_metric(str(asked), name, names)
    elif asked is not None and schedule.evaluation == "no":
        yield (
            "metric_for_best_model",
            Message("nothing is evaluated during the training; set eval_strategy, or leave this out"),
        )
    if better is not None and not looks_for_best(training):
        yield "greater_is_better", Message("has no effect without metric_for_best_model")
    elif better is not None and name in names and better != table.greater_is_better(name, metrics):
        more = "less" if better else "more"
        yield (
            "greater_is_better",
            Message(
                "of {name} {more} is better; leave this out, which says {yaml}",
                name=name,
                more=more,
                yaml=yaml(not better),
            ),
        )


def _no_metric(asked: str, name: str, names: Sequence[str]) -> str:
    if name in table.TABLE and not table.load(name).is_figure:
        return Message("{name} is a table and no figure; choose from {place}", name=name, place=", ".join(names))
    if name in table.TABLE:
        return Message(
            "{name} is not computed, choose from {place}, or add {name} to `metrics:`",
            name=name,
            place=", ".join(names),
        )
    return Message(
        "`{asked}` is none of {place}{did_you_mean}",
        asked=asked,
        place=", ".join(names),
        did_you_mean=did_you_mean(name.lower(), names),
    )


def load_best(training: Mapping[str, Any], schedule: Schedule) -> Iterator[Problem]:
    key = "load_best_model_at_end"
    if schedule.saving == "best" and schedule.evaluation == "no":
        yield "save_strategy", Message("`best` needs evaluations to compare; set eval_strategy")
    if not training.get(key):
        return
    if schedule.saving == "no":
        yield key, Message("needs save_strategy: epoch or steps")
    elif schedule.saving != "best" and schedule.saving != schedule.evaluation:
        difference = Message(
            "saving is by {saving} and evaluation by {evaluation}",
            saving=schedule.saving,
            evaluation=schedule.evaluation,
        )
        yield (
            key,
            Message(
                "needs a save for each evaluation, but {actual}; give save_strategy and eval_strategy the same value",
                actual=difference,
            ),
        )
    elif schedule.saving == "steps":
        logging = training.get("logging_steps") or DEFAULT_STEPS["logging_steps"]
        save, every = training.get("save_steps") or DEFAULT_STEPS["save_steps"], training.get("eval_steps") or logging
        if not _is_multiple(save, every):
            yield (
                key,
                Message(
                    "needs save_steps that are a multiple of eval_steps, and {save} is none of {every}",
                    save=save,
                    every=every,
                ),
            )
    if training.get("save_only_model"):
        yield key, Message("needs whole checkpoints: leave out save_only_model")


def _is_multiple(save: float, every: float) -> bool:
    if (save < 1) != (every < 1) or every <= 0:  # a share of all steps beside a number of them: nobody can tell
        return False
    million = 1_000_000  # as transformers: floats leave a rest of their own
    return (save * million) % (every * million) == 0 if save < 1 else save % every == 0


def with_early_stopping(training: Mapping[str, Any]) -> dict[str, Any]:
    """What early stopping stands for, where a training does not say otherwise: evaluations are compared, and the best is kept."""
    return {"load_best_model_at_end": True, "metric_for_best_model": table.LOSS, **training}
