"""recipes: the shipped ones, listed, shown and copied."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.errors import LaunchError


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
    from launcher import assets, show

    show.recipes(assets.recipes(), as_json)


@recipes_group.command(name="show")
@click.argument("name")
def recipes_show(name: str) -> None:
    """Print the shipped recipe NAME."""
    click.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@recipes_group.command(name="copy")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), default=Path())
def recipes_copy(name: str, target: Path) -> None:
    """Copy the shipped recipe NAME to TARGET, a file or a folder [.]; nothing is overwritten."""
    source = _shipped(name)
    target = target / source.name if target.is_dir() else target
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise LaunchError(f"{target}: exists already", hint="name another TARGET") from None
    except OSError as error:
        raise LaunchError(f"{target}: cannot be written: {error.strerror}", hint="name a writable TARGET") from None
    click.echo(f"{target}")


def _shipped(name: str) -> Path:
    import difflib

    from launcher import assets

    there = {path.stem: path for path in assets.recipes()}
    found = there.get(name.removesuffix(".yaml"))
    if found is None:
        close = difflib.get_close_matches(name, there, n=1)
        raise LaunchError(
            f"no shipped recipe {name!r}", hint=f"did you mean {close[0]}?" if close else f"one of {', '.join(there)}"
        )
    return found
