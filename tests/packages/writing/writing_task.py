"""A task of another package: to write on. Rows have no labels; the loss is over tokens, and rows have as many as they have.
With it a metric of its own. This half needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.recipe.metrics import Metric
from launcher.recipe.tasks.base import LanguageModel

if TYPE_CHECKING:
    import numpy as np

    from launcher.recipe.tasks.table import Data, Model, Problem


class Writing(LanguageModel):
    """Every token of a text is learnt, but for the first few."""

    interface = 1
    name = "writing"
    worker = "writing_ranks:Writing"
    has_labels = False
    data_keys: ClassVar[dict[str, str]] = {"skip": "Tokens at the start of a row that no loss is taken of."}
    default_metrics = ("right_tokens",)
    columns = ("correct",)
    padding_side = "right"

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        skip = getattr(data, "skip", 0)
        if not isinstance(skip, int) or skip < 0:
            yield ("data", "skip"), f"expected a whole number, at least 0, got {skip!r}"

    def reads(self, data: Data) -> dict[str, str]:
        return {"data.text": data.text}

    def is_answered(self, answer: Any) -> bool:
        return answer is not None

    def answer(self, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        return {"next_token": answer}


WRITING = Writing()

RIGHT_TOKENS = Metric(
    interface=1,
    name="right_tokens",
    computation="writing_task:right_tokens",
    greater_is_better=True,
    label="right tokens",
    heading="Right Tokens",
    in_panel=True,
    columns=("correct", "count"),
)


def right_tokens(correct: np.ndarray, count: np.ndarray, *, num_labels: int) -> float:
    return float(correct.sum() / count.sum())
