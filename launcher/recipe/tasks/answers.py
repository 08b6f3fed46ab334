"""A label for a text, as a causal language model writes it."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.messages import Message, plural
from launcher.recipe.tasks.base import Labelled, LanguageModel
from launcher.recipe.tasks.table import INTERFACE, Data, Model, Problem


class Answers(Labelled, LanguageModel):
    """A chat whose answer is the label."""

    interface = INTERFACE
    name = "causal-lm"
    worker = "launcher.worker.tasks.answers:Answering"
    encoder = "launcher.worker.tasks.prompts:answer_encoder"
    answer_positions = 32
    """Answers are a word or two; this is ample."""

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        count = model.num_labels or len(model.label_names or ()) or None
        if data.prompt is not None and "{text}" not in data.prompt:
            yield ("data", "prompt"), Message("has no {text}, so every row would look the same")
        if data.answers is not None:
            if count is not None and len(data.answers) != count:
                yield (
                    ("data", "answers"),
                    plural(
                        "{count} answer for num_labels {num_labels}",
                        "{count} answers for num_labels {num_labels}",
                        count=len(data.answers),
                        num_labels=count,
                    ),
                )
            if len(set(data.answers)) < len(data.answers):
                yield ("data", "answers"), Message("two labels have the same answer")


ANSWERS = Answers()
