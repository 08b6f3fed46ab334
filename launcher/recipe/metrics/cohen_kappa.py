"""Agreement of labels and predictions beyond chance."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL

COHEN_KAPPA = Metric(
    interface=INTERFACE,
    name="cohen_kappa",
    computation="launcher.worker.metrics.cohen_kappa:compute",
    greater_is_better=True,
    label="Cohen's kappa",
    heading="Kappa",
    unit="agreement beyond chance",
    targets=frozenset({ONE_LABEL}),
)
