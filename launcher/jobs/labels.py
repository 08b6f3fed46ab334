"""A recipe that does not list its labels: those of its data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from launcher.data import labels
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.load import Loaded
from launcher.recipe.tasks.table import MULTI_LABEL, ONE_LABEL, VALUES

MOST_SHOWN = 12


def named(loaded: Loaded) -> Loaded:
    """A recipe with its labels: as it says, else as the files of its data have them.

    Raises:
        LaunchError: it has none, and its data is not on this machine, or has no labels.
    """
    if loaded.spec.script is not None or not loaded.spec.task.has_labels:
        return loaded
    loaded = _with_problem_type(loaded)
    spec = loaded.spec
    if spec.model.num_labels or spec.model.label_names:
        return loaded
    targets = Targets.of(spec)
    if not targets.has_one_cell:
        return _pinned(loaded, label_names=tuple(targets.columns.values()))
    if targets.kind == VALUES:
        value = labels.first(spec.data, spec.data.label)
        count = len(value) if isinstance(value, list) else 1
        names = (spec.data.label,) if count == 1 else tuple(f"{spec.data.label}_{i}" for i in range(count))
        return _pinned(loaded, label_names=names)
    return _named_by_data(loaded, targets)


def _with_problem_type(loaded: Loaded) -> Loaded:
    """A recipe that does not say how many labels a row has, with what its first row tells."""
    spec = loaded.spec
    can_tell = spec.task.has_head and spec.model.problem_type is None and spec.targets == ONE_LABEL
    if not can_tell or not isinstance(labels.first(spec.data, spec.data.label), list):
        return loaded
    note = Message(
        "column {column!r} has lists, so a row has any number of labels; model.problem_type would say otherwise",
        column=spec.data.label,
    )
    return _pinned(loaded, note, problem_type=MULTI_LABEL)


def _named_by_data(loaded: Loaded, targets: Targets) -> Loaded:
    spec = loaded.spec
    try:
        label_names = labels.names(spec.data, targets)
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        label_names = None
    if label_names is None:
        raise LaunchError(
            "{path}: model: `num_labels:` is missing: say how many classes the labels have",
            hint="add it, since the data is not files on this machine that would tell",
            path=loaded.path,
        )
    if spec.data.answers is not None and len(spec.data.answers) != len(label_names):
        raise LaunchError(
            "{path}: data.answers: {num_answers} answers for the {count} labels of the data: {names}",
            hint="give an answer for each label, in this order",
            path=loaded.path,
            num_answers=len(spec.data.answers),
            count=len(label_names),
            names=", ".join(label_names[:MOST_SHOWN]),
        )
    note = Message(
        "{count} labels are in the data: {names}; model.label_names would give them another order",
        count=len(label_names),
        names=", ".join(label_names if len(label_names) <= MOST_SHOWN else (*label_names[:MOST_SHOWN], "...")),
    )
    return _pinned(loaded, note, label_names=label_names)


def _pinned(loaded: Loaded, *notes: str, **keys: Any) -> Loaded:
    """A recipe with more keys of its model, on every machine that gets it."""
    spec = loaded.spec.model_copy(update={"model": loaded.spec.model.model_copy(update=keys)})
    pins = (
        f"model.{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in keys.items()
    )
    return replace(loaded, spec=spec, pins=(*loaded.pins, *pins), notes=(*loaded.notes, *notes))
