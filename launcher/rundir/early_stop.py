"""Why a training ended before its last step, as metrics.json and the events have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.messages import Message, plural

KEY = "early_stopping"
"""Of metrics.json."""


def text(metrics: Mapping[str, Any]) -> str:
    """The facts of metrics.json as a sentence; '' of a training that was not ended early."""
    facts = metrics.get(KEY)
    names = ("step", "max_steps", "metric", "best", "best_step", "evaluations")
    if not isinstance(facts, Mapping) or not all(name in facts for name in names):
        return ""
    if facts["best"] is None:
        return plural(
            "ended early, at step {step} of {max_steps}: {metric} had no value in {count} evaluation in a row",
            "ended early, at step {step} of {max_steps}: {metric} had no value in {count} evaluations in a row",
            count=facts["evaluations"],
            step=facts["step"],
            max_steps=facts["max_steps"],
            metric=facts["metric"],
        )
    return plural(
        "ended early, at step {step} of {max_steps}: in {count} evaluation in a row {metric} was no better than "
        "{best} of step {best_step}{threshold}",
        "ended early, at step {step} of {max_steps}: in {count} evaluations in a row {metric} was no better than "
        "{best} of step {best_step}{threshold}",
        count=facts["evaluations"],
        step=facts["step"],
        max_steps=facts["max_steps"],
        metric=facts["metric"],
        best=facts["best"],
        best_step=facts["best_step"],
        threshold=Message(" by more than {threshold}", threshold=facts["threshold"]) if facts.get("threshold") else "",
    )
