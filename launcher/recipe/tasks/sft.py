"""Conversations and texts, as a causal language model writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from launcher.messages import Message, joined
from launcher.recipe import jinja
from launcher.recipe.tasks.base import LanguageModel
from launcher.recipe.tasks.table import INTERFACE, Data, Model, Problem

TrainOn = Literal["answers", "last", "all"]
TooLong = Literal["cut", "drop", "split"]
_CHOICES = {"train_on": get_args(TrainOn), "too_long": get_args(TooLong)}
TOO_LONG: dict[bool, TooLong] = {False: "cut", True: "split"}
"""What becomes of conversations, and of plain texts, that are too long where the recipe does not say."""


@dataclass(frozen=True)
class Chats:
    """What a recipe says of its conversations."""

    chat_template: str | None
    """A name of ours, or a file; None for the tokenizer's own."""
    train_on: TrainOn
    thinking: bool
    """Whether thinking blocks with nothing in them are trained."""
    too_long: TooLong | None
    packing: bool
    """Whether several rows share a sequence of max_length tokens."""

    @classmethod
    def of(cls, data: Data) -> Chats:
        return cls(
            chat_template=getattr(data, "chat_template", None),
            train_on=getattr(data, "train_on", "answers"),
            thinking=getattr(data, "thinking", False),
            too_long=getattr(data, "too_long", None),
            packing=getattr(data, "packing", False),
        )


class Sft(LanguageModel):
    """What assistants say in conversations is learnt, or all of a text."""

    interface = INTERFACE
    name = "sft"
    worker = "launcher.worker.tasks.sft:Sft"
    encoder = "launcher.worker.chat.encode:encoder"
    has_labels = False
    has_conversations = True
    padding_side = "right"
    logits_in_chunks = True
    data_keys: ClassVar[dict[str, str]] = {
        "chat_template": "Chat template of a model whose tokenizer has none: a name (chatml, plain) or a FILE.jinja.",
        "train_on": "What of a conversation is trained: answers, the last answer, or all of it.",
        "thinking": "Whether a thinking block with nothing in it is trained.",
        "too_long": "Rows of more than max_length tokens: cut, drop, or split into several rows. Default: cut for conversations, split for plain texts.",
        "packing": "Whether rows share sequences of max_length tokens, without seeing each other; then a batch counts sequences.",
    }
    default_metrics: tuple[str, ...] = ("perplexity", "token_accuracy")
    columns: tuple[str, ...] = ("correct",)
    needs_recipe: str = ""
    writes = True

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        for key in ("num_labels", "label_names"):
            if getattr(model, key) is not None:
                yield ("model", key), Message("conversations and texts have no labels")
        if data.answers is not None:
            yield ("data", "answers"), Message("conversations and texts have no labels")
        for key, choices in _CHOICES.items():
            value = getattr(data, key, choices[0])
            if value not in choices:
                yield (
                    ("data", key),
                    Message("expected one of {choices}, got {value!r}", choices=joined(choices), value=value),
                )
        for key in ("thinking", "packing"):
            if not isinstance(value := getattr(data, key, False), bool):
                yield ("data", key), Message("expected true or false, got {value!r}", value=value)
        if not isinstance(value := getattr(data, "chat_template", "chatml"), str):
            yield ("data", "chat_template"), Message("expected a name or a file, got {value!r}", value=value)
        elif (file := Path(value).expanduser()).is_file() and (broken := jinja.problem(file)):
            yield ("data", "chat_template"), broken

    def has_mask(self, data: Data) -> bool:
        return Chats.of(data).packing  # padded on the right, where no token sees the padding

    def reads(self, data: Data) -> dict[str, str]:
        return {"data.path": "conversation"}

    def is_answered(self, answer: Any) -> bool:
        return answer is not None

    def answer(self, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        return dict(answer)


SFT = Sft()
