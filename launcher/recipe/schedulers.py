"""Learning rate schedulers: the arguments each takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.messages import Message
from launcher.recipe import metrics
from launcher.recipe.metrics import Metric
from launcher.recipe.problems import Problem, did_you_mean, is_number, keys, yaml
from launcher.recipe.schedules import BY_METRIC, Schedule, best_metric


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler of lr_scheduler_type reads."""

    takes: frozenset[str] = frozenset()
    """Keys of lr_scheduler_kwargs."""
    needs_one_of: tuple[str, ...] = ()
    """Of those keys exactly one must be given."""
    warms_up: bool = True
    """Whether it reads warmup_steps."""


_PLATEAU = keys("mode factor patience threshold threshold_mode cooldown min_lr eps")
SCHEDULERS = {
    "linear": Scheduler(),
    "cosine": Scheduler(keys("num_cycles")),
    "cosine_with_restarts": Scheduler(keys("num_cycles")),
    "polynomial": Scheduler(keys("lr_end power")),
    "constant": Scheduler(warms_up=False),
    "constant_with_warmup": Scheduler(),
    "inverse_sqrt": Scheduler(keys("timescale")),
    "reduce_lr_on_plateau": Scheduler(_PLATEAU, warms_up=False),
    "cosine_with_min_lr": Scheduler(keys("num_cycles min_lr min_lr_rate"), ("min_lr", "min_lr_rate")),
    "cosine_warmup_with_min_lr": Scheduler(
        keys("num_cycles min_lr min_lr_rate warmup_lr_rate"), ("min_lr", "min_lr_rate")
    ),
    "warmup_stable_decay": Scheduler(
        keys("num_decay_steps num_stable_steps warmup_type decay_type min_lr_ratio num_cycles"), ("num_decay_steps",)
    ),
    # Its own min_lr is 0.001, which is above any rate that a model is fine-tuned with: its first step down would be one up.
    "greedy": Scheduler(
        _PLATEAU | keys("warmup max_lr verbose smooth window_size reset_start"), ("min_lr",), warms_up=False
    ),
}
_SHAPES = ("linear", "cosine", "1-sqrt")
_WORDS = {
    "mode": ("min", "max"),
    "threshold_mode": ("rel", "abs"),
    "warmup_type": _SHAPES,
    "decay_type": _SHAPES,
    "verbose": (True, False),
    "smooth": (True, False),
}
"""Keys of lr_scheduler_kwargs that are not numbers, and what they may be."""


def scheduler_problems(
    training: Mapping[str, Any], schedule: Schedule, computed: Sequence[Metric] = ()
) -> Iterator[Problem]:
    name = training.get("lr_scheduler_type", "linear")
    given = training.get("lr_scheduler_kwargs") or {}
    scheduler = SCHEDULERS.get(name)
    if scheduler is None or not isinstance(given, Mapping):
        return
    for key, value in given.items():
        if key not in scheduler.takes:
            takes = Message("{name} takes {takes}", name=name, takes=", ".join(sorted(scheduler.takes)) or "none")
            yield (
                "lr_scheduler_kwargs",
                Message(
                    "unknown key {key!r}{did_you_mean}",
                    key=key,
                    did_you_mean=did_you_mean(str(key), scheduler.takes) or f"; {takes}",
                ),
            )
        elif (text := _argument(key, value)) is not None:
            yield "lr_scheduler_kwargs", text
    if scheduler.needs_one_of and sum(given.get(key) is not None for key in scheduler.needs_one_of) != 1:
        first, names = scheduler.needs_one_of[0], " or ".join(scheduler.needs_one_of)
        one = Message("one of {names}", names=names) if len(scheduler.needs_one_of) > 1 else names
        where = "lr_scheduler_kwargs" if given else "lr_scheduler_type"
        yield (
            where,
            Message(
                "{name} needs {one}, as in lr_scheduler_kwargs: {{{first}: {example}}}",
                name=name,
                one=one,
                first=first,
                example=_EXAMPLE[first],
            ),
        )
    if training.get("warmup_steps") and not scheduler.warms_up:
        hint = Message("; constant_with_warmup has one") if name == "constant" else ""
        yield (
            "warmup_steps",
            Message("has no effect: lr_scheduler_type {name} has no warmup{hint}", name=name, hint=hint),
        )
    yield from _rates(str(name), given, training.get("learning_rate", 5e-5))
    if name in BY_METRIC:
        if schedule.evaluation == "no":
            yield (
                "lr_scheduler_type",
                Message("{name} follows an evaluation, and nothing is evaluated; set eval_strategy", name=name),
            )
        mode = "max" if metrics.greater_is_better(best_metric(training), computed) else "min"
        if given.get("mode") in ("min", "max") and given["mode"] != mode:
            yield (
                "lr_scheduler_kwargs",
                Message("mode is {mode} for {best_metric}; leave it out", mode=mode, best_metric=best_metric(training)),
            )


_EXAMPLE = {"min_lr": "1e-6", "num_decay_steps": "100"}


def _argument(key: str, value: Any) -> str | None:
    if key in _WORDS:
        allowed = _WORDS[key]
        return (
            None
            if value in allowed
            else Message(
                "{key}: {value!r} is none of {allowed}", key=key, value=value, allowed=", ".join(map(yaml, allowed))
            )
        )
    if not is_number(value):
        return Message("{key}: expected a number, got {value!r}", key=key, value=value)
    if value < 0 or (value == 0 and key in _ABOVE_0):
        return (
            Message("{key}: {value} must be above 0", key=key, value=value)
            if key in _ABOVE_0
            else Message("{key}: {value} must be at least 0", key=key, value=value)
        )
    if key in _SHARES and value > 1:
        return Message("{key}: {value} must be at most 1, a share of the learning_rate", key=key, value=value)
    return None


_ABOVE_0 = ("timescale", "num_decay_steps", "power")
_SHARES = ("min_lr_rate", "min_lr_ratio", "warmup_lr_rate")


def _rates(name: str, given: Mapping[str, Any], rate: Any) -> Iterator[Problem]:
    key = "lr_end" if name == "polynomial" else "min_lr"
    least = given.get(key, 1e-7 if name == "polynomial" else None)
    if is_number(least) and is_number(rate) and (least >= rate if name == "polynomial" else least > rate):
        where = "lr_scheduler_kwargs" if key in given else "learning_rate"
        yield where, Message("{key} {least} must be below the learning_rate, {rate}", key=key, least=least, rate=rate)
    if name in BY_METRIC and is_number(given.get("factor")) and not 0 < given["factor"] < 1:
        yield "lr_scheduler_kwargs", Message("factor: {factor} must be between 0 and 1", factor=given["factor"])


def scheduler_mode(training: Mapping[str, Any], computed: Sequence[Metric] = ()) -> dict[str, Any]:
    """lr_scheduler_kwargs of a scheduler that follows a figure, with the figure's direction; their own default is min."""
    if training.get("lr_scheduler_type") not in BY_METRIC:
        return {}
    mode = "max" if metrics.greater_is_better(best_metric(training), computed) else "min"
    return {"lr_scheduler_kwargs": {"mode": mode, **(training.get("lr_scheduler_kwargs") or {})}}
