"""A run directory as a report reads it, damaged or whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from launcher import confined, scrub
from launcher.errors import LaunchError
from launcher.files import tail
from launcher.messages import Message
from launcher.recipe import metrics as table
from launcher.recipe import yamlfile
from launcher.report.facts import MAX_LABELS, Run, Status, flat, is_number, list_of, mapping
from launcher.rundir import events, records
from launcher.rundir.history import History
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event, Failure

LOG_LINES = 40
MAX_PREDICTIONS = 2_000_000
"""Rows that a confusion matrix is counted from, where metrics.json holds none."""


_KNOWN = ("plan.json", "events.jsonl", "metrics.json", "recipe.yaml")


_SHAPES: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "plan.json": {"num_nodes": int, "nproc_per_node": int, "batch": dict, "recipe": dict},
    "data.json": {"label_names": (list, NoneType), "train": (dict, NoneType), "eval": (dict, NoneType)},
    "metrics.json": {"final": dict, "train": dict},
    "env.json": {"set": list, "inherited": dict},
}
"""What the page does more with than show it, and of which type it has to be for that."""


def load(path: Path) -> Run:
    """Read a run directory.

    Raises:
        LaunchError: it is none.
    """
    path = path.resolve() if path.is_symlink() else path  # `latest` names another run tomorrow
    if not path.is_dir() or not any((path / name).exists() for name in _KNOWN):
        inside = path / "latest"
        hint = (
            Message("did you mean {inside}?", inside=inside)
            if inside.exists()
            else Message("name a folder that a launch wrote")
        )
        raise LaunchError(Message("{path}: not a run directory", path=path), hint=hint)
    run, files = RunDir(path), _Files(path)
    history = History.of(files.events(run.events_path))
    plan, metrics, data = (files.mapping(p) for p in (run.plan_path, run.metrics_path, run.data_path))
    failure = _failure(run, files)
    worst = files.mapping(run.worst_rows_path)
    values, origins = _recipe(run, files)
    names = data.get("label_names") or list_of(values.get("model.label_names"))
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
        worst=[row for row in list_of(worst.get("rows")) if isinstance(row, dict)],
        worst_by=by if isinstance(by := worst.get("by"), str) else "",
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


def _status(
    run: RunDir, history: History, plan: Mapping[str, Any], metrics: Mapping[str, Any], failure: Failure | None
) -> Status:
    if metrics:
        return "done"
    if run.is_held():
        return "running"
    if failure:
        return "failed"
    if _has_done(run, plan):
        return "done"
    if any(i.event in ("stopping", "preempted") for i in history.incidents) or history.phase == "stopped":
        return "interrupted"
    return "unfinished"


def _has_done(run: RunDir, plan: Mapping[str, Any]) -> bool:
    """Whether every rank of a program of the user's has come to its end in the newest attempt."""
    if not (plan.get("program") or mapping(plan.get("recipe")).get("script")) or run.last_attempt < 0:
        return False
    marks = list(run.attempt(run.last_attempt).glob("done_*"))
    return bool(marks) and len(marks) == plan.get("nproc_per_node")


def _reason(error: OSError) -> str:
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
            self.trouble(path, _reason(error))
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
            for _, event in events.events(path, findings=findings):
                yield event
        except OSError as error:
            self.trouble(path, _reason(error))
        for text in findings.texts:
            self.trouble(path, text)

    def failure(self, path: Path) -> Failure | None:
        failure = records.failure(self.mapping(path))
        if failure is not None and failure.wrong:
            self.trouble(path, records.wrong_text(failure))
        return failure


def _failure(run: RunDir, files: _Files) -> Failure | None:
    """failure.json of the first node, else of another one that has one."""
    nodes = [RunDir(p) for p in sorted(run.path.glob("node_*"))]
    failures = [files.failure(r.failure_path) for r in (run, *nodes)]
    return next((f for f in failures if f), None)


def _log_tail(run: RunDir, failure: Failure | None) -> str:
    if failure is None or failure.attempt is None or failure.rank is None:
        return ""
    return scrub.shown(tail(run.last_words(failure.attempt, failure.rank), LOG_LINES))


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


def _confusion(
    run: RunDir, files: _Files, metrics: Mapping[str, Any], history: History, num_labels: int
) -> list[list[int]]:
    confusion = _confusion_among(mapping(metrics.get("final")))
    if confusion:
        return confusion
    counted = _counted(run.predictions_path, files, num_labels)
    if counted or not history.evals:
        return counted
    return _confusion_among(history.evals[-1].figures)


def _confusion_among(figures: Mapping[str, Any]) -> list[list[int]]:
    """The first figure that is a table of labels; an empty one where none is."""
    tables = [metric.name for metric in table.known(figures) if not metric.is_figure]
    return next(filter(None, (_matrix(figures[name]) for name in tables)), [])


def _counted(path: Path, files: _Files, num_labels: int) -> list[list[int]]:
    pairs: dict[tuple[int, int], int] = {}
    number = 0
    try:
        with os.fdopen(confined.open_read(path), "rb") as file:
            for number, line in enumerate(events.lines(file), 1):
                row = json.loads(line)
                if number == 1 and isinstance(row, dict) and _has_no_label(row):
                    return []
                if row["prediction"] is None:  # a row without scores: no table of the others
                    return []
                pair = (int(row["label"]), int(row["prediction"]))
                pairs[pair] = pairs.get(pair, 0) + 1
                if number > MAX_PREDICTIONS or min(pair) < 0 or max(pair) >= MAX_LABELS:
                    return []
    except FileNotFoundError:
        return []
    except OSError as error:
        files.trouble(path, _reason(error))
        return []
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        files.trouble(path, f"line {number} is not a prediction")
        return []
    size = max([num_labels, *(max(p) + 1 for p in pairs)], default=0)
    return [[pairs.get((label, predicted), 0) for predicted in range(size)] for label in range(size)] if pairs else []


def _has_no_label(row: Mapping[str, Any]) -> bool:
    """Whether it is of a task without labels, or has several, or values."""
    return "prediction" not in row or isinstance(row.get("label"), list | float)


def _matrix(value: Any) -> list[list[int]]:
    """`value` where it is a square of numbers, else an empty one."""
    rows = value if isinstance(value, list) else []
    square = all(isinstance(row, list) and len(row) == len(rows) and all(map(is_number, row)) for row in rows)
    return rows if square else []
