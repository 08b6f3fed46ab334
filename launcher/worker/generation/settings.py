"""How a model writes: the recipe's settings, over those of the model's generation_config.json, over defaults."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.recipe.schema import Generation, default_new_tokens
from launcher.recipe.tasks.sft import Chats
from launcher.text import first_line
from launcher.worker.chat import prompts
from launcher.worker.tasks.base import base_model

if TYPE_CHECKING:
    from transformers import GenerationConfig, LogitsProcessor

    from launcher.recipe.schema import RecipeSpec

TOP_K = 50
"""`generate`'s own, where neither says from how many tokens to draw."""

_OF_DRAWS = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Settings:
    """What `generate` gets."""

    config: GenerationConfig
    """Always of a search, also where tokens are drawn: then `warpers` and the rows' own draws come before it."""
    draws: bool
    """Whether tokens are drawn."""
    seed: int
    warpers: Sequence[LogitsProcessor]
    """What changes the likelihoods that are drawn from."""
    stop_strings: Sequence[str]

    @property
    def new_tokens(self) -> int:
        """Tokens of a text at most."""
        return int(self.config.max_new_tokens)

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end a text."""
        return frozenset(self.config.eos_token_id or ())


def settings(recipe: RecipeSpec, model: Any, tokenizer: Any) -> Settings:
    """Of a model, its adapter included, with its tokenizer.

    Raises:
        LaunchError: `generate` refuses them; the sentence is its own.
    """
    asked = recipe.generation or Generation()
    config = copy.deepcopy(base_model(model).generation_config)
    given = asked.given()
    draws, *of_draws = (given.pop(name, getattr(config, name)) for name in ("do_sample", *_OF_DRAWS))
    strings = given.get("stop_strings", config.stop_strings) or ()
    strings = [strings] if isinstance(strings, str) else list(strings)
    given |= {
        "max_new_tokens": given.get("max_new_tokens", config.max_new_tokens) or default_new_tokens(positions(model)),
        "stop_strings": strings or None,
        "eos_token_id": _ends(config, prompts.stops(tokenizer, Chats.of(recipe.data))),
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
        **dict.fromkeys(_OF_DRAWS),
        "use_cache": True,
        "num_return_sequences": 1,
        "return_dict_in_generate": False,
    }
    try:
        config.update(**given)
    except ValueError as error:
        raise LaunchError("generation: {error}", hint="change it in the recipe", error=first_line(error)) from error
    # Beams are followed, and nothing is drawn: so a model that says do_sample can be searched by num_beams alone.
    draws = bool(draws) and (config.num_beams or 1) == 1
    return Settings(config, draws, asked.seed, _warpers(*of_draws) if draws else (), strings)


def positions(model: Any) -> int | None:
    """How many a model has, its adapter aside; None where its config does not say."""
    found: int | None = getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)
    return found


def _ends(config: GenerationConfig, stops: Sequence[int]) -> list[int] | None:
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return list(dict.fromkeys(one for one in (*own, *stops) if one is not None)) or None


def _warpers(
    temperature: float | None, top_k: int | None, top_p: float | None, min_p: float | None
) -> list[LogitsProcessor]:
    """Those of `generate`, in its order."""
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    made: list[LogitsProcessor] = []
    if temperature not in (None, 1.0):
        made.append(TemperatureLogitsWarper(temperature))
    if top_k := TOP_K if top_k is None else top_k:
        made.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        made.append(TopPLogitsWarper(top_p))
    if min_p:
        made.append(MinPLogitsWarper(min_p))
    return made
