"""`ascend-launch plan`: which strategies fit, and on how many cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher.cli.options import machine_of, machine_options, supervision_of


@click.command(name="plan")
@machine_options
@click.option("--json", "as_json", is_flag=True, help="The plan and every strategy's memory as one JSON object.")
def plan_command(recipe: Path, overrides: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Show what RECIPE would do on these or other cards: every strategy's memory, what fits, what is taken and why."""
    from launcher.jobs import inputs
    from launcher.planning.decide import memory_rows, unmodelled
    from launcher.show.plan import memory, planned

    asked = inputs.gather(recipe, overrides, machine_of(given), supervision_of(given), pretend=True)
    rows = memory_rows(asked.loaded, asked.cluster, asked.options, asked.config)
    if not as_json:  # before a plan that does not fit is refused: the table shows by how much
        memory(rows, unmodelled(asked.cluster, asked.config))
    planned(asked.plan(), asked.loaded, rows, as_json)
