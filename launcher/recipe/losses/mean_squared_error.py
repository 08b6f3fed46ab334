"""The squared difference from the value; of rows with several values, the mean over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.recipe.tasks.table import VALUES


class MeanSquaredError:
    """torch's mse_loss, row by row."""

    interface = 1
    name = "mean-squared-error"
    worker = "launcher.worker.losses.mean_squared_error:MeanSquaredError"
    targets = frozenset({VALUES})
    parameters: Mapping[str, str] = {}
    takes_class_weights = False
    takes_smoothing = False

    def problems(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from ()


MEAN_SQUARED_ERROR = MeanSquaredError()
