"""Whether a plan may go on with the run that a directory holds; and what to do where it may not."""

from __future__ import annotations

import re
from pathlib import Path

from launcher import again
from launcher.errors import LaunchError
from launcher.files import read_json
from launcher.planning.plan import Plan


def finished(path: Path) -> LaunchError:
    """Of a run directory that no launch goes on in: what it may be used for."""
    if read_json(path / "metrics.json") is None:
        return LaunchError(
            "{path}: is damaged",
            hint="remove it, and the run is finished from its newest checkpoint",
            path=path / "metrics.json",
        )
    return LaunchError(
        "{path}: this run is finished",
        hint="name a new --run-dir, or leave it out; ascend-launch report {path} makes its report anew",
        path=path,
    )


_FREE = {"strategy": "auto", "micro_batch_size": "auto", "eval_batch_size": "auto", "deepspeed": None}
"""What a checkpoint does not depend on, as it does not on the number of ranks."""


def changed(plan: Plan, before: Plan) -> list[str]:
    """In which sections of the recipe two plans differ, so that one cannot go on with the other's run."""
    one, other = (
        recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=_FREE), "report": True})
        for recipe in (plan.recipe, before.recipe)
    )
    sections = [k for k in type(one).model_fields if k != "code" and getattr(one, k) != getattr(other, k)]
    sections += [file for file in {**one.code, **other.code} if one.code.get(file) != other.code.get(file)]
    return sections or ([before.name] if plan.name != before.name else [])


def finishing_command(before: Plan, path: Path, recipe: Path) -> str:
    """The command that finishes the run in `path` from its own plan and recipe."""
    node = re.fullmatch(r"node_(\d+)", path.name) if before.num_nodes > 1 else None
    words = before.options(int(node[1]) if node else 0)
    if before.use is not None:
        words = ["--checkpoint", before.use.weights, *words]
    mode = "run" if before.use is None else before.use.mode
    folder = path.parent if node else path
    return again.command([mode, *words, "--run-dir", str(folder), str(recipe)])
