"""The run directory that a launch works in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LaunchError
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.rundir import lifecycle, records
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event


@dataclass
class Claim:
    """A run directory that this launch may write to."""

    run: RunDir
    is_new: bool
    """Whether it was made for this launch, and nobody named it."""
    has_begun: bool = False

    def begin(self) -> None:
        """The first ranks have started: a new directory becomes `latest`."""
        if not self.has_begun:
            self.has_begun = True
            if self.is_new:
                lifecycle.point_latest(self.run.path)

    def see(self, event: Event) -> None:
        """Hear from an event that ranks have started."""
        if isinstance(event, records.Ranks):
            self.begin()

    def give_up(self) -> None:
        """Nothing was started: a new directory is removed. What was wrong has been said, and nothing else is in it."""
        if self.is_new:
            lifecycle.discard(self.run)


def of_node(loaded: Loaded, plan: Plan, run_dir: Path | None, job: str | None, node_rank: int) -> Claim:
    """Where this node keeps its part of the run: as the user says, by the job's name, or a new folder for a single node.

    Raises:
        LaunchError: several nodes have no name in common, or the folder is another run's.
    """
    output_dir = Path(loaded.spec.output_dir)
    if run_dir is not None:
        return Claim(lifecycle.take(run_dir, plan, node_rank), is_new=False)
    if job is not None:
        return Claim(lifecycle.of_job(output_dir, plan, job, node_rank), is_new=False)
    if plan.num_nodes > 1:
        raise LaunchError(
            "{num_nodes} nodes need --run-dir: nothing here names the job for all of them",
            hint="give every node the same --run-dir DIR; each node but the first keeps its files in a folder "
            "of its own there",
            num_nodes=plan.num_nodes,
        )
    return Claim(lifecycle.new(output_dir, plan.name), is_new=True)


def of_hosts(loaded: Loaded, run_dir: Path | None) -> Claim:
    """Where a job on other hosts is followed from here; each host claims its own part.

    Raises:
        LaunchError: the folder cannot be written to.
    """
    if run_dir is None:
        return Claim(lifecycle.new(Path(loaded.spec.output_dir), loaded.name), is_new=True)
    run = RunDir(run_dir)
    run.create()
    return Claim(run, is_new=False)
