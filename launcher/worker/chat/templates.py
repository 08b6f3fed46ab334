"""Chat templates for base models, whose tokenizers have none: ours by name, or a file's."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.messages import Message, listed
from launcher.recipe.tasks.sft import Chats

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec

TODAY = date(2024, 7, 26)
"""What a template that writes the date gets to know, so that a training is the same on each day."""
CHATML = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
PLAIN = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}

{% elif message['role'] == 'assistant' %}Assistant:{{ ' ' + message['content'] }}{{ eos_token }}
{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
NAMED = {"chatml": CHATML, "plain": PLAIN}
_TOKENS = {CHATML: ("<|im_start|>", "<|im_end|>")}
"""Which each needs, beside an end-of-text token."""


def use(recipe: RecipeSpec, tokenizer: Any) -> None:
    """Give the tokenizer the recipe's chat template, with which it is saved beside the weights.

    Raises:
        LaunchError: no such name, and no such file; or a token that it needs is none of the tokenizer's.
    """
    wanted = Chats.of(recipe.data).chat_template
    if wanted is None:
        return
    tokenizer.chat_template = NAMED.get(wanted) or _file(wanted)
    needed = _TOKENS.get(tokenizer.chat_template, ())
    if not tokenizer.get_vocab().keys() >= set(needed):
        raise LaunchError(
            "data.chat_template: {wanted} needs the tokens {needed}, which this tokenizer does not have",
            hint="use data.chat_template=plain",
            wanted=wanted,
            needed=listed(needed),
        )


def notes(tokenizer: Any) -> list[str]:
    """What the user should know of the chat template."""
    source = tokenizer.chat_template
    if not isinstance(source, str) or "strftime_now" not in source:
        return []
    return [Message("the chat template writes a date: it is {date} in every row", date=TODAY.isoformat())]


def _file(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(
            "data.chat_template {name!r}: {error}",
            hint="name one of {names}, or a file with a Jinja template",
            name=name,
            error=getattr(error, "strerror", None) or "is not UTF-8",
            names=", ".join(NAMED),
        ) from error
