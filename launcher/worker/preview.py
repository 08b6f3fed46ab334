"""What a recipe's data becomes: `python -m launcher.worker.preview REQUEST`, in a process that needs the tokenizer, and no torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.data.conversations import COLUMN
from launcher.errors import LaunchError
from launcher.files import read_json, write_json
from launcher.recipe.schema import RecipeSpec
from launcher.recipe.tasks.sft import Chats
from launcher.worker.batching.packing import packs
from launcher.worker.chat import templates
from launcher.worker.data import label_values, labels, rows, splits
from launcher.worker.models import hub, tokenizer
from launcher.worker.runtime import failure
from launcher.worker.tasks import table
from launcher.worker.tasks.encoding import Encoder, Seen

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN = "train"
BATCH_ROWS = 1000
QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
NUM_NAMED = 10
"""So many rows that are in two splits are named."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    recipe: RecipeSpec
    num_rows: int
    """How many rows of each split are shown."""
    chosen: tuple[int, ...] = ()
    """Which, by their numbers; the first ones where it is empty."""

    def shown(self, count: int) -> tuple[int, ...]:
        """The numbers of what is shown of so many rows."""
        return tuple(i for i in self.chosen if i < count) if self.chosen else tuple(range(min(self.num_rows, count)))


@dataclass(frozen=True)
class _Untrained:
    """A training from the beginning."""

    label_names: tuple[str, ...] | None
    trained: None = None


def main() -> int:
    """Carry out a request; result.json or error.json beside it."""
    parser = argparse.ArgumentParser(prog="python -m launcher.worker.preview", description=__doc__.partition(":")[0])
    parser.add_argument("request", type=Path)
    path = parser.parse_args().request
    try:
        value = read_json(path)
        recipe = RecipeSpec.model_validate_json(json.dumps(value["recipe"]))
        if _needs_no_torch(recipe):
            _do_without_torch()
        write_json(path.with_name("result.json"), preview(Request(recipe, value["num_rows"], tuple(value["chosen"]))))
    except Exception as error:
        return failure.record(path.with_name("error.json"), error, None)
    return 0


def _needs_no_torch(recipe: RecipeSpec) -> bool:
    return bool(recipe.task.encoder) and recipe.model.gguf_file is None


def _do_without_torch() -> None:
    """Have transformers and datasets see that there is none: else they import it, which takes longer than all else here."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # it would say so
    sys.modules["torch"] = None  # type: ignore[assignment]
    import datasets  # noqa: F401  # looks for it when it is imported
    from transformers.utils import is_torch_available

    is_torch_available()  # looks once
    del sys.modules["torch"]


def preview(request: Request) -> dict[str, Any]:
    """Every split's facts and some of its rows, as JSON.

    Raises:
        LaunchError: what a launch would refuse.
    """
    import datasets

    datasets.disable_progress_bars()
    recipe = request.recipe
    raw = splits.read_rows(recipe, _Untrained(recipe.model.label_names))
    made = tokenizer.load_tokenizer(recipe, _tokenizer_folder(recipe))
    encode = table.encoder(recipe, made, raw.numbered.names)
    out = {name: _split(request, name, part, raw.numbered, encode, made) for name, part in raw.splits.items()}
    for name in [name for name in out if TRAIN in raw.splits and name != TRAIN]:
        out[name]["in_training"] = _in_training(recipe, raw.splits[TRAIN], raw.splits[name])
    return {
        "task": recipe.model.task,
        "max_length": recipe.data.max_length,
        "left_out": encode.left_out,
        "splits": out,
        "notes": [*raw.notes, *encode.notes, *(templates.notes(made) if recipe.task.has_conversations else ())],
    }


def _tokenizer_folder(recipe: RecipeSpec) -> Path:
    """Where the tokenizer is; of a model on a hub, its weights are not fetched."""
    model, folder = recipe.model, Path(recipe.model.name).expanduser()
    if model.tokenizer is not None or (folder.is_dir() and model.gguf_file is None):
        return tokenizer.tokenizer_folder(recipe, folder)
    if model.gguf_file is not None:
        from launcher.worker.models import folder as folders

        return folders.locate(recipe)
    if folder.exists() or len(model.name.split("/")) not in hub.HUB_ID_PARTS or model.name.startswith(("/", ".", "~")):
        raise LaunchError(
            "model.name {name!r}: no such folder", hint="check the path, or name a hub id as org/model", name=model.name
        )
    return hub.snapshot(model.name, model.revision, model.hub, weights=False)


@dataclass
class _Tally:
    """What is counted of a split."""

    max_length: int
    lengths: list[int] = field(default_factory=list)
    become: list[int] = field(default_factory=list)
    """Tokens of the rows that they become."""
    trained: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    split: int = 0
    thoughts_left_out: int = 0
    full: int = 0
    """Rows that have max_length tokens; where tokens are cut as they are made, nobody knows which of them had more."""

    def add(self, row: Seen) -> None:
        length = len(row.whole[0])
        self.lengths.append(length)
        self.become += [len(ids) for ids, _ in row.parts]
        self.trained += sum(int(trained.sum()) for _, trained in row.parts)
        if not row.parts:
            self.left_out["too_long" if row.whole[1].any() else "nothing_trained"] += 1
        self.cut += not row.is_split and len(row.parts) == 1 and length > len(row.parts[0][0])
        self.full += any(len(ids) >= self.max_length for ids, _ in row.parts)
        self.split += row.is_split and bool(row.parts)
        self.thoughts_left_out += row.thoughts_left_out

    def facts(self) -> dict[str, Any]:
        marks: Any = np.quantile(self.lengths, list(QUANTILES.values()), method="inverted_cdf") if self.lengths else []
        return {
            "rows": len(self.lengths),
            "become": len(self.become),
            "left_out": dict(self.left_out),
            "cut": self.cut,
            "split": self.split,
            "thoughts_left_out": self.thoughts_left_out,
            "at_max_length": self.full,
            "tokens": sum(self.become),
            "trained": self.trained,
            "lengths": dict(zip(QUANTILES, map(int, marks), strict=False)),
        }


def _split(
    request: Request, name: str, part: Dataset, numbered: labels.Numbered, encode: Encoder, tokenizer: Any
) -> dict[str, Any]:
    recipe, wanted = request.recipe, request.shown(len(part))
    own, tally = numbered.labels.get(name), _Tally(request.recipe.data.max_length)
    shown: list[dict[str, Any]] = []
    for number, row in enumerate(_seen(recipe, part, own, encode)):
        tally.add(row)
        if number in wanted:
            label = None if own is None else numbered.shown(name, number)
            shown.append(_shown(number, row, label, tokenizer))
    facts = tally.facts()
    if own is not None:
        if counts := numbered.counts(name):
            facts["labels"] = dict(zip(numbered.names, counts, strict=True))
        if encode.answer_ids is None:  # the label is trained, and no token
            facts["trained"] = None
            shown = [{**row, "trained": None} for row in shown]
    if recipe.task.has_conversations:
        facts |= _about_messages(part)
        if name == TRAIN and Chats.of(recipe.data).packing:
            facts["packs"] = len(packs(tally.become, recipe.data.max_length))
    return {**facts, "shown": shown}


def _seen(recipe: RecipeSpec, part: Dataset, own: Any, encode: Encoder) -> Iterator[Seen]:
    columns = list(recipe.task.reads(recipe.data).values())
    table = part.select_columns(columns).with_format("arrow")
    for start in range(0, len(part), BATCH_ROWS):
        batch = {
            name: values.to_pylist() for name, values in zip(columns, table[start : start + BATCH_ROWS], strict=True)
        }
        if encode.seen is not None:
            yield from _told(encode.seen, batch, start)
        else:
            answers = None if own is None or encode.answer_ids is None else own[start : start + BATCH_ROWS]
            yield from _of_ids(encode, batch, columns[0], answers)


def _told(seen: Any, batch: Mapping[str, list[Any]], start: int) -> list[Seen]:
    """Raises LaunchError: with the number of the first row that is refused."""
    try:
        return list(seen(batch))
    except LaunchError:
        for number in range(len(next(iter(batch.values())))):
            try:
                seen({name: values[number : number + 1] for name, values in batch.items()})
            except LaunchError as refused:
                cause = refused.__cause__  # that one does not say which row
                what = cause.what if isinstance(cause, LaunchError) else refused.what
                raise LaunchError(
                    "row {number}: {what}", hint=refused.hint, number=start + number, what=what
                ) from refused
        raise


def _of_ids(encode: Encoder, batch: Mapping[str, list[Any]], column: str, answers: Any) -> Iterator[Seen]:
    if encode.rows is not None:
        ids: Sequence[Any] = encode.rows(batch)["input_ids"]
    else:
        ids = encode.ids(batch[column])
    for number, row in enumerate(ids):
        answer = () if answers is None or encode.answer_ids is None else encode.answer_ids[answers[number]]
        both = np.array([*row, *answer], np.int32), np.array([0] * len(row) + [1] * len(answer), np.int32)
        yield Seen(both, [both])


def _shown(number: int, row: Seen, label: str | None, tokenizer: Any) -> dict[str, Any]:
    return {
        "row": number,
        "tokens": len(row.whole[0]),
        "trained": sum(int(trained.sum()) for _, trained in row.parts),
        "label": label,
        "is_left_out": not row.parts,
        "parts": [list(_pieces(tokenizer, *part)) for part in row.parts or [row.whole]],
    }


def _pieces(tokenizer: Any, ids: np.ndarray, trained: np.ndarray) -> Iterator[tuple[str, bool]]:
    """The text, in pieces that are trained or not."""
    ends = [*np.flatnonzero(np.diff(trained)) + 1, len(ids)]
    for begin, end in zip([0, *ends], ends, strict=False):
        yield tokenizer.decode(ids[begin:end].tolist()), bool(trained[begin])


def _about_messages(part: Dataset) -> dict[str, Any]:
    roles: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for value in rows.column(part, COLUMN).to_pylist():
        row = json.loads(value)
        counts["texts"] += "text" in row
        counts["with_tools"] += bool(row.get("tools"))
        roles.update(message["role"] for message in row.get("messages", ()))
        counts["train_false"] += sum(message.get("train") is False for message in row.get("messages", ()))
    return {"messages": dict(roles), **{name: counts[name] for name in ("texts", "with_tools", "train_false")}}


def _in_training(recipe: RecipeSpec, train: Dataset, held: Dataset) -> dict[str, Any]:
    """Evaluation rows that are training rows too: how many, and the first of them."""
    of_texts = recipe.data.text in recipe.task.reads(recipe.data).values()
    trained, evaluated = (
        rows.texts(recipe, part) if of_texts else rows.content(recipe, part)[0] for part in (train, held)
    )
    if not label_values.is_text(evaluated):
        return {"count": 0, "first_rows": []}
    found = labels.are_repeated(trained, evaluated)
    numbers = np.flatnonzero(found.to_numpy(zero_copy_only=False)).tolist()
    return {"count": len(numbers), "first_rows": numbers[:NUM_NAMED]}


if __name__ == "__main__":
    sys.exit(main())
