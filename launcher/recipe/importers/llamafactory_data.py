"""The data of a LLaMA-Factory YAML as a recipe's: its columns, labels and splits."""

from __future__ import annotations

import json
import math
from typing import Any

from launcher.messages import Message
from launcher.recipe.importers.given import short
from launcher.recipe.importers.llamafactory_datasets import Datasets, make


class Data(Datasets):
    """The part of an import that says which columns and rows the recipe reads."""

    def _data(self, labels: tuple[str, ...]) -> None:
        train = self._datasets("dataset", labels)
        if not train:
            raise self._fail("dataset", Message("names no dataset"), Message("a training file has `dataset:`"))
        other = self._datasets("eval_dataset", labels)
        first, origin = train[0], self._origin("dataset")
        if other and make(first) != make(other[0]):
            raise self._fail(
                "eval_dataset",
                Message(
                    "{title} and {first_title} are of different make",
                    title=other[0]["title"],
                    first_title=first["title"],
                ),
                Message(
                    "a recipe has one kind of data: files of one format with the same columns, or splits of one hub id"
                ),
            )
        for key in ("path", "name"):
            if first.get(key):
                self.out.put(f"data.{key}", first[key], origin)
        files = [row["file"] for row in train if "file" in row]
        if files:
            both = {"train": files[0] if len(files) == 1 else files}
            if other:
                held = [row["file"] for row in other]
                both["test"] = held[0] if len(held) == 1 else held
            self.out.put("data.data_files", both, self._origin("dataset", "eval_dataset"))
        rows = [self._seen[name] for name in files]
        self._columns(first, [row for part in rows for row in part], labels)
        self._splits(first, other, [len(part) or None for part in rows] or [None])
        self.out.put("data.max_length", self._take("cutoff_len", 2048), self._origin("cutoff_len") or "its default")
        self._move("preprocessing_num_workers", "data.num_proc")

    def _splits(self, first: dict[str, Any], other: list[dict[str, Any]], sizes: list[int | None]) -> None:
        """Which rows train and which are held out. `sizes`: rows of each training set, where they are known.

        LLaMA-Factory takes max_samples of each set first and holds out val_size of what is left (its data/loader.py).
        """
        limit = self._take("max_samples", None, Message("a whole number above 0"))
        share, split = self._take("val_size", 0, Message("a number, at least 0")), first["split"]
        origin = self._origin("max_samples", "val_size", "eval_dataset")
        taken = [size if limit is None else min(limit, size or limit) for size in sizes]
        total = None if None in taken else sum(n for n in taken if n is not None)
        train: dict[str, Any] = {"split": split}
        held: dict[str, Any] | None = None
        if other:
            if share:
                self._leave("val_size", "the rows of eval_dataset are held out")
            held = {"split": "test" if "file" in other[0] else other[0]["split"]}
            if limit:
                held["limit"] = limit * len(other)
        elif share:
            cut = self._cut(share, total)
            train["split"], held = f"{split}[:{cut}]", {"split": f"{split}[{cut}:]"}
            if total is not None:
                total += int(cut)  # so many less
            self._leave("val_size", "which rows: the last ones of the split here, drawn at random there")
        if limit:
            train["limit"] = total
        self.out.put("data.train", train, origin)
        self.out.put("data.eval", held, origin or "it names none")

    def _cut(self, share: float, total: int | None) -> str:
        """Where a split is cut so that its end is held out: a number of rows, or of percents where rows are not known."""
        if share >= 1 or total is not None:
            rows = int(share) if share >= 1 else math.ceil(share * (total or 0))
            if total is not None and rows >= total:
                raise self._fail(
                    "val_size",
                    Message("{share:g} of {total} rows leaves none to train on", share=share, total=total),
                    Message("hold out fewer"),
                )
            return f"-{rows}"
        percent = max(1, round(100 * share))
        if not math.isclose(percent, 100 * share):
            self._leave(
                "val_size",
                Message(
                    "{share:g}, which is {percent} % here: a split that is not on this machine is cut at whole "
                    "percents",
                    share=share,
                    percent=percent,
                ),
            )
        return f"{100 - percent}%"

    def _columns(self, first: dict[str, Any], rows: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
        """Which column is the text and which the label; a constant instruction becomes the prompt."""
        columns, title = first["columns"], first["title"]
        prompt, query, response, system = (columns.get(k) for k in ("prompt", "query", "response", "system"))
        if query is not None and not rows:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: its rows cannot be seen here, so nobody knows whether the text is in {prompt!r} or "
                    "in {query!r}",
                    title=title,
                    prompt=prompt,
                    query=query,
                ),
                Message(
                    "name the text's column as prompt in dataset_info.json, without query, or make it a local JSON file"
                ),
            )
        self._require_texts(title, [c for c in (prompt, query, response, system) if c is not None], rows)
        if "history" in columns:
            self._refuse_history(title, columns["history"], rows)
        has_query = query is not None and any(row.get(query) for row in rows)
        text = query if has_query else prompt
        self._require_cells(title, (text, response), rows)
        instructions = {row.get(prompt) or "" for row in rows}
        if has_query and len(instructions) > 1:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: rows differ both in {prompt!r} and in {query!r}, and a recipe has one text column",
                    title=title,
                    prompt=prompt,
                    query=query,
                ),
                Message("join the two columns in the data"),
            )
        origin = Message("columns of {title} in {info}", title=title, info=first["info"])
        self.out.put("data.text", text, origin)
        self.out.put("data.label", response, origin)
        if has_query and instructions != {""}:
            self._instruction(prompt, next(iter(instructions)))
        self._system(system, {row.get(system) or "" for row in rows})
        self._label_names(title, response, rows, labels)

    def _require_texts(self, title: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
        """Raises LaunchError where a cell is neither text nor a number."""
        for name in columns:
            odd = next((row[name] for row in rows if not isinstance(row.get(name), str | int | float | None)), None)
            if odd is not None:
                raise self._fail(
                    "dataset",
                    Message(
                        "{title}: the column {name!r} is not text: {dumps}",
                        title=title,
                        name=name,
                        dumps=json.dumps(odd)[:40],
                    ),
                    Message("a recipe needs a text and a label a row"),
                )

    def _refuse_history(self, title: str, history: str, rows: list[dict[str, Any]]) -> None:
        """Raises LaunchError where a row has earlier turns in its column `history`."""
        number = next((i for i, row in enumerate(rows, 1) if row.get(history)), None)
        if number is not None:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: row {number} has earlier turns in {history!r}, and a recipe has one text a row",
                    title=title,
                    number=number,
                    history=history,
                ),
                Message("join them with the text in the data"),
            )

    def _require_cells(self, title: str, columns: tuple[Any, ...], rows: list[dict[str, Any]]) -> None:
        """Raises LaunchError where a row lacks one of the columns."""
        for needed in columns:
            number = next((i for i, row in enumerate(rows, 1) if row.get(needed) is None), None)
            if number is not None:
                raise self._fail(
                    "dataset",
                    Message("{title}: row {number} has no {needed!r}", title=title, number=number, needed=needed),
                    Message("correct the data, or name its columns in dataset_info.json"),
                )

    def _instruction(self, column: str, instruction: str) -> None:
        """The instruction that all rows share."""
        if not self._has_head:
            self.out.put(
                "data.prompt", f"{instruction}\n{{text}}", Message("the {prompt!r} of all rows", prompt=column)
            )
            return
        self._leave(
            "dataset",
            Message("the {prompt!r} that all rows share: a classification head reads the text alone", prompt=column),
        )

    def _system(self, column: str | None, texts: set[Any]) -> None:
        """The system message, which a recipe has where it is the same for all rows."""
        if len(texts) == 1 and not self._has_head:
            if texts != {""}:
                self.out.put(
                    "data.system",
                    next(iter(texts)),
                    Message("the {system_column!r} of all rows", system_column=column),
                )
        elif column is not None:
            why = (
                Message("a classification head reads the text alone")
                if self._has_head
                else Message("a recipe has one for all rows")
            )
            self._leave("dataset", Message("the column {system_column!r}: {why}", system_column=column, why=why))

    def _label_names(self, title: str, response: str, rows: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
        """The labels in the order of --labels, else of the alphabet."""
        responses = {str(row.get(response)) for row in rows}
        names = labels or tuple(sorted(responses))
        if not names:
            raise self._fail(
                "dataset",
                Message("{title}: its rows cannot be seen here, so nobody knows its labels", title=title),
                Message("name them: --labels bad,good"),
            )
        if len(names) < 2:
            raise self._fail(
                "dataset",
                Message("{title}: every row has the response {name}", title=title, name=short(names[0])),
                Message("there is nothing to tell apart: name data with two labels or more"),
            )
        if rows and (never := [name for name in labels if name not in responses]):
            self._leave(
                "dataset",
                Message(
                    "no row of {title} has the label {never}, which --labels names",
                    title=title,
                    never=", ".join(map(repr, never)),
                ),
            )
        self.out.put(
            "model.label_names",
            list(names),
            "--labels" if labels else Message("the different {response!r} of the data", response=response),
        )
