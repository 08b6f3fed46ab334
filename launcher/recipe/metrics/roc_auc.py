"""How often a row that has a label is scored above one that has not; the mean over labels."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL

ROC_AUC = Metric(
    interface=INTERFACE,
    name="roc_auc",
    computation="launcher.worker.metrics.roc_auc:compute",
    greater_is_better=True,
    label="ROC AUC",
    heading="ROC AUC",
    columns=("label", "probabilities"),
    targets=frozenset({ONE_LABEL, MANY_LABELS}),
)
