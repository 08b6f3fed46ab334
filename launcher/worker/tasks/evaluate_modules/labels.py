"""Figures over predicted and true labels, as one `evaluate` module with a configuration for each metric that needs no more.

`evaluate.load("accuracy")` asks a hub; this file is loaded by its path and needs none.
"""

from __future__ import annotations

import typing

import datasets
import evaluate
import numpy

from launcher import plugins
from launcher.messages import Message
from launcher.recipe import metrics


class Labels(evaluate.Metric):
    """One figure over labels; the configuration name says which."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in metrics.TABLE:
            known = ", ".join(metrics.TABLE.names())
            raise KeyError(Message("configurations are {known}, not {name!r}", known=known, name=self.config_name))
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions and references: label numbers; num_labels: how many labels there are; label_names: theirs",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list[int], references: list[int], **keywords: typing.Any) -> dict[str, typing.Any]:
        metric = metrics.load(self.config_name)
        compute = plugins.load_object(metric.computation)
        true, predicted = numpy.asarray(references), numpy.asarray(predictions)
        return {self.config_name: compute(true, predicted, **{name: keywords[name] for name in metric.keywords})}
