"""completion: the script that lets a shell complete commands, options, recipes and KEY= overrides. click's own machinery.

What a completion has to look up is imported when a shell asks (COMPLETE_VAR in the environment).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from launcher.cli.commands import COMPLETE_VAR

SECTIONS_OF_FREE_KEYS = ("training",)


class _Bash(BashComplete):
    # A word that ends with = or / goes on: no space after it.
    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", 'COMPREPLY+=("$value"); [[ $value == *[=/] ]] && compopt -o nospace'
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor. Bash splits words at `=`, which marks a value; values are not completed."""
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], incomplete


def register() -> None:
    """Take our script for bash in place of click's."""
    add_completion_class(_Bash)


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL: `eval "$(ascend-launch completion bash)"` in ~/.bashrc turns it on."""
    register()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "ascend-launch", COMPLETE_VAR).source())


def recipe_paths(incomplete: str) -> list[CompletionItem[str]]:
    """Folders and YAML files that begin so; else shipped recipes of that name."""
    folder, _, start = incomplete.rpartition("/")
    base = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".")
    prefix = incomplete[: len(incomplete) - len(start)]
    names = []
    try:
        for path in sorted(base.iterdir()):
            if path.name.startswith(start) and (start.startswith(".") or not path.name.startswith(".")):
                if path.is_dir():
                    names.append(f"{prefix}{path.name}/")
                elif path.suffix in (".yaml", ".yml"):
                    names.append(f"{prefix}{path.name}")
    except OSError:
        pass
    if not names and start and not folder:
        from launcher import assets

        names = [path.stem for path in assets.recipes() if path.stem.startswith(start)]
    return [CompletionItem(name) for name in names]


def recipe_names(incomplete: str) -> list[CompletionItem[str]]:
    """Names of the shipped recipes."""
    from launcher import assets

    return [CompletionItem(path.stem) for path in assets.recipes() if path.stem.startswith(incomplete)]


def keys(incomplete: str) -> list[CompletionItem[str]]:
    """`section.key=` for every key of a recipe."""
    return [CompletionItem(f"{key}=") for key in sorted(_keys()) if key.startswith(incomplete)]


def _keys() -> Iterator[str]:
    from pydantic import BaseModel

    from launcher.recipe import messages, training_fields
    from launcher.recipe.schema import RecipeSpec

    def below(model: type[BaseModel], path: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            section = next(iter(messages.sections_in(field.annotation)), None)
            if section is not None:
                yield from below(section, f"{path}{name}.")
            elif path or name not in SECTIONS_OF_FREE_KEYS:
                yield f"{path}{name}"

    yield from below(RecipeSpec, "")
    yield from (f"training.{name}" for name in training_fields.fields() if name not in training_fields.OWNED)
