"""A recipe that does not list its labels: those of its data."""

from __future__ import annotations

import json
from dataclasses import replace

from launcher.data import labels
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.load import Loaded

MOST_SHOWN = 12


def named(loaded: Loaded) -> Loaded:
    """A recipe with its labels: as it says, else as the files of its data have them.

    Raises:
        LaunchError: it has none, and its data is not on this machine, or has no labels.
    """
    spec = loaded.spec
    model = spec.model
    if spec.script is not None or not spec.task.has_labels or model.num_labels or model.label_names:
        return loaded
    try:
        label_names = labels.names(spec.data)
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
    pin = f"model.label_names={json.dumps(label_names, ensure_ascii=False)}"
    spec = spec.model_copy(update={"model": model.model_copy(update={"label_names": label_names})})
    note = Message(
        "{count} labels are in the data: {names}; model.label_names would give them another order",
        count=len(label_names),
        names=", ".join(label_names if len(label_names) <= MOST_SHOWN else (*label_names[:MOST_SHOWN], "...")),
    )
    return replace(loaded, spec=spec, pins=(*loaded.pins, pin), notes=(*loaded.notes, note))
