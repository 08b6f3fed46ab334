"""What a recipe's data becomes, found by a process of the rank side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.jobs import health, inputs, tool


def preview(recipe: Path, overrides: tuple[str, ...], *, num_rows: int, chosen: tuple[int, ...]) -> dict[str, Any]:
    """Every split's facts and some of its rows, as `launcher.worker.preview` says them.

    Raises:
        LaunchError: what a launch would refuse; or the recipe is a program, whose data nobody knows.
    """
    spec = inputs.load(recipe, overrides, trains_here=False).spec
    if spec.script is not None:
        raise LaunchError("a recipe with `script:` reads its data itself")
    health.require_packages(("transformers", "datasets"))
    request = {"recipe": spec.model_dump(mode="json"), "num_rows": num_rows, "chosen": chosen}
    found = tool.tool("launcher.worker.preview", request)
    require_chosen(found, chosen)
    return found


def require_chosen(found: Mapping[str, Any], chosen: tuple[int, ...]) -> None:
    """Raises LaunchError: a row is to be shown that no split has."""
    most = max(split["rows"] for split in found["splits"].values())
    for row in chosen:
        if row >= most:
            raise LaunchError(
                "--row {row}: rows are counted from 0, and the last one is {last}", row=row, last=most - 1
            )


def require_rows(found: Mapping[str, Any]) -> None:
    """Raises LaunchError: nothing is left of a split, which a launch refuses."""
    for name, split in found["splits"].items():
        if not split["become"]:
            raise LaunchError(
                "{name}: none of the {count:,} rows is left: {reason}",
                name=name,
                count=split["rows"],
                reason=found["left_out"],
            )
