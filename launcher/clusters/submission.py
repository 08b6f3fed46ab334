"""A job on its way into a cluster's queue: what it runs, what a cluster makes of it, and its state there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launcher.clusters import paths

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.rundir.outcome import Outcome
    from launcher.rundir.paths import RunDir


@dataclass(frozen=True)
class Work:
    """What every node of a job runs."""

    plan: Plan
    loaded: Loaded
    command: str
    """Of ascend-launch: run, program or command."""
    words: Sequence[str]
    """What follows its options: a recipe and overrides, or a program and its arguments."""
    options: Sequence[str] = ()
    recipe: Path | None = None
    script: Path | None = None
    """The script that a recipe names."""
    files: Sequence[str] = ()
    """Files of this machine that a program's start needs."""

    def argv(self, run_dir: Path | None, recipe: str | None = None) -> list[str]:
        """The arguments of `ascend-launch` on a node.

        Args:
            run_dir: of the run, as the nodes see it; None for the one that is named by the job.
            recipe: where the nodes have the recipe, with the overrides in it; None where it is here.
        """
        argv = [self.command, "--nproc", str(self.plan.nproc_per_node), "--device", self.plan.device]
        argv += ["--run-dir", str(run_dir)] if run_dir is not None else []
        # A recipe or an override may begin with a dash.
        return [*argv, *self.options, *(self.words if recipe is None else ("--", recipe))]


@dataclass(frozen=True)
class Asked:
    """What every cluster is asked for beside a plan."""

    job_name: str | None = None
    run_dir: Path | None = None
    cann: str | None = None
    """CANN's set_env.sh on the nodes; '' for none, None for the cluster's usual way."""


@dataclass(frozen=True)
class Script:
    """A job as its cluster takes it: a batch script or a manifest."""

    text: str
    name: str
    """Of the job."""
    folder: Path
    """The run directory, or the folder that it is made in where the job's id names it."""
    warnings: Sequence[tuple[str, str]] = ()
    """What may be wrong with it: of what, and a sentence."""
    is_run: bool = True
    """Whether `folder` is the run directory."""
    output: str = ""
    """Where the job's output goes, as the scheduler writes it; see `Queue.output`."""


@dataclass(frozen=True)
class Job:
    """A job in a queue, as its scheduler describes it."""

    id: str
    state: str = ""
    """The scheduler's word: PENDING, RUNNING, COMPLETED, …; '' where it does not know the job."""
    reason: str = ""
    nodes: str = ""
    exit_code: int = 0
    restarts: int = 0

    @property
    def has_ended(self) -> bool:
        """By the state; never where it is ''."""
        raise NotImplementedError

    @property
    def may_start_again(self) -> bool:
        """Whether the scheduler itself may turn an end like this one into another start a moment later."""
        return False

    @property
    def was_cancelled(self) -> bool:
        """Whether it ended because somebody ended it, so that no result of it need be waited for."""
        return False


@dataclass(frozen=True)
class Commands:
    """What a person types about a job."""

    end: str = ""
    save: str = ""
    """Has it save, and go back into the queue."""
    logs: str = ""


class Queue(Protocol):
    """How a job is followed from here, where its nodes and this machine see the same files."""

    def run_name(self, job: str) -> str:
        """Of the run directory that is named by the job: what `Cluster.nodes` calls the job on its nodes."""

    def output(self, script: Script, job: str) -> Path:
        """The file that has what the job prints."""

    def look(self, job: str, env: Mapping[str, str]) -> Job | None:
        """The job now; without a state where the scheduler knows no such job; None where it does not answer."""

    def outcome(self, job: Job, run: RunDir, output: Path) -> Outcome:
        """How a job ended, by the scheduler's word and by what the run left."""


class Submission(Protocol):
    """What one job asks of a cluster. `OnSharedFiles` has an answer for what is the same wherever nodes see these files."""

    @property
    def queue(self) -> Queue | None:
        """None where the nodes do not share this machine's files, so that nothing of a run is seen here."""

    def is_theirs(self, path: str) -> bool:
        """Whether a path is one of the job's nodes, which this machine cannot look into."""

    def warnings(self, work: Work) -> list[str]:
        """A sentence for each file that the nodes may not have.

        Raises:
            LaunchError: one that they cannot have.
        """

    def script(self, work: Work, asked: Asked) -> Script:
        """The job's script or manifest.

        Raises:
            LaunchError: a value that the cluster would refuse, or that contradicts the plan.
        """

    def submit(self, script: Script, env: Mapping[str, str]) -> str:
        """Give it to the scheduler; the job's id, or where there is no queue to follow, what was made, an object a line.

        Raises:
            LaunchError: the scheduler's client is missing, or refuses, with its message and a hint.
        """

    def commands(self, job: str) -> Commands:
        """What to type about a job: by its id, or its name where there is no queue to follow."""


class OnSharedFiles:
    """For a cluster whose nodes see the same files."""

    def is_theirs(self, path: str) -> bool:
        return False

    def warnings(self, work: Work) -> list[str]:
        if work.recipe is not None:
            return paths.on_own_disk(work.loaded.spec, work.recipe, work.script)
        return paths.of_this_disk([("program", path) for path in work.files])
