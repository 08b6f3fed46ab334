"""What most tasks have in common: rows with a text and a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.messages import Message
from launcher.recipe.tasks.table import ONE_LABEL, TOKENS, Data, Model, Problem

SCORES = "scores"
"""A column of an evaluation: the model's numbers for each label, before they become probabilities."""
PROBABILITIES = "probabilities"
TEXT = "text"
NAMES = "names"
LOSS = "loss"
LABEL = "data.label"


class Answered:
    """What is written of an answer does not depend on what was asked."""

    def answer(self, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError

    def answer_to(self, item: Any, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        return self.answer(answer, label_names)


class Labelled(Answered):
    """Each row has a text and one of a few labels."""

    has_labels = True
    has_conversations = False
    data_keys: Mapping[str, str] = {}
    default_metrics: tuple[str, ...] = ("accuracy", "f1")
    columns: tuple[str, ...] = ("label", "prediction")
    more_columns: tuple[str, ...] = (SCORES, PROBABILITIES)
    adds: tuple[str, ...] = (TEXT, NAMES, PROBABILITIES, LOSS)

    def targets(self, model: Model, data: Data) -> str:
        return ONE_LABEL

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        yield from ()

    def reads(self, data: Data) -> dict[str, str]:
        return {"data.text": data.text}

    def metrics(self, model: Model, data: Data) -> tuple[str, ...]:
        return self.default_metrics

    def label_columns(self, data: Data) -> dict[str, str]:
        return {LABEL: data.label}

    def is_answered(self, answer: Any) -> bool:
        return answer[0] is not None

    def answer(self, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        label, shares = answer
        name = None if label is None else label_names[label]
        return {"label": label, "label_name": name, "probabilities": shares}


class Head:
    """The model gets a classification head."""

    has_head = True
    architecture = "ForSequenceClassification"
    mapping = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
    adapter_type = "SEQ_CLS"
    pipeline = "text-classification"
    padding_side = "right"
    answer_positions: int | None = None
    logits_in_chunks = False
    needs_recipe = ""
    writes = False
    encoder: str = ""

    def has_mask(self, data: Data) -> bool:
        return True


class LanguageModel(Answered):
    """The model keeps its language-modelling head."""

    has_head = False
    has_conversations = False
    default_metrics: tuple[str, ...] = ()
    architecture = "ForCausalLM"
    mapping = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
    adapter_type = "CAUSAL_LM"
    pipeline = "text-generation"
    padding_side = "left"
    answer_positions: int | None = None
    logits_in_chunks = False
    writes = False
    encoder: str = ""
    more_columns: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    needs_recipe: str = Message("a causal LM, and nothing beside it says which prompt and answers it knows")

    def targets(self, model: Model, data: Data) -> str:
        return TOKENS

    def metrics(self, model: Model, data: Data) -> tuple[str, ...]:
        return self.default_metrics

    def label_columns(self, data: Data) -> dict[str, str]:
        return {}

    def has_mask(self, data: Data) -> bool:
        return True
