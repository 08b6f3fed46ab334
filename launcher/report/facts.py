"""A run directory, read for a report: whatever is there, of any version and however the run ended. Nothing here fails for
want of a file; what is there and cannot be read is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from launcher import confined, records, rundir, scrub, yamlfile
from launcher.errors import LaunchError
from launcher.history import History
from launcher.records import Event, Failure
from launcher.rundir import RunDir

Status = Literal["done", "failed", "interrupted", "running", "unfinished"]
LOG_LINES = 40
MAX_PREDICTIONS = 2_000_000
"""Rows that a confusion matrix is counted from, where metrics.json holds none."""
MAX_LABELS = 2_000
"""Of a matrix that is counted here: its size is the square of the largest label."""
_KNOWN = ("plan.json", "events.jsonl", "metrics.json", "recipe.yaml")


_SHAPES: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "plan.json": {"num_nodes": int, "nproc_per_node": int, "batch": dict, "recipe": dict},
    "data.json": {"label_names": (list, NoneType), "train": (dict, NoneType), "eval": (dict, NoneType)},
    "metrics.json": {"final": dict, "train": dict},
    "env.json": {"set": list, "inherited": dict},
}
"""What the page does more with than show it, and of which type it has to be for that."""


@dataclass(frozen=True)
class Run:
    """One run as a report shows it. Mappings are as the files have them, empty where there is none."""

    path: Path
    name: str
    label: str
    """Tells it from the other runs of the same report."""
    status: Status
    history: History
    plan: Mapping[str, Any]
    values: Mapping[str, Any]
    """The resolved recipe, flat: `training.learning_rate` → 5e-05."""
    origins: Mapping[str, str]
    """Where the values that are no defaults came from."""
    metrics: Mapping[str, Any]
    failure: Failure | None
    log_tail: str
    """The last lines of the failing rank's log."""
    data: Mapping[str, Any]
    env: Mapping[str, Any]
    confusion: Sequence[Sequence[int]]
    """Rows are labels, columns predictions; empty where nothing was predicted."""
    label_names: Sequence[str]
    unread: Sequence[str]
    """Files that are there and could not be read, each with the reason: `metrics.json: not JSON: …`."""

    @property
    def seconds(self) -> float | None:
        """From the first event to the last; of a run that was taken up again, the pause too."""
        history = self.history
        return None if history.started is None or history.latest is None else history.latest - history.started

    @property
    def started(self) -> str:
        if self.history.started is None:
            return ""
        return datetime.fromtimestamp(self.history.started, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")

    @property
    def figures(self) -> dict[str, float]:
        """The final figures: scores and losses of metrics.json, else those of the last evaluation; and the speed."""
        final = _mapping(self.metrics.get("final"))
        if not final and self.history.evals:
            final = self.history.evals[-1].figures
        leave_out = {"step", "epoch", "time", "eval_samples", "eval_runtime", "eval_samples_per_second"}
        found = {k: v for k, v in final.items() if _is_number(v) and k not in leave_out}
        train = _mapping(self.metrics.get("train"))
        if _is_number(train.get("train_loss")):
            found["train_loss"] = train["train_loss"]
        return found | self.speed

    @property
    def speed(self) -> dict[str, float]:
        """Of all steps together, without evaluating, saving and starting."""
        rates = self.history.rates
        seconds = sum(r.seconds for r in rates)
        if not seconds:
            return {}
        return {
            "samples_per_second": sum(r.rows for r in rates) / seconds,
            "tokens_per_second": sum(r.tokens for r in rates) / seconds,
            "seconds_per_step": seconds / max(sum(r.steps for r in rates), 1),
        }

    def by_rank(self) -> list[dict[str, float]]:
        """For each rank: peak memory in bytes, and the median over the run of its own seconds a step."""
        from launcher.history import own_seconds

        rates = self.history.rates
        own = [own_seconds(r) for r in rates]
        count = max((len(row) for row in own), default=0)
        rows = []
        for rank in range(count):
            times = sorted(row[rank] for row in own if rank < len(row))
            row: dict[str, float] = {"rank": rank, "own_s": times[len(times) // 2]}
            for name in ("host_peak_bytes", "device_peak_bytes", "device_bytes"):
                sizes = [column[rank] for r in rates if rank < len(column := getattr(r, name) or ())]
                if sizes:
                    row[name] = max(sizes)
            rows.append(row)
        return rows


def load(path: Path) -> Run:
    """Read a run directory.

    Raises:
        LaunchError: it is none.
    """
    path = path.resolve() if path.is_symlink() else path  # `latest` is no name to remember a run by
    if not path.is_dir() or not any((path / name).exists() for name in _KNOWN):
        inside = path / "latest"
        hint = f"did you mean {inside}?" if inside.exists() else "name a folder that a launch wrote"
        raise LaunchError(f"{path}: not a run directory", hint=hint)
    run, files = RunDir(path), _Files(path)
    history = History.of(files.events(run.events_path))
    plan, metrics, data = (files.mapping(p) for p in (run.plan_path, run.metrics_path, run.data_path))
    failure = _failure(run, files)
    values, origins = _recipe(run, files)
    names = data.get("label_names") or _list(values.get("model.label_names"))
    name = str(plan.get("name") or path.parent.name or path.name)
    return Run(
        path=path,
        name=name,
        label=path.name if path.name != name else name,
        status=_status(run, history, plan, metrics, failure),
        history=history,
        plan=plan,
        values=values,
        origins=origins,
        metrics=metrics,
        failure=failure,
        log_tail=_log_tail(run, failure),
        data=data,
        env=files.mapping(run.env_path),
        confusion=_confusion(run, files, metrics, history, len(names)),
        label_names=[str(n) for n in names],
        unread=files.unread,
    )


def load_all(paths: Iterable[Path]) -> list[Run]:
    """Several runs, each with a label of its own."""
    from dataclasses import replace

    runs = [load(path) for path in paths]
    labels = [run.label for run in runs]
    names = {run.name for run in runs}
    out: list[Run] = []
    for i, run in enumerate(runs):
        label = f"{run.name}/{run.label}" if len(names) > 1 and run.label != run.name else run.label
        if labels.count(run.label) > 1 and len(names) == 1:
            label = f"{run.path.parent.name}/{run.path.name}"
        taken = [r.label for r in out]
        out.append(replace(run, label=f"{label} ({i + 1})" if label in taken else label))
    return out


# -- files ---------------------------------------------------------------------------------------------------------


def _status(
    run: RunDir, history: History, plan: Mapping[str, Any], metrics: Mapping[str, Any], failure: Failure | None
) -> Status:
    if metrics:
        return "done"
    if run.is_held():
        return "running"
    if failure:
        return "failed"
    if any(i.event in ("stopping", "preempted") for i in history.incidents) or history.phase == "stopped":
        return "interrupted"
    if _mapping(plan.get("recipe")).get("script") and run.last_attempt >= 0:
        marks = list(run.attempt(run.last_attempt).glob("done_*"))
        if marks and len(marks) == plan.get("nproc_per_node"):
            return "done"
    return "unfinished"


def _said(error: OSError) -> str:
    if isinstance(error, confined.NotPlainError):
        return str(error.strerror)
    return f"cannot be read: {error.strerror}"


class _Files:
    """Reads what is there, and keeps what could not be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unread: list[str] = []

    def trouble(self, path: Path, reason: object) -> None:
        self.unread.append(f"{path.relative_to(self.folder)}: {reason}")

    def text(self, path: Path) -> str | None:
        try:
            return confined.read(path).decode("utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.trouble(path, _said(error))
        except UnicodeDecodeError as error:
            self.trouble(path, f"not UTF-8 at byte {error.start}")
        return None

    def mapping(self, path: Path) -> Mapping[str, Any]:
        text = self.text(path)
        if text is None:
            return {}
        try:
            value = scrub.value(confined.loads(text.encode()), for_showing=True)
        except ValueError as error:
            self.trouble(path, f"not JSON: {error}")
            return {}
        if not isinstance(value, dict):
            self.trouble(path, "not a JSON object")
            return {}
        for key, kind in _SHAPES.get(path.name, {}).items():
            if key in value and not isinstance(value[key], kind):
                self.trouble(path, f"{key} is a {type(value.pop(key)).__name__}")
        return value

    def events(self, path: Path) -> Iterator[Event]:
        """The events; what of them cannot be read is kept."""
        findings = records.Findings()
        try:
            for _, event in rundir.events(path, findings=findings):
                yield event
        except OSError as error:
            self.trouble(path, _said(error))
        for text in findings.texts:
            self.trouble(path, text)

    def failure(self, path: Path) -> Failure | None:
        found = records.failure(self.mapping(path))
        if found is not None and found.wrong:
            self.trouble(path, records.wrong_text(found))
        return found


def _failure(run: RunDir, files: _Files) -> Failure | None:
    """failure.json of the first node, else of another one that has one."""
    nodes = [RunDir(p) for p in sorted(run.path.glob("node_*"))]
    found = [files.failure(r.failure_path) for r in (run, *nodes)]
    return next((f for f in found if f), None)


def _log_tail(run: RunDir, failure: Failure | None) -> str:
    if failure is None or failure.attempt is None or failure.rank is None:
        return ""
    return scrub.shown(rundir.tail(run.last_words(failure.attempt, failure.rank), LOG_LINES))


def _recipe(run: RunDir, files: _Files) -> tuple[dict[str, Any], dict[str, str]]:
    """recipe.yaml, flat, and the origins that stand in its head."""
    text = files.text(run.recipe_path)
    if text is None:
        return {}, {}
    try:
        value = yamlfile.load(run.recipe_path).value
    except LaunchError as error:
        files.trouble(
            run.recipe_path,
            error.what.removeprefix(str(run.recipe_path)).lstrip(":0123456789 ").replace("not valid YAML", "not YAML"),
        )
        return {}, {}
    if not isinstance(value, dict):
        files.trouble(run.recipe_path, "not a mapping of keys")
    values = flat(scrub.value(value, for_showing=True))
    origins = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        # A key may hold a colon itself, so the longest that fits is meant.
        entry = line.removeprefix("#").strip()
        keys = [key for key in values if entry.startswith(f"{key}: ")]
        if keys:
            key = max(keys, key=len)
            origins[key] = scrub.shown(entry.removeprefix(f"{key}: "))
    return values, origins


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; an empty mapping is a value."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out


def _confusion(run: RunDir, files: _Files, metrics: Mapping[str, Any], history: History, num_labels: int) -> list[list[int]]:  # fmt: skip
    found = _matrix(_mapping(metrics.get("final")).get("confusion_matrix"))
    if found:
        return found
    counted = _counted(run.predictions_path, files, num_labels)
    if counted or not history.evals:
        return counted
    return _matrix(history.evals[-1].figures.get("confusion_matrix"))


def _counted(path: Path, files: _Files, num_labels: int) -> list[list[int]]:
    pairs: dict[tuple[int, int], int] = {}
    number = 0
    try:
        with os.fdopen(confined.open_read(path), "rb") as file:
            for number, line in enumerate(rundir.lines(file), 1):
                row = json.loads(line)
                if row["prediction"] is None:  # a row without scores: no table of the others
                    return []
                pair = (int(row["label"]), int(row["prediction"]))
                pairs[pair] = pairs.get(pair, 0) + 1
                if number > MAX_PREDICTIONS or min(pair) < 0 or max(pair) >= MAX_LABELS:
                    return []
    except FileNotFoundError:
        return []
    except OSError as error:
        files.trouble(path, _said(error))
        return []
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        files.trouble(path, f"line {number} is no prediction")
        return []
    size = max([num_labels, *(max(p) + 1 for p in pairs)], default=0)
    return [[pairs.get((label, predicted), 0) for predicted in range(size)] for label in range(size)] if pairs else []


def _matrix(value: Any) -> list[list[int]]:
    """`value` where it is a square of numbers, else an empty one."""
    rows = value if isinstance(value, list) else []
    square = all(isinstance(row, list) and len(row) == len(rows) and all(map(_is_number, row)) for row in rows)
    return rows if square else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
