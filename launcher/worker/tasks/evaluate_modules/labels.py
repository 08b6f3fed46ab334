"""Figures over predicted and true labels, as one `evaluate` module with a configuration for each.

`evaluate.load("accuracy")` asks a hub; this file is loaded by its path and needs none. Each configuration is a plain
scikit-learn call, so whoever recomputes a figure from predictions.jsonl with scikit-learn gets the same digits.
"""

from __future__ import annotations

import typing

import datasets
import evaluate
import sklearn.metrics

from launcher.messages import Message

_KINDS: dict[str, typing.Any] = {
    "accuracy": lambda true, found, labels: float(sklearn.metrics.accuracy_score(true, found)),
    "precision": lambda true, found, labels: _macro(sklearn.metrics.precision_score, true, found),
    "recall": lambda true, found, labels: _macro(sklearn.metrics.recall_score, true, found),
    "f1": lambda true, found, labels: _macro(sklearn.metrics.f1_score, true, found),
    "mae": lambda true, found, labels: float(sklearn.metrics.mean_absolute_error(true, found)),
    "confusion_matrix": lambda true, found, labels: sklearn.metrics.confusion_matrix(
        true, found, labels=labels
    ).tolist(),
}


def _macro(score: typing.Any, true: list[int], found: list[int]) -> float:
    # scikit-learn's own choice of labels: those that occur or were predicted, each alike. One that was never predicted
    # counts as 0; one that neither occurs nor was predicted says nothing about the model, and does not count.
    return float(score(true, found, average="macro", zero_division=0))


class Labels(evaluate.Metric):
    """One figure over labels; the configuration name says which."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _KINDS:
            raise KeyError(
                Message(
                    "configurations are {kinds}, not {config_name!r}",
                    kinds=", ".join(_KINDS),
                    config_name=self.config_name,
                )
            )
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions and references: label numbers; num_labels: how many labels there are",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list[int], references: list[int], num_labels: int) -> dict[str, typing.Any]:
        figure = _KINDS[self.config_name](references, predictions, list(range(num_labels)))
        return {self.config_name: figure}
