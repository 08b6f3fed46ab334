"""The options of commands that have a model write: settings of transformers' generate, by its own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from launcher.cli.options import with_options
from launcher.errors import LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.jobs.predict import Writing
    from launcher.recipe.schema import Generation

SAMPLING = ("temperature", "top_p", "top_k")
"""Settings that mean something only where tokens are drawn."""
_SETTINGS = ("max_new_tokens", "do_sample", *SAMPLING, "num_beams", "repetition_penalty", "seed")


def generation_options(command: Any) -> Any:
    options = [
        click.option(
            "--max-new-tokens",
            type=click.IntRange(1),
            metavar="N",
            help="Longest answer, in tokens [default: as in the recipe or the model's generation_config.json, else 256].",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(0, min_open=True),
            metavar="T",
            help="Draw tokens by their probabilities at this temperature; implies --do-sample.",
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            metavar="P",
            help="Draw from the most probable tokens that make up P together; implies --do-sample.",
        ),
        click.option(
            "--top-k",
            type=click.IntRange(1),
            metavar="K",
            help="Draw from the K most probable tokens; implies --do-sample.",
        ),
        click.option(
            "--do-sample/--no-do-sample",
            default=None,
            help="Draw tokens, or take the most probable one [default: as in the recipe or the model's files].",
        ),
        click.option("--num-beams", type=click.IntRange(1), metavar="N", help="Search with N beams."),
        click.option(
            "--repetition-penalty",
            type=click.FloatRange(0, min_open=True),
            metavar="X",
            help="Make tokens that are there already less probable, where X is above 1.",
        ),
        click.option(
            "--seed", type=click.IntRange(0), metavar="N", help="Seed of the drawing [default: the recipe's, or 42]."
        ),
        click.option("--system", metavar="TEXT", help="System message where there is none [default: the recipe's]."),
        click.option(
            "--chat-template",
            metavar="NAME|FILE",
            help="Chat template, for a model whose tokenizer has none: chatml, plain, or a Jinja file.",
        ),
    ]
    return with_options(options, command)


def writing_of(given: dict[str, Any], recipe: Generation | None, *, is_chat: bool = True) -> Writing:
    """What these options ask for; they are taken out of `given`. `recipe`: what they come before.

    Raises:
        LaunchError: they contradict each other, or beams of the recipe.
    """
    from launcher.jobs.predict import Writing

    values = {name: given.pop(name) for name in _SETTINGS}
    settings = {name: value for name, value in values.items() if value is not None}
    draws = [name for name in ("do_sample", *SAMPLING) if name in settings]
    if draws:
        settings.setdefault("do_sample", True)
    _require_together(settings, recipe, draws)
    others = {name: given.pop(name) for name in ("system", "chat_template")}
    return Writing(settings, is_chat=is_chat, **others)


def _require_together(settings: dict[str, Any], recipe: Generation | None, draws: list[str]) -> None:
    """`draws`: the options that say whether tokens are drawn, of which one may imply another."""
    from launcher.recipe import generation_rules
    from launcher.recipe.schema import Generation

    of_recipe = recipe.num_beams if recipe is not None and "num_beams" not in settings else None
    asked = Generation().model_copy(update={"num_beams": of_recipe, **settings})
    beams = "--num-beams" if of_recipe is None else Message("the recipe's num_beams: {count}", count=of_recipe)
    for (_, key), what in generation_rules.together(asked, sampling="--do-sample", beam_search=beams):
        name = draws[0] if key == "do_sample" else str(key)
        raise LaunchError(
            "{option}: {what}",
            hint="" if of_recipe is None else "--num-beams 1 has it draw",
            option="--" + name.replace("_", "-"),
            what=what,
        )
