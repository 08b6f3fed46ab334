"""`ascend-launch data`: what a recipe's data becomes before the model, and which tokens of it are trained."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli.options import recipe_arguments


@click.command(name="data")
@recipe_arguments
@click.option(
    "--rows",
    "num_rows",
    type=click.IntRange(0),
    default=3,
    metavar="N",
    help="Rows of each split that are shown [default: 3].",
)
@click.option(
    "--row",
    "chosen",
    type=click.IntRange(0),
    multiple=True,
    metavar="I",
    help="Show this row, counted from 0; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Figures and rows as one JSON object.")
def data_command(
    recipe: Path, overrides: tuple[str, ...], num_rows: int, chosen: tuple[int, ...], as_json: bool
) -> None:
    """Show what RECIPE's rows become, token by token, and which are trained, before anything is launched.

    Shares, lengths, rows that are cut or left out, labels or roles, and rows that are in both training and evaluation. It needs
    the tokenizer, and neither the model's weights nor torch.
    """
    from launcher.jobs import preview
    from launcher.show import data
    from launcher.show.console import print_json

    found = preview.preview(recipe, overrides, num_rows=num_rows, chosen=chosen)
    if as_json:
        print(print_json(found))
    else:
        data.page(found)
    preview.require_rows(found)
