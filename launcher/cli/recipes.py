"""recipes: the shipped ones, listed, shown and copied."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli import outputs
from launcher.cli.options import complete_name
from launcher.errors import LaunchError
from launcher.messages import Message, translated
from launcher.recipe.tasks import table as tasks


@click.group(name="recipes", invoke_without_command=True)
@click.pass_context
def recipes_group(ctx: click.Context) -> None:
    """List the shipped recipes, show one, or copy one to start your own."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(recipes_list, as_json=False)


@recipes_group.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Names and paths as JSON.")
def recipes_list(as_json: bool) -> None:
    """List the shipped recipes."""
    from launcher import assets
    from launcher.show import results

    results.recipes(assets.recipes(), as_json)


@recipes_group.command(name="show")
@click.argument("name", shell_complete=complete_name)
def recipes_show(name: str) -> None:
    """Print the shipped recipe NAME."""
    click.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@recipes_group.command(name="copy")
@click.argument("name", shell_complete=complete_name)
@click.argument("target", type=outputs.Target(), default=Path())
def recipes_copy(name: str, target: Path) -> None:
    """Copy the shipped recipe NAME to TARGET, a file or a folder [.]; nothing is overwritten."""
    source = _shipped(name)
    target = target / source.name if target.is_dir() else target
    outputs.write(target, source.read_text(encoding="utf-8"), force=False, can_force=False)
    click.echo(f"{target}")


@recipes_group.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="FILE",
    type=outputs.Target(),
    help="File to write the recipe to; an existing one is not overwritten [default: print it].",
)
@click.option(
    "--nproc",
    type=click.IntRange(1),
    help="Ranks that FILE was run on; the global batch follows [default: what FILE says, else 1].",
)
@click.option(
    "--task",
    type=click.Choice(sorted(tasks.BUILT_IN)),
    help="What the model learns: sft, to write the responses; causal-lm, which of a few responses a text has; "
    "sequence-classification, the same with a classification head [default: sft; with --labels: causal-lm].",
)
@click.option(
    "--labels",
    metavar="A,B,…",
    help="The responses that are labels, in the order of their numbers [default: those in the data].",
)
def recipes_import(file: Path, out: Path | None, nproc: int | None, task: str | None, labels: str | None) -> None:
    """Make a recipe of FILE, a training file of LLaMA-Factory, ms-swift or axolotl, and list on stderr what it cannot keep."""
    from launcher.recipe.importers import table as importers

    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    task = task or (tasks.OF_CHATS if names else tasks.THAT_WRITES)
    made = importers.convert(file, nproc=nproc, task=task, labels=names)
    if out is None:
        click.echo(made.text, nl=False)
    else:
        outputs.write(out, made.text, force=False, can_force=False)
        click.echo(f"{out}")
    for left in made.left:
        click.echo(
            translated(
                Message(
                    "{file}:{where}: {key} is not kept: {reason}",
                    file=file,
                    where=left.where,
                    key=left.key,
                    reason=left.reason,
                )
            ),
            err=True,
        )


def _shipped(name: str) -> Path:
    import difflib

    from launcher import assets

    shipped = {path.stem: path for path in assets.recipes()}
    path = shipped.get(name.removesuffix(".yaml"))
    if path is None:
        close = difflib.get_close_matches(name, shipped, n=1)
        raise LaunchError(
            Message("no shipped recipe {name!r}", name=name),
            hint=Message("did you mean {close}?", close=close[0])
            if close
            else Message("one of {place}", place=", ".join(shipped)),
        )
    return path
