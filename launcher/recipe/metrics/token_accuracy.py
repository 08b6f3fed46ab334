"""The share of the tokens to be predicted that are the likeliest ones."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import TOKENS

TOKEN_ACCURACY = Metric(
    interface=INTERFACE,
    name="token_accuracy",
    computation="launcher.worker.metrics.token_accuracy:compute",
    greater_is_better=True,
    label="token accuracy",
    heading="Token accuracy",
    in_panel=True,
    columns=("correct", "count"),
    targets=frozenset({TOKENS}),
)
