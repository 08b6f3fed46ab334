"""The rows of each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from launcher.data import mixture
from launcher.data.conversations import COLUMN
from launcher.messages import Message
from launcher.recipe import schema
from launcher.recipe.schema import EvalSplit, RecipeSpec, Split
from launcher.recipe.tasks.table import MANY_LABELS, TAGS, VALUES
from launcher.worker.data import label_rows, labels, rows

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


class Beginning(Protocol):
    """What the weights that a job starts from tell of its rows."""

    @property
    def trained(self) -> object | None: ...
    @property
    def label_names(self) -> tuple[str, ...] | None: ...


@dataclass(frozen=True)
class Rows:
    """What the recipe's data holds, checked."""

    splits: dict[str, Dataset]
    """By name: train, eval; `eval.NAME` each where the recipe has several sets by names."""
    numbered: labels.Numbered
    notes: tuple[str, ...]


def read_rows(recipe: RecipeSpec, start: Beginning) -> Rows:
    """The second stage: read the splits, and number their labels as the weights or the recipe do.

    Raises:
        LaunchError: rows cannot be read, or one of them has no text or no label.
    """
    is_trained = start.trained is not None
    if recipe.task.has_conversations:
        return _conversations(recipe, trains=not is_trained)
    splits: dict[str, Split] = {} if is_trained else {"train": recipe.data.train}
    if recipe.data.eval is not None:
        splits["eval"] = recipe.data.eval
    if recipe.data.eval is not None and recipe.data.eval.hold_out is not None:
        raw = _held_out(recipe, recipe.data.eval, trains=not is_trained)
        splits = dict.fromkeys(raw, recipe.data.train)
    else:
        raw = {name: rows.read(recipe, split, is_eval=name == "eval") for name, split in splits.items()}
    numbered, about_labels = labels.NONE, list[str]()
    about_texts, repeated = list[str](), list[str]()
    if recipe.task.has_labels:
        numbered, about_labels = _numbered(recipe, raw, splits, start)
    if recipe.targets != TAGS and recipe.data.text in recipe.task.reads(recipe.data).values():
        about_texts = [*dict.fromkeys(note for k, part in raw.items() for note in rows.notes(recipe, part, splits[k]))]
        if "train" in raw and "eval" in raw:
            repeated = _repeated_notes(*(rows.texts(recipe, raw[name]) for name in ("train", "eval")))
    notes = (*numbered.notes, *about_texts, *about_labels, *_selection_notes(recipe, raw), *repeated)
    return Rows(raw, numbered, notes)


def _numbered(
    recipe: RecipeSpec, raw: Mapping[str, Dataset], splits: Mapping[str, Split], start: Beginning
) -> tuple[labels.Numbered, list[str]]:
    """The labels of all splits, and what the user should know about them."""
    num_labels, names = schema.num_labels(recipe), start.label_names
    if recipe.targets in (MANY_LABELS, VALUES, TAGS):
        cells = {k: rows.label_cells(recipe, part, splits[k]) for k, part in raw.items()}
        known = rows.class_names(next(iter(raw.values())), recipe.data.label)
        names = names or (known if len(known) == num_labels else None)
        names, parts = label_rows.numbered(cells, names=names, num_labels=num_labels)
        about = [] if recipe.targets == VALUES else label_rows.notes(parts, names)
        return labels.Numbered(names, parts, ()), about
    columns = {k: rows.label_column(recipe, part, splits[k], is_eval=k == "eval") for k, part in raw.items()}
    numbered = labels.number(columns, names=names, num_labels=num_labels, trained=start.trained is not None)
    return numbered, labels.notes(numbered, columns)


def _held_out(recipe: RecipeSpec, held: EvalSplit, *, trains: bool) -> dict[str, Dataset]:
    """The training rows and those that are held out of them, which their content and the seed choose."""
    assert held.hold_out is not None
    whole = rows.read(recipe, recipe.data.train)
    contents = rows.contents(recipe, whole)
    kept, taken = mixture.held_out(contents, held.hold_out, held.seed)
    if held.limit is not None:
        chosen = mixture.order([contents[row] for row in taken], held.seed)[: held.limit]
        taken = sorted(taken[place] for place in chosen)
    return {**({"train": whole.select(kept)} if trains else {}), "eval": whole.select(taken)}


def _conversations(recipe: RecipeSpec, *, trains: bool) -> Rows:
    raw, notes = rows.conversations(recipe, trains=trains)
    if trains:
        for name in [name for name in raw if name != "train"]:
            notes += _repeated_notes(*(rows.column(raw[one], COLUMN) for one in ("train", name)))
    return Rows(raw, labels.NONE, tuple(notes))


def _selection_notes(recipe: RecipeSpec, raw: Mapping[str, Dataset]) -> list[str]:
    wanted = {"train": recipe.data.train, "eval": recipe.data.eval}
    if recipe.data.eval is not None and recipe.data.eval.hold_out is not None:
        return []
    limits = {name: split.limit for name, split in wanted.items() if split is not None and split.limit is not None}
    return [
        Message(
            "data.{name}.limit is {limit}, the split has {num_raw} rows: all are used",
            name=name,
            limit=limit,
            num_raw=len(raw[name]),
        )
        for name, limit in limits.items()
        if name in raw and len(raw[name]) < limit
    ]


def _repeated_notes(train: pa.ChunkedArray, held: pa.ChunkedArray) -> list[str]:
    count = labels.repeated(train, held)
    if not count:
        return []
    return [
        Message(
            "{count:,} of {num_held:,} evaluation rows have the text of a training row: figures tell less of new texts",
            count=count,
            num_held=len(held),
        )
    ]
