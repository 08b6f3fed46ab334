"""Rates of ranks beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.messages import Message
from launcher.recipe import metrics as table
from launcher.rundir import records


def own_seconds(rates: records.Rates) -> list[float]:
    """Seconds a step that each rank spent on work of its own (loading rows, forward pass), not waiting for others."""
    steps = rates.steps or 1
    pairs = zip(rates.data_s or (), rates.forward_s or (), strict=False)
    return [(data + forward) / steps for data, forward in pairs]


def stragglers(rates: records.Rates, *, factor: float = 1.5, share: float = 0.1) -> dict[int, float]:
    """Rank → how many times the median its own work takes, for ranks that hold the others up.

    A rank counts from `factor` times the median, where the difference is at least `share` of a whole step: twice of
    next to nothing holds nobody up.
    """
    own = own_seconds(rates)
    if len(own) < 2:
        return {}
    median = sorted(own)[(len(own) - 1) // 2]
    step_s = rates.seconds / (rates.steps or 1)
    return {
        rank: own_s / median
        for rank, own_s in enumerate(own)
        if median > 0 and own_s >= factor * median and own_s - median >= share * step_s
    }


def macro_text(metrics: Mapping[str, Any]) -> str:
    """Which labels the macro averages of metrics.json are over; '' where it has none, or does not say."""
    facts, final = metrics.get("macro_average"), metrics.get("final")
    named = [
        metric.name
        for metric in table.figures()
        if metric.is_macro_average and isinstance(final, Mapping) and metric.name in final
    ]
    labels = facts.get("labels") if isinstance(facts, Mapping) else None
    if not named or not isinstance(labels, list):
        return ""
    count, of = len(labels), facts.get("num_labels") if isinstance(facts, Mapping) else None
    absent = "" if count == of else Message("; labels that neither occur nor are predicted do not count")
    return Message(
        "{named}: macro average over {count} of {of} labels{absent}",
        named=", ".join(named),
        count=count,
        of=of,
        absent=absent,
    )
