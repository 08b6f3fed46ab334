"""Matthews' correlation coefficient of labels and predictions."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL

MCC = Metric(
    interface=INTERFACE,
    name="mcc",
    computation="launcher.worker.metrics.mcc:compute",
    greater_is_better=True,
    label="Matthews correlation",
    heading="MCC",
    unit="correlation of labels",
    targets=frozenset({ONE_LABEL}),
)
