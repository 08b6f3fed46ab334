"""Every file name in a run directory, atomic writes, and the JSON that both sides of the seam read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from launcher import confined
from launcher.confined import NotPlainError
from launcher.errors import LaunchError
from launcher.files import FOLDERS, root_of
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.rundir import claims

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MODEL_NOTE = "ascend_launch.json"
"""Beside the weights in a model folder: the recipe that a text must go through before them, so that the folder alone is
enough to predict with."""

LAST_WORDS = "ASCEND_LAUNCH_LAST_WORDS_FD"
"""A file in memory by which an agent says why the job failed where the run directory takes no file any more."""
LOCK = "ASCEND_LAUNCH_LOCK_FD"
"""The run directory's lock, which a launcher hands on to its agent."""
JOB_SECRET = "ASCEND_LAUNCH_SECRET"  # noqa: S105 its name
"""What all nodes of a job share, to authenticate each other's messages (worker/seal.py). It travels by ssh's standard input, in a
Slurm job's environment, in a Kubernetes Secret, or is the user's own; it is on no command line and in no file of the run, and
ranks do not inherit it."""


_FILES = re.compile(
    r"(recipe|accelerate)\.yaml|(plan|deepspeed|env|data|metrics|worst_rows|failure)\.json|(events|predictions)\.jsonl"
    r"|report\.html|agent\.log|\.lock"
)


class RunDir:
    """One run's directory. Creating the object touches nothing; `create` makes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # fmt: off
    @property
    def recipe_path(self) -> Path: return self.path / "recipe.yaml"
    @property
    def plan_path(self) -> Path: return self.path / "plan.json"
    @property
    def accelerate_path(self) -> Path: return self.path / "accelerate.yaml"
    @property
    def deepspeed_path(self) -> Path: return self.path / "deepspeed.json"
    @property
    def env_path(self) -> Path: return self.path / "env.json"
    @property
    def events_path(self) -> Path: return self.path / "events.jsonl"
    @property
    def data_path(self) -> Path: return self.path / "data.json"
    @property
    def metrics_path(self) -> Path: return self.path / "metrics.json"
    @property
    def predictions_path(self) -> Path: return self.path / "predictions.jsonl"
    @property
    def worst_rows_path(self) -> Path: return self.path / "worst_rows.json"
    @property
    def failure_path(self) -> Path: return self.path / "failure.json"
    @property
    def report_path(self) -> Path: return self.path / "report.html"
    @property
    def checkpoints(self) -> Path: return self.path / "checkpoints"
    @property
    def model_dir(self) -> Path: return self.path / "model"
    @property
    def agent_log(self) -> Path: return self.path / "agent.log"
    @property
    def chunks_path(self) -> Path: return self.path / "chunks"
    # fmt: on

    def attempt(self, number: int) -> Path:
        """The folder of one attempt; a restart is the next attempt."""
        return self.path / f"attempt_{number}"

    def rank_log(self, attempt: int, rank: int) -> Path:
        """Both streams of a rank; of one that has a log for each, see `stdout_log` and `stderr_log`."""
        return self.attempt(attempt) / f"rank_{rank}.log"

    def stdout_log(self, attempt: int, rank: int) -> Path:
        return self.attempt(attempt) / f"rank_{rank}.stdout.log"

    def stderr_log(self, attempt: int, rank: int) -> Path:
        return self.attempt(attempt) / f"rank_{rank}.stderr.log"

    def last_words(self, attempt: int, rank: int) -> Path:
        """The log that a rank's last output is in."""
        separate = self.stderr_log(attempt, rank)
        return separate if separate.exists() else self.rank_log(attempt, rank)

    def error_path(self, attempt: int, rank: int) -> Path:
        return self.attempt(attempt) / f"error_{rank}.json"

    def preempted_mark(self, attempt: int, rank: int) -> Path:
        """There where a rank of a program has saved and ended because it was asked to stop."""
        return self.attempt(attempt) / f"preempted_{rank}"

    @property
    def was_preempted(self) -> bool:
        """Whether ranks of a program saved in the newest attempt, since they were asked to stop."""
        return any(self.attempt(self.last_attempt).glob("preempted_*"))

    def plan(self) -> Plan:
        """plan.json, checked.

        Raises:
            LaunchError: it is missing, cannot be read, or another version of the launcher wrote it.
        """
        try:
            return Plan.model_validate_json(confined.read(self.plan_path))
        except FileNotFoundError:
            raise LaunchError(
                "{plan_path}: no such file", hint="name a run directory", plan_path=self.plan_path
            ) from None
        except OSError as error:
            raise LaunchError(
                "{plan_path}: cannot be read: {problem}",
                hint="name another run directory",
                plan_path=self.plan_path,
                problem=error.strerror,
            ) from None
        except ValidationError as error:
            raise self._not_a_plan(error.errors()[0]) from None

    def _not_a_plan(self, mistake: ErrorDetails) -> LaunchError:
        key = ".".join(map(str, mistake["loc"]))
        where = f"{self.plan_path}: {key}" if key else str(self.plan_path)
        if mistake["type"] == "literal_error":
            return LaunchError(
                "{where}: nothing is called {name!r} here",
                hint="install the package that has it; where none does, another version of ascend-launch wrote the file: "
                "launch again",
                where=where,
                name=mistake["input"],
            )
        return LaunchError(
            "{where}: {problem}",
            hint="it is damaged, or another version of ascend-launch wrote it; launch again",
            where=where,
            problem=mistake["msg"],
        )

    def create(self) -> None:
        """Make the folder.

        Raises:
            LaunchError: it cannot be made or written to, or something in it would lead what is written elsewhere.
        """
        try:
            confined.make_folder(self.path, root_of(self.path))
            with tempfile.TemporaryFile(dir=self.path):
                pass
            self._require_plain()
        except NotPlainError as error:
            raise LaunchError(
                "{filename}: {problem}, and a launch would write to it",
                hint="if you have put it there, put the thing itself in its place; if the run directory came from "
                "somebody else, do not use it: name another --run-dir",
                filename=error.filename,
                problem=error.strerror,
            ) from None
        except OSError as error:
            raise LaunchError(
                "{path}: cannot be written to: {problem}",
                hint="name a writable folder: --run-dir, --out or output_dir=",
                path=self.path,
                problem=error.strerror,
            ) from None

    def _require_plain(self) -> None:
        """Libraries write in here too, and know nothing of `confined`. Raises NotPlainError."""
        for entry in os.scandir(self.path):
            is_file, is_folder = _FILES.fullmatch(entry.name), FOLDERS.fullmatch(entry.name)
            status = entry.stat(follow_symlinks=False)
            mode = status.st_mode
            if is_file and confined.kind(mode):
                raise NotPlainError(entry.path, Message("is {kind}, not a file", kind=confined.kind(mode)))
            if is_file and confined.has_other_names(status):
                raise NotPlainError(entry.path, confined.OTHER_NAMES)
            if is_folder and not stat.S_ISDIR(mode):
                raise NotPlainError(
                    entry.path, Message("is {kind}, not a folder", kind=confined.kind(mode) or Message("a file"))
                )

    def lock(self) -> int:
        """Have the folder to oneself: a file descriptor. The kernel lets go of it when all processes that have it ended,
        however they end.

        Raises:
            LaunchError: another launch holds it.
        """
        handle = confined.open_write(self.path / ".lock", self.path, 0)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise LaunchError(
                "{path}: another launch is at work here", hint="wait for it, or use another --run-dir", path=self.path
            ) from None
        except OSError:  # Lustre without flock, some FUSE, NFS without lockd: nothing can tell launches apart there
            pass
        return handle

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock, or the one that the launcher took for this process (LOCK in its environment).

        Raises:
            LaunchError: another launch holds it.
        """
        inherited = os.environ.pop(LOCK, None)
        handle = self.lock() if inherited is None else int(inherited)
        os.set_inheritable(handle, False)  # forks have it all the same; a program that a rank starts must not
        try:
            yield
        finally:
            os.close(handle)

    def is_held(self) -> bool:
        """Whether a launch is at work here; nothing is made or changed to find out."""
        try:
            with os.fdopen(confined.open_read(self.path / ".lock"), "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no such file, or not ours to read
            return False
        return False

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is work to go on from."""
        return any(self.checkpoints.glob("checkpoint-*"))

    def _came_to_nothing(self) -> bool:
        """Whether a launch ended before its first rank, by a mistake in the recipe: a corrected one may take its place."""
        return self.events_path.exists() and not any(self.path.glob("attempt_*/rank_*.log"))

    @property
    def last_attempt(self) -> int:
        """The number of the newest attempt; -1 before the first."""
        names = (re.fullmatch(r"attempt_([0-9]{1,9})", p.name) for p in self.path.glob("attempt_*"))
        return max((int(name[1]) for name in names if name), default=-1)

    def claim(self, plan: Plan, finish: str = "") -> None:
        """Check that `plan` may run here: the folder is fresh, or holds the same recipe's unfinished run, which then
        goes on from its newest checkpoint. `finish` is the command that finishes a run of another recipe, where it is
        not the plain one.

        Raises:
            LaunchError: another launch is at work here, the run is finished, or it is another recipe's.
        """
        if not self.plan_path.exists():
            return
        with self.hold():
            pass
        if self.metrics_path.exists():
            raise claims.finished(self.path)
        before = self.plan()
        changed = claims.changed(plan, before)
        if changed and not self._came_to_nothing():
            raise LaunchError(
                "{path}: holds an unfinished run of another recipe ({changed} differ)",
                hint="name a new --run-dir, or finish that run: {finish}",
                path=self.path,
                changed=", ".join(changed),
                finish=finish or claims.finishing_command(before, self.path, self.recipe_path),
            )

    def is_open_to(self, plan: Plan) -> bool:
        """Whether `plan` would start or go on here: nothing is here, or an unfinished run of the same recipe."""
        if not self.plan_path.exists():
            return True
        return not self.metrics_path.exists() and not claims.changed(plan, self.plan())


def plan_beside(recipe: Path) -> Plan | None:
    """The plan of the run whose own recipe a file is; None where its name would lead a new run elsewhere."""
    run = RunDir(recipe.parent)
    if recipe.name != run.recipe_path.name or not run.plan_path.is_file():
        return None
    with contextlib.suppress(LaunchError):
        plan = run.plan()
        return plan if re.fullmatch(r"[^/\0]+", plan.name) and plan.name not in (".", "..") else None
    return None


def make_folder(path: Path) -> None:
    """Make a folder of a run directory, and those above it. Raises OSError as `write_text`."""
    confined.make_folder(path, root_of(path))


def open_append(path: Path) -> int:
    """A descriptor that adds to a file of a run directory. Raises OSError as `write_text`."""
    return confined.open_write(path, root_of(path.parent), os.O_APPEND)


def touch(path: Path) -> None:
    """Make an empty file of a run directory. Raises OSError as `write_text`."""
    os.close(confined.open_write(path, root_of(path.parent), 0))


def remove(path: Path) -> None:
    """Remove a file or a whole folder of a run directory, where it is there. Raises OSError as `write_text`."""
    confined.remove(path, root_of(path.parent))
