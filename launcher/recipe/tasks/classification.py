"""Labels or values for a text or a pair of texts, from a classification head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from launcher.messages import Message, joined
from launcher.recipe.tasks.base import LABEL, PROBABILITIES, Head, Labelled
from launcher.recipe.tasks.table import (
    INTERFACE,
    MANY_LABELS,
    MULTI_LABEL,
    OF_CHATS,
    ONE_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    VALUES,
    Data,
    Model,
    Problem,
)

DEFAULT_LABEL = "label"


class Classification(Labelled, Head):
    """A classification head on the model."""

    interface = INTERFACE
    name = "sequence-classification"
    worker = "launcher.worker.tasks.classification:Classification"
    encoder = "launcher.worker.tasks.prompts:text_encoder"
    data_keys: Mapping[str, str] = MappingProxyType(
        {
            "text_pair": "Column with a second text, which is read together with the first.",
            "labels": "Several columns instead of label: of 0 and 1, whose names are the labels' (multi-label); or of numbers (regression).",
            "label_separator": "What parts the labels, or the numbers, of a row that stand in one cell, such as ';'.",
        }
    )

    def targets(self, model: Model, data: Data) -> str:
        """By model.problem_type; several labels where the data has several in a row."""
        if model.problem_type is not None:
            return {REGRESSION: VALUES, MULTI_LABEL: MANY_LABELS, SINGLE_LABEL: ONE_LABEL}[model.problem_type]
        has_several = getattr(data, "labels", None) or getattr(data, "label_separator", None)
        return MANY_LABELS if has_several else ONE_LABEL

    def metrics(self, model: Model, data: Data) -> tuple[str, ...]:
        return ("mse", "r2", "spearman") if self.targets(model, data) == VALUES else self.default_metrics

    def reads(self, data: Data) -> dict[str, str]:
        pair = getattr(data, "text_pair", None)
        return {"data.text": data.text, **({} if pair is None else {"data.text_pair": pair})}

    def label_columns(self, data: Data) -> dict[str, str]:
        names = getattr(data, "labels", None)
        return {f"data.labels.{i}": name for i, name in enumerate(names)} if names else {LABEL: data.label}

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        for key in ("prompt", "system", "answers"):
            if getattr(data, key) is not None:
                text = Message(
                    "a classification head reads the text alone; use model.task: {task} for prompts", task=OF_CHATS
                )
                yield ("data", key), text
        for key in ("text_pair", "label_separator"):
            if not (isinstance(value := getattr(data, key, " "), str) and value):
                yield ("data", key), Message("expected a text, got {value!r}", value=value)
        yield from _of_columns(model, data)

    def is_answered(self, answer: Any) -> bool:
        return super().is_answered(answer) if isinstance(answer, list) else None not in answer.values()

    def answer(self, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        if isinstance(answer, list):
            return super().answer(answer, label_names)
        if "values" in answer:
            values = answer["values"]
            return {"value": values and values[0]} if len(label_names) == 1 else {"values": values}
        labels = answer["labels"]
        names = None if labels is None else [label_names[label] for label in labels]
        return {"labels": labels, "label_names": names, PROBABILITIES: answer[PROBABILITIES]}


def _of_columns(model: Model, data: Data) -> Iterator[Problem]:
    """What is wrong with `data.labels`, and with what does not go with it."""
    names = getattr(data, "labels", None)
    if names is None:
        if getattr(data, "label_separator", None) and model.problem_type == SINGLE_LABEL:
            yield ("data", "label_separator"), Message("a row has one label, as model.problem_type says")
        return
    if not (isinstance(names, list | tuple) and names and all(isinstance(name, str) and name for name in names)):
        yield ("data", "labels"), Message("expected a list of columns, got {value!r}", value=names)
        return
    if len(set(names)) < len(names):
        yield ("data", "labels"), Message("a column is named twice")
    if data.label != DEFAULT_LABEL:
        yield ("data", "label"), Message("not beside data.labels; leave one out")
    if getattr(data, "label_separator", None):
        yield ("data", "label_separator"), Message("not beside data.labels, whose columns have a number each")
    if model.problem_type == SINGLE_LABEL:
        yield ("data", "labels"), Message("several columns, and model.problem_type says that a row has one label")
    count = model.num_labels or len(model.label_names or ()) or len(names)
    if count != len(names):
        yield (
            ("data", "labels"),
            Message(
                "{columns} are {num_columns} columns for num_labels {num_labels}",
                columns=joined(names),
                num_columns=len(names),
                num_labels=count,
            ),
        )


CLASSIFICATION = Classification()
