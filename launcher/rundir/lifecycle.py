"""Run directories as they are made, taken over by a later launch, and thrown away."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from datetime import datetime, timezone
from pathlib import Path

from launcher.files import FOLDERS
from launcher.planning.plan import Plan
from launcher.rundir import claims
from launcher.rundir.paths import RunDir


def new(output_dir: Path, name: str) -> RunDir:
    """A fresh `<output_dir>/<recipe>/<UTC time>-<id>/`. `point_latest` makes it the latest once its ranks start.

    Raises:
        LaunchError: output_dir cannot be written to.
    """
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    run = RunDir(output_dir / name / f"{stamp}-{secrets.token_hex(2)}")
    run.create()
    return run


def discard(run: RunDir) -> None:
    """Remove the directory of a run that came to nothing, and its recipe's where that holds no other."""
    shutil.rmtree(run.path, ignore_errors=True)
    with contextlib.suppress(OSError):
        run.path.parent.rmdir()


def of_job(output_dir: Path, plan: Plan, job: str, node_rank: int) -> RunDir:
    """The directory of a job that its cluster named: `<output_dir>/<recipe>/<job>/`, the same on every node and after a
    requeue, so that the run goes on from its checkpoint. A second run within one job of one node gets the next free
    `<job>-2`; nodes cannot agree on that, so theirs is refused by `claim`.

    Raises:
        LaunchError: as `create` and `claim`.
    """
    base, tried = output_dir / plan.name / job, 1
    while plan.num_nodes == 1 and not RunDir(base).is_open_to(plan):
        tried += 1
        base = base.with_name(f"{job}-{tried}")
    run = take(base, plan, node_rank)
    point_latest(base)
    return run


def take(path: Path, plan: Plan, node_rank: int) -> RunDir:
    """This node's part of the run directory `path`, made and checked.

    Raises:
        LaunchError: as `create` and `claim`.
    """
    if FOLDERS.fullmatch(
        path.name
    ):  # else a link of such a name, which is the user's, would be taken for a planted one
        path = path.resolve()
    run = for_node(path, node_rank)
    run.create()
    if node_rank and RunDir(path).metrics_path.exists():  # else this node would wait for a first one that was refused
        raise claims.finished(path)
    run.claim(plan)
    return run


def for_node(path: Path, node_rank: int) -> RunDir:
    """A node's own files: the first node's lie in the run directory itself, the others' in folders of theirs there."""
    return RunDir(path / f"node_{node_rank}" if node_rank else path)


def point_latest(path: Path) -> None:
    """Move the link `latest` beside a run's directory to it."""
    link = path.parent / f".latest-{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):  # a file system without links still trains
        link.symlink_to(path.name)
        link.replace(path.parent / "latest")
