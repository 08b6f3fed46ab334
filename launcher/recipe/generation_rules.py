"""What `generation:` needs of the rest of a recipe, so that nothing of it is refused only in the ranks, or ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from launcher.messages import Message
from launcher.recipe.metrics import Metric
from launcher.recipe.schedules import BY_METRIC, best_metric
from launcher.recipe.schema import Generation
from launcher.recipe.tasks.table import Problem, Task

_OF_DRAWS = ("temperature", "top_k", "top_p", "min_p")
_OF_BEAMS = ("length_penalty", "early_stopping")


def problems(
    asked: Generation,
    *,
    task: Task,
    has_eval: bool,
    metrics: Sequence[Metric],
    training: Mapping[str, Any],
    stops_early: bool,
) -> Iterator[Problem]:
    """What is wrong with settings whose types are right.

    Args:
        metrics: the recipe's.
        training: its TrainingArguments.
        stops_early: whether it has early_stopping.
    """
    if not task.has_conversations:
        yield ("generation",), Message("{task} writes no texts; leave it out", task=task.name)
    elif not has_eval:
        yield ("generation",), Message("nothing is evaluated; set data.eval, or leave it out")
    yield from together(asked)
    of_texts = [metric.name for metric in metrics if metric.is_of_texts]
    who = "early_stopping" if stops_early else str(training.get("lr_scheduler_type"))
    follows = stops_early or who in BY_METRIC
    if asked.every > 1 and follows and (name := _best_of(training, of_texts)):
        text = Message("{who} goes by {name}, so each evaluation needs it; leave this out", who=who, name=name)
        yield ("generation", "every"), text


def together(
    asked: Generation, *, sampling: str = "do_sample: true", beam_search: str = "num_beams"
) -> Iterator[Problem]:
    """Settings that contradict each other. `sampling` and `beam_search`: how both are written where they are given."""
    beams = (asked.num_beams or 1) > 1
    if beams and asked.do_sample:
        text = Message("draws nothing with {beam_search}: leave one of them out", beam_search=beam_search)
        yield ("generation", "do_sample"), text
    given = asked.given()
    for key in _OF_DRAWS:
        if key in given and not asked.do_sample:
            yield ("generation", key), Message("has no effect without {sampling}", sampling=sampling)
    for key in _OF_BEAMS:
        if key in given and not beams:
            yield ("generation", key), Message("has no effect without num_beams: 2 or more")
    if asked.min_new_tokens and asked.max_new_tokens and asked.min_new_tokens > asked.max_new_tokens:
        yield (
            ("generation", "min_new_tokens"),
            Message("is above max_new_tokens, {most}", most=asked.max_new_tokens),
        )


def _best_of(training: Mapping[str, Any], names: Iterable[str]) -> str | None:
    best = best_metric(training)
    return next((best for name in names if best == name or best.endswith(f"_{name}")), None)
