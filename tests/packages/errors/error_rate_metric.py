"""A metric of another package: the share of rows whose prediction is not their label. Less is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.recipe.metrics import Metric

if TYPE_CHECKING:
    import numpy as np

ERROR_RATE = Metric(
    interface=1,
    name="error_rate",
    computation="error_rate_metric:compute",
    greater_is_better=False,
    label="error rate",
    heading="Error Rate",
    in_panel=True,
)


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return float((true != predicted).mean())
