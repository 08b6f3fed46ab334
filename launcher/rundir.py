"""Every file name in a run directory, atomic writes, and the JSON that both sides of the seam read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from launcher import again, confined, records, scrub
from launcher.confined import NotPlainError
from launcher.errors import LaunchError
from launcher.plan import Plan
from launcher.records import Event, Failure

MODEL_NOTE = "ascend_launch.json"
"""Beside the weights in a model folder: the recipe that a text must go through before them, so that the folder alone is
enough to predict with."""

LAST_WORDS = "ASCEND_LAUNCH_LAST_WORDS_FD"
"""A file in memory by which an agent says why the job failed where the run directory takes no file any more."""
LOCK = "ASCEND_LAUNCH_LOCK_FD"
"""The run directory's lock, which a launcher hands on to its agent."""
JOB_SECRET = "ASCEND_LAUNCH_SECRET"  # noqa: S105 its name
"""What all nodes of a job share, and know each other's words by (worker/seal.py). It travels by ssh's standard input, in a
Slurm job's environment, in a Kubernetes Secret, or is the user's own; it is on no command line and in no file of ours, and
ranks do not inherit it."""

MAX_LINE = 16 << 20
"""Bytes of one event. A file with a longer line is none of ours."""
_FILES = re.compile(
    r"(recipe|accelerate)\.yaml|(plan|deepspeed|env|data|metrics|failure)\.json|(events|predictions)\.jsonl"
    r"|report\.html|agent\.log|\.lock"
)
_FOLDERS = re.compile(
    r"checkpoints|model|chunks|nodes|plog|tensorboard|swanlab|wandb|(node|attempt)_[0-9]+"
    r"|(\.(tmp|old|before)-)?(checkpoint-[0-9]+|model)"
)
"""The names that a launch writes to in a run directory, at any depth."""


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
        """The log that a rank's last words are in."""
        separate = self.stderr_log(attempt, rank)
        return separate if separate.exists() else self.rank_log(attempt, rank)

    def error_path(self, attempt: int, rank: int) -> Path:
        return self.attempt(attempt) / f"error_{rank}.json"

    def plan(self) -> Plan:
        """plan.json, checked.

        Raises:
            LaunchError: it is missing, cannot be read, or another version of the launcher wrote it.
        """
        try:
            return Plan.model_validate_json(confined.read(self.plan_path))
        except FileNotFoundError:
            raise LaunchError(f"{self.plan_path}: no such file", hint="name a run directory") from None
        except OSError as error:
            raise LaunchError(f"{self.plan_path}: cannot be read: {error.strerror}", hint="name another run directory") from None  # fmt: skip
        except ValidationError as error:
            first = error.errors()[0]
            raise LaunchError(
                ": ".join(
                    [str(self.plan_path), *([".".join(map(str, first["loc"]))] if first["loc"] else []), first["msg"]]
                ),
                hint="it is damaged, or another version of ascend-launch wrote it; launch again",
            ) from None

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
                f"{error.filename}: {error.strerror}, and a launch would write to it",
                hint="if you have put it there, put the thing itself in its place; if the run directory came from somebody "
                "else, do not use it: name another --run-dir",
            ) from None
        except OSError as error:
            raise LaunchError(
                f"{self.path}: cannot be written to: {error.strerror}",
                hint="name a writable folder: --run-dir, --out or output_dir=",
            ) from None

    def _require_plain(self) -> None:
        """Libraries write in here too, and know nothing of `confined`. Raises NotPlainError."""
        for entry in os.scandir(self.path):
            is_file, is_folder = _FILES.fullmatch(entry.name), _FOLDERS.fullmatch(entry.name)
            found = entry.stat(follow_symlinks=False)
            mode = found.st_mode
            if is_file and confined.kind(mode):
                raise NotPlainError(entry.path, f"is {confined.kind(mode)}, not a file")
            if is_file and confined.has_other_names(found):
                raise NotPlainError(entry.path, confined.OTHER_NAMES)
            if is_folder and not stat.S_ISDIR(mode):
                raise NotPlainError(entry.path, f"is {confined.kind(mode) or 'a file'}, not a folder")

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
                f"{self.path}: another launch is at work here", hint="wait for it, or use another --run-dir"
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
            raise _finished(self.path)
        before = self.plan()
        changed = _changed(plan, before)
        if changed and not self._came_to_nothing():
            raise LaunchError(
                f"{self.path}: holds an unfinished run of another recipe ({', '.join(changed)} differ)",
                hint=f"name a new --run-dir, or finish that run: {finish or _finish(before, self)}",
            )

    def is_open_to(self, plan: Plan) -> bool:
        """Whether `plan` would start or go on here: nothing is here, or an unfinished run of the same recipe."""
        if not self.plan_path.exists():
            return True
        return not self.metrics_path.exists() and not _changed(plan, self.plan())


class Chunks:
    """Rows on their way to the ranks of a prediction, and answers on their way back; see worker/predict.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._end = folder / "end"

    def rows(self, number: int) -> Path:
        return self.folder / f"in_{number}.json"

    def answers(self, number: int) -> Path:
        return self.folder / f"out_{number}.json"

    def end(self) -> None:
        """Say that no more rows come."""
        touch(self._end)

    def waiting(self) -> tuple[list[int], bool]:
        """The chunks without answers, in order, and whether no more come."""
        is_end = self._end.exists()  # asked first: all rows were there before it was
        names = {entry.name for entry in os.scandir(self.folder)}
        numbers = (n.removeprefix("in_").removesuffix(".json") for n in names if n.startswith("in_"))
        return sorted(int(k) for k in numbers if f"out_{k}.json" not in names), is_end


def _finish(before: Plan, run: RunDir) -> str:
    """The command that finishes a run from its own plan and recipe."""
    node = re.fullmatch(r"node_(\d+)", run.path.name) if before.num_nodes > 1 else None
    words = before.options(int(node[1]) if node else 0)
    if before.use is not None:
        words = ["--checkpoint", before.use.weights, *words]
    mode = "run" if before.use is None else before.use.mode
    folder = run.path.parent if node else run.path
    return again.command([mode, *words, "--run-dir", str(folder), str(run.recipe_path)])


def plan_beside(recipe: Path) -> Plan | None:
    """The plan of the run whose own recipe a file is; None where its name would lead a new run elsewhere."""
    run = RunDir(recipe.parent)
    if recipe.name != run.recipe_path.name or not run.plan_path.is_file():
        return None
    with contextlib.suppress(LaunchError):
        plan = run.plan()
        return plan if re.fullmatch(r"[^/\0]+", plan.name) and plan.name not in (".", "..") else None
    return None


def _finished(path: Path) -> LaunchError:
    if read_json(path / "metrics.json") is None:
        return LaunchError(
            f"{path / 'metrics.json'}: is damaged", hint="remove it, and the run is finished from its newest checkpoint"
        )
    return LaunchError(
        f"{path}: this run is finished",
        hint=f"name a new --run-dir, or leave it out; ascend-launch report {path} makes its report anew",
    )


_FREE = {"strategy": "auto", "micro_batch_size": "auto", "eval_batch_size": "auto", "deepspeed": None}
"""What a checkpoint does not depend on, as it does not on the number of ranks."""


def _changed(plan: Plan, before: Plan) -> list[str]:
    """In which sections of the recipe two plans differ, so that one cannot go on with the other's run."""
    one, other = (
        recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=_FREE), "report": True})
        for recipe in (plan.recipe, before.recipe)
    )
    changed = [k for k in type(one).model_fields if getattr(one, k) != getattr(other, k)]
    return changed or ([before.name] if plan.name != before.name else [])


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
    if _FOLDERS.fullmatch(
        path.name
    ):  # else a link of such a name, which is the user's, would be taken for a planted one
        path = path.resolve()
    run = for_node(path, node_rank)
    run.create()
    if node_rank and RunDir(path).metrics_path.exists():  # else this node would wait for a first one that was refused
        raise _finished(path)
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


def root_of(folder: Path) -> Path:
    """What a folder of ours belongs to as a whole: the run directory, for a checkpoint of it. Told by the names alone, since
    what is in there may come from somebody else."""
    root = folder
    for _ in range(3):  # node_1/checkpoints/checkpoint-5
        if not _FOLDERS.fullmatch(root.name) or root.parent == root:
            break
        root = root.parent
    return root


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader never sees half of it.

    Raises:
        OSError: it cannot be written; NotPlainError where a link would lead out of the run directory.
    """
    confined.write_text(path, text, root_of(path.parent))


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


def json_text(value: Any, **options: Any) -> str:
    """JSON as the standard has it, non-ASCII text as it is: NaN and infinities, which it does not know, become null.

    Args:
        value: what json.dumps takes.
        options: of json.dumps.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False, **options)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_by_umask(folder: Path) -> None:
    """Give the files that a library left to their owner alone, as safetensors does, the mode that any new file there gets."""
    probe = folder / f".mode-{secrets.token_hex(4)}"
    probe.touch(0o666, exist_ok=False)
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.stat().st_mode == stat.S_IFREG | 0o600:
            path.chmod(stat.S_IMODE(mode))


def write_json(path: Path, value: Any) -> None:
    """Atomic, indented, keys in the order given, secrets hidden; see `json_text`."""
    write_text(path, json_text(scrub.value(value), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The file's value, or None where there is none or it is not JSON, or more than any file of ours holds. NaN, which older
    versions wrote, is null."""
    try:
        return confined.loads(confined.read(path))
    except (FileNotFoundError, NotPlainError, ValueError):
        return None


def append_event(path: Path, event: Event) -> None:
    """Add one line to events.jsonl, stamped with the wall clock in seconds, secrets hidden. One write, so lines never mix.

    A disk that is full ends no job for want of a line: that goes to stderr.
    """
    line = json_text({"time": round(time.time(), 3), **scrub.value(event.to_json(), for_showing=True)}) + "\n"
    try:
        handle = open_append(path)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        print(f"not written to {path}: {error.strerror}: {line}", end="", file=sys.stderr, flush=True)


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""Made once: json.loads with an option makes one for each line."""


def events(path: Path, offset: int = 0, findings: records.Findings | None = None) -> Iterator[tuple[int, Event]]:
    """The events in whole lines of events.jsonl from byte `offset`, each with the offset after it. The last line may be
    still being written.

    Args:
        findings: where what cannot be read is noted; events are then made fit for showing too.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        file = os.fdopen(confined.open_read(path), "rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in lines(file):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            event = _event(line, for_showing=findings is not None)
            if findings is not None:
                findings.add(event)
            if event is not None:
                yield offset, event


def _event(line: bytes, *, for_showing: bool) -> Event | None:
    try:
        value = _DECODER.decode(line.decode("utf-8", "strict" if for_showing else "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return records.event(scrub.value(value, for_showing=True) if for_showing and scrub.is_suspect(line) else value)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, up to one that is longer than any of ours."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            return
        yield line


def hand_on(path: Path, offset: int, on_event: Callable[[Event], None]) -> int:
    """Call `on_event` with each event of events.jsonl since byte `offset`; the offset to go on from."""
    with contextlib.suppress(NotPlainError):
        for end, event in events(path, offset):
            offset = end
            on_event(event)
    return offset


def write_failure(path: Path, failure: Failure) -> None:
    """Write error_<r>.json or failure.json. Raises OSError as `write_text`."""
    write_json(path, failure.to_json())


def read_failure(path: Path) -> Failure | None:
    """The failure in error_<r>.json or failure.json; None where there is none, or nothing that can be read as one."""
    return records.failure(read_json(path))


def tail(path: Path, num_lines: int = 30) -> str:
    """The last lines of a log, '' where there is none."""
    try:
        with os.fdopen(confined.open_read(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-num_lines:])
    except OSError:
        return ""
