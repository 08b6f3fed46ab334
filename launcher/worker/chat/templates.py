"""Chat templates for base models, whose tokenizers have none: ours by name, or a file's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.recipe.tasks.sft import Chats

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec

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
"""chatml needs the tokens <|im_start|> and <|im_end|>; plain any end-of-text token."""


def use(recipe: RecipeSpec, tokenizer: Any) -> None:
    """Give the tokenizer the recipe's chat template, with which it is saved beside the weights.

    Raises:
        LaunchError: no such name, and no such file.
    """
    wanted = Chats.of(recipe.data).chat_template
    if wanted is not None:
        tokenizer.chat_template = NAMED.get(wanted) or _file(wanted)


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
