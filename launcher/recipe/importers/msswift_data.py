"""The data of an ms-swift command as conversations to be written. How rows are read is in its swift/dataset (release 4.6.0)."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from launcher.messages import Message
from launcher.recipe.importers.evaluations import Evaluations
from launcher.recipe.importers.given import expected
from launcher.recipe.importers.msswift_keys import QUERY, RESPONSE, TOO_LONG, TRAIN_ON

_CORRECT = Message("correct that line")
_SELF = "self-cognition"
_HUBS = {"hf": "huggingface", "ms": "modelscope"}
_TARGETS = {
    "messages": ("messages", "system", "tools"),
    "query-response": ("query", "response", "system", "history"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
}
"""Formats of a recipe, with the names of `--columns` that they have."""
TEXTS = "pt"
"""ms-swift's name of the command that trains every token of plain texts."""


class Data(Evaluations):
    """The part of an import whose rows are conversations."""

    subcommand: str = "sft"
    use_hf: bool = False

    @property
    def _is_of_texts(self) -> bool:
        return self.subcommand == TEXTS

    def _mapping(self, key: str) -> dict[str, Any] | None:
        """A mapping, which may be written as JSON."""
        value = self._take(key)
        try:
            value = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise self._fail(key, Message("{key}: is not JSON: {error}", key=key, error=error), _CORRECT) from None
        if value is None or isinstance(value, dict):
            return value
        raise self._fail(key, expected(key, Message("a mapping"), value), _CORRECT)

    def _listed(self, key: str) -> list[str]:
        value = self._take(key, [])
        return [str(one) for one in (value if isinstance(value, list) else [value])]

    def _conversations(self) -> None:
        train = [self._set("dataset", name) for name in self._listed("dataset")]
        if not train:
            raise self._fail("dataset", Message("names no dataset"), Message("a training file has `dataset`"))
        held = {self._title(name): self._set("val_dataset", name) for name in self._listed("val_dataset")}
        self._one_hub([*train, *held.values()])
        origin = self._origin("dataset")
        if len(train) == 1:
            self._only_set(train[0], origin)
        else:
            self.out.put("data.sets", train, origin)
        self._held_out(held)
        self._rows()
        if not self._is_of_texts:
            self._leave(
                "dataset",
                Message(
                    "the token that ends an answer is trained after each of them here; there after the last one, and a line break behind it where its template has one"
                ),
            )

    @staticmethod
    def _title(name: str) -> str:
        return re.sub(r"[^a-z0-9_-]+", "-", Path(name.split("#")[0]).stem.lower()).strip("-") or "eval"

    def _only_set(self, one: dict[str, Any], origin: str) -> None:
        limit = one.pop("limit", None)
        for key, value in one.items():
            self.out.put(f"data.{key}", value, origin)
        if limit is not None:
            self.out.put("data.train", {"limit": limit}, origin)

    def _set(self, key: str, name: str) -> dict[str, Any]:
        """HF::id:subset#count, each part but the first optional, as a set of a recipe."""
        file, hub, count = self._file(name), None, None
        if file is None and "::" in name:
            prefix, _, name = name.partition("::")
            hub = _HUBS.get(prefix.lower())
            file = self._file(name)
        if file is None and "#" in name:
            name, _, number = name.rpartition("#")
            count, file = self._count(key, number), self._file(name)
        subset = None
        if file is None and ":" in name:
            name, _, subset = name.partition(":")
            file = self._file(name)
        if _SELF in name:
            raise self._fail(
                key,
                Message("{name}: its rows have names in them that ms-swift replaces", name=name),
                self._unchanged(Message("leave this set out")),
            )
        if subset is not None and "/" in subset:
            what = Message("{name}:{subset}: several subsets of one id", name=name, subset=subset)
            raise self._fail(key, what, self._unchanged(Message("name each as a set of its own")))
        one: dict[str, Any] = {"path": str(file or name), **({"name": subset} if subset else {})}
        if file is None:
            one["hub"] = hub or ("huggingface" if self.use_hf else "modelscope")
        one |= self._format(key, file)
        if count is not None:
            one["limit"] = count
            self._leave(
                key,
                Message(
                    "which {count} rows of {name}: drawn by another seed; fewer than that are not repeated here",
                    count=count,
                    name=name,
                ),
            )
        return one

    def _file(self, name: str) -> Path | None:
        return next((p for p in (Path(name), self.path.parent / name) if p.exists()), None)

    def _count(self, key: str, number: str) -> int:
        if not number.isdigit() or int(number) == 0:
            raise self._fail(
                key, Message("#{number} is no number of rows", number=number), Message("correct that line")
            )
        return int(number)

    def _one_hub(self, sets: list[dict[str, Any]]) -> None:
        """The hub of ids, which is the model's too."""
        hubs = {hub for one in sets if (hub := one.pop("hub", None))}
        ours = "huggingface" if self.use_hf else "modelscope"
        if hubs - {ours}:
            what = Message("data of another hub than the model's, which is on {hub}", hub=ours)
            raise self._fail("dataset", what, self._unchanged(Message("fetch the data, and name the folder")))
        if not self.use_hf and (hubs or not Path(str(self.given.get("model"))).is_dir()):
            self.out.put("model.hub", ours, "its default")
        if hubs:
            self._leave(
                "dataset",
                Message(
                    "ms-swift may read some ids of a hub in ways of their own; the format is recognised from the first row here"
                ),
            )

    def _format(self, key: str, file: Path | None) -> dict[str, Any]:
        """What rows look like, where that is said or seen."""
        named = self._columns()
        first = _first_row(file) if file is not None else {}
        first = {named.get(column, column): value for column, value in first.items()}
        if self._is_of_texts:
            return self._texts(key, first)
        back = {target: column for column, target in named.items()}
        if back:
            return self._named(back)
        if first and not {"conversation", "conversations", "messages"} & first.keys():
            return self._pair(key, first)
        return {}

    def _columns(self) -> dict[str, str]:
        given = self._mapping("columns") or {}
        if not all(isinstance(target, str) for target in given.values()):
            raise self._fail("columns", expected("columns", Message("a mapping of texts"), given), _CORRECT)
        return {column: target for column, target in given.items() if column != target}

    def _named(self, back: dict[str, str]) -> dict[str, Any]:
        form = next((name for name, keys in _TARGETS.items() if set(back) <= set(keys)), None)
        if form is None:
            what = Message("columns: {names} are of no one format", names=", ".join(back))
            raise self._fail("columns", what, self._unchanged())
        return {"format": form, "columns": back}

    def _pair(self, key: str, first: dict[str, Any]) -> dict[str, Any]:
        if {"instruction", "input"} <= first.keys():
            return {"format": "alpaca"}
        asks, answers = ([name for name in names if name in first] for names in (QUERY, RESPONSE))
        if len(asks) != 1 or len(answers) != 1:
            what = Message(
                "{names}: which column is the question and which the answer is not clear", names=", ".join(first)
            )
            raise self._fail(key, what, self._unchanged(Message("say it with --columns")))
        columns = {
            ours: column
            for ours, column in zip(("query", "response"), (asks[0], answers[0]), strict=True)
            if ours != column
        }
        return {"format": "query-response", **({"columns": columns} if columns else {})}

    def _texts(self, key: str, first: dict[str, Any]) -> dict[str, Any]:
        """Rows of one text each."""
        answers = [name for name in RESPONSE if name in first]
        if first and (len(answers) != 1 or any(name in first for name in QUERY)):
            what = Message(
                "{names}: which column is the text is not clear, and messages are not texts here",
                names=", ".join(first),
            )
            raise self._fail(key, what, self._unchanged())
        column = answers[0] if answers else "text"
        return {"format": "text", **({"columns": {"text": column}} if column != "text" else {})}

    def _held_out(self, held: dict[str, dict[str, Any]]) -> None:
        share = self._take("split_dataset_ratio", 0, Message("a number, at least 0"))
        if self._when() == "no":
            self._leave("split_dataset_ratio", Message("no rows are held out where nothing is evaluated"))
            self._leave("val_dataset", Message("nothing is evaluated"))
            self.out.put("data.eval", None, self._origin("eval_strategy", "save_strategy"))
        elif held:
            self._leave("split_dataset_ratio", Message("the rows of val_dataset are held out"))
            self.out.put("data.eval", held, self._origin("val_dataset"))
        elif share:
            self._leave("split_dataset_ratio", Message("which rows: drawn by another seed here"))
            self.out.put("data.eval", share, self._origin("split_dataset_ratio"))
        else:
            self.out.put("data.eval", None, "it names none")

    def _when(self) -> str:
        """The eval_strategy, which is the save_strategy where it is not given."""
        value = self.given.get("eval_strategy")
        value = self.given.get("save_strategy", "steps") if value is None else value
        return "no" if value is False else str(value)

    def _rows(self) -> None:
        """What becomes of each conversation."""
        if (system := self._take("system")) is not None:
            self.out.put("data.system", self._system(str(system)), self._origin("system"))
        default = "all" if self._is_of_texts else "default"
        self._train_on(str(self._take("loss_scale", default)))
        if self._take("packing", False):
            self.out.put("data.packing", True, self._origin("packing"))
        length = self._take("packing_length", self.given.get("max_length"))
        if length != self.given.get("max_length"):
            raise self._fail(
                "packing_length", Message("packing_length: another one than max_length"), self._unchanged()
            )
        too_long = str(self._take("truncation_strategy", "delete"))
        if too_long not in TOO_LONG:
            what = Message("truncation_strategy: {value!r} has no counterpart", value=too_long)
            raise self._fail("truncation_strategy", what, self._unchanged())
        self.out.put("data.too_long", TOO_LONG[too_long], self._origin("truncation_strategy") or "its default")

    def _system(self, given: str) -> str:
        if not given.endswith(".txt"):
            return given.replace("\\n", "\n")
        file = self._file(given)
        if file is None:
            raise self._fail("system", Message("{file}: no such file", file=given), Message("put it there"))
        return file.read_text(encoding="utf-8")

    def _train_on(self, scale: str) -> None:
        first, *more = scale.split("+")
        if first not in TRAIN_ON:
            first, more = "default", [first, *more]
        if set(more) - {"ignore_empty_think"}:
            what = Message("loss_scale: {value!r} weighs tokens, which has no counterpart", value=scale)
            raise self._fail("loss_scale", what, self._unchanged())
        if self._is_of_texts and TRAIN_ON[first] != "all":
            raise self._fail("loss_scale", Message("loss_scale: a text is trained whole"), self._unchanged())
        if not self._is_of_texts and TRAIN_ON[first] != "answers":
            self.out.put("data.train_on", TRAIN_ON[first], self._origin("loss_scale"))


def _first_row(file: Path) -> dict[str, Any]:
    """{} where it is not seen here."""
    try:
        if file.suffix == ".csv":
            with file.open(encoding="utf-8-sig", newline="") as lines:
                return next(iter(csv.DictReader(lines)), {})
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8-sig") as lines:
                row = json.loads(next((line for line in lines if line.strip()), "{}"))
        elif file.suffix == ".json" and file.stat().st_size < 1 << 28:
            value = json.loads(file.read_text(encoding="utf-8-sig"))
            row = value[0] if isinstance(value, list) and value else value
        else:
            return {}
    except (OSError, ValueError, RecursionError, csv.Error):
        return {}
    return row if isinstance(row, dict) else {}
