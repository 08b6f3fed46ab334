"""A label for a text, from a classification head."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.messages import Message
from launcher.recipe.tasks.base import Head, Labelled
from launcher.recipe.tasks.table import INTERFACE, OF_CHATS, Data, Model, Problem


class Classification(Labelled, Head):
    """A classification head on the model."""

    interface = INTERFACE
    name = "sequence-classification"
    worker = "launcher.worker.tasks.classification:Classification"
    encoder = "launcher.worker.tasks.prompts:text_encoder"

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        for key in ("prompt", "system", "answers"):
            if getattr(data, key) is not None:
                text = Message(
                    "a classification head reads the text alone; use model.task: {task} for prompts", task=OF_CHATS
                )
                yield ("data", key), text


CLASSIFICATION = Classification()
