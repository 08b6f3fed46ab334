"""e to the mean loss of what counts in all rows."""

from __future__ import annotations

from launcher.recipe.metrics.table import EVERY_TARGET, INTERFACE, OF_EVERY_TASK, Metric

PERPLEXITY = Metric(
    interface=INTERFACE,
    name="perplexity",
    computation="launcher.worker.metrics.perplexity:compute",
    greater_is_better=False,
    label="perplexity",
    heading="Perplexity",
    unit="e to the mean loss",
    columns=OF_EVERY_TASK,
    targets=EVERY_TARGET,
)
