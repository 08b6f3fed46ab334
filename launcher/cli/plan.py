"""`ascend-launch plan`: which strategies fit, and on how many cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher.cli.options import inputs, machine_options


@click.command(name="plan")
@machine_options
@click.option("--json", "as_json", is_flag=True, help="The plan and every strategy's memory as one JSON object.")
def plan_command(recipe: Path, overrides: tuple[str, ...], as_json: bool, **machine: Any) -> None:
    """Show what RECIPE would do on these or other cards: every strategy's memory, what fits, what is taken and why."""
    from launcher.planning.decide import make, memory_rows, unmodelled
    from launcher.show.plan import memory, planned

    loaded, cluster, options, config = inputs(recipe, overrides, machine, debug=False, pretend=True)
    rows = memory_rows(loaded, cluster, options, config)
    if not as_json:
        memory(
            rows, unmodelled(cluster, config)
        )  # before `make` refuses what does not fit: the table shows by how much
    planned(make(loaded, cluster, options, config), loaded, rows, as_json)
