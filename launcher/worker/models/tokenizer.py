"""The tokenizer, with a token to pad with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.text import first_line
from launcher.worker.chat import templates
from launcher.worker.models.hub import snapshot

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec


def tokenizer_folder(recipe: RecipeSpec, folder: Path) -> Path:
    """Where the tokenizer is: the model's own folder unless the recipe names another."""
    other = recipe.model.tokenizer
    if other is None:
        return folder
    path = Path(other).expanduser()
    return path if path.is_dir() else snapshot(other, None, recipe.model.hub, weights=False)


def load_tokenizer(recipe: RecipeSpec, folder: Path) -> Any:
    """The tokenizer, with a pad token: its own, else the end-of-text token, as for Llama 3, which has none.

    A task says on which side it pads.

    Raises:
        LaunchError: it cannot be read, or has neither pad nor end-of-text token, or the recipe's chat template is none.
    """
    from transformers import AutoTokenizer

    path = tokenizer_folder(recipe, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LaunchError(
            "{path}: the tokenizer cannot be read: {first_line}",
            hint="the folder needs tokenizer.json; or name another with model.tokenizer",
            path=path,
            first_line=first_line(error),
        ) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise LaunchError(
                "{path}: the tokenizer has neither a pad nor an end-of-text token",
                hint="add pad_token to its tokenizer_config.json",
                path=path,
            )
        tokenizer.pad_token = tokenizer.eos_token
    templates.use(recipe, tokenizer)
    tokenizer.padding_side = recipe.task.padding_side
    return tokenizer


def set_pad_token(config: Any, tokenizer: Any) -> None:
    """A classification head looks for the last token that is not padding, and needs to know which that is."""
    for part in (config, config.get_text_config()):
        part.pad_token_id = tokenizer.pad_token_id


def notes(recipe: RecipeSpec, tokenizer: Any, config: Any) -> list[str]:
    """What the user should know about this tokenizer with this model.

    Raises:
        LaunchError: the tokenizer has ids that the model's embedding has no row for.
    """
    messages: list[str] = []
    vocab = getattr(config.get_text_config(), "vocab_size", None)
    if vocab is not None and len(tokenizer) > vocab:
        raise LaunchError(
            "the tokenizer has {num_tokenizer} tokens, the model's embedding only {vocab}",
            hint="model.tokenizer must be the model's own",
            num_tokenizer=len(tokenizer),
            vocab=vocab,
        )
    if vocab is not None and len(tokenizer) < 0.999 * vocab:
        messages.append(
            Message(
                "the tokenizer has {num_tokenizer} tokens, the model's embedding {vocab}: is it the model's own?",
                num_tokenizer=len(tokenizer),
                vocab=vocab,
            )
        )
    if recipe.task.has_conversations:
        messages += templates.notes(tokenizer)
    elif not recipe.task.has_head and tokenizer.chat_template is None:
        messages.append("the tokenizer has no chat template: prompts are plain text")
    return messages
