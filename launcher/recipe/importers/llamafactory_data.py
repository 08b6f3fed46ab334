"""The data of a LLaMA-Factory YAML: its data sets, their columns and their splits."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.importers.llamafactory_given import Given, read_json
from launcher.recipe.importers.llamafactory_keys import (
    ENTRY,
    short,
)

MAX_LABELS = 64
"""More different responses than this are text to be written, not labels."""
MAX_LABEL_LETTERS = 80
"""A response longer than this is a text, unless --labels names it."""


class Data(Given):
    """The part of an import that reads data sets."""

    def _data(self, labels: tuple[str, ...]) -> None:
        train = self._datasets("dataset", labels)
        if not train:
            raise self._fail("dataset", Message("names no dataset"), Message("a training file has `dataset:`"))
        other = self._datasets("eval_dataset", labels)
        first, origin = train[0], self._origin("dataset")
        if other and _make(first) != _make(other[0]):
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
        prompt, query, response, system_column = (columns.get(k) for k in ("prompt", "query", "response", "system"))
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
        for name in [c for c in (prompt, query, response, system_column) if c is not None]:
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
        number = next((i for i, row in enumerate(rows, 1) if row.get(columns.get("history", ""))), None)
        if number is not None:
            raise self._fail(
                "dataset",
                Message(
                    "{title}: row {number} has earlier turns in {history!r}, and a recipe has one text a row",
                    title=title,
                    number=number,
                    history=columns["history"],
                ),
                Message("join them with the text in the data"),
            )
        instructions = {row.get(prompt) or "" for row in rows}
        has_query = query is not None and any(row.get(query) for row in rows)
        for needed in (query if has_query else prompt, response):
            number = next((i for i, row in enumerate(rows, 1) if row.get(needed) is None), None)
            if number is not None:
                raise self._fail(
                    "dataset",
                    Message("{title}: row {number} has no {needed!r}", title=title, number=number, needed=needed),
                    Message("correct the data, or name its columns in dataset_info.json"),
                )
        system = {row.get(system_column) or "" for row in rows}
        origin = Message("columns of {title} in {info}", title=title, info=first["info"])
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
        text = query if has_query else prompt
        self.out.put("data.text", text, origin)
        self.out.put("data.label", response, origin)
        if has_query and not self._has_head and instructions != {""}:
            self.out.put(
                "data.prompt",
                f"{next(iter(instructions))}\n{{text}}",
                Message("the {prompt!r} of all rows", prompt=prompt),
            )
        elif has_query and instructions != {""}:
            self._leave(
                "dataset",
                Message(
                    "the {prompt!r} that all rows share: a classification head reads the text alone", prompt=prompt
                ),
            )
        if len(system) == 1 and not self._has_head:
            if system != {""}:
                self.out.put(
                    "data.system",
                    next(iter(system)),
                    Message("the {system_column!r} of all rows", system_column=system_column),
                )
        elif system_column is not None:
            why = (
                Message("a classification head reads the text alone")
                if self._has_head
                else Message("a recipe has one for all rows")
            )
            self._leave("dataset", Message("the column {system_column!r}: {why}", system_column=system_column, why=why))
        found = list(dict.fromkeys(str(row.get(response)) for row in rows))
        names = labels or tuple(sorted(found))
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
        if rows and (never := [name for name in labels if name not in found]):
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

    def _datasets(self, key: str, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        names = self._names(key)
        self.done.add("dataset_dir")
        if not names:
            return []
        folder = Path(str(self.given.get("dataset_dir", "data")))
        info_path = next(
            (
                p
                for p in (
                    folder / "dataset_info.json",
                    self.path.parent / folder / "dataset_info.json",
                    self.path.parent / "dataset_info.json",
                )
                if p.is_file()
            ),
            None,
        )
        if info_path is None:
            raise self._fail(
                key,
                Message("no dataset_info.json in {folder}", folder=folder),
                Message("put it there, or set dataset_dir in that file"),
            )
        info = read_json(info_path)
        if not isinstance(info, dict):
            raise LaunchError(
                "{info_path}: is no mapping of data sets' names", hint="correct that file", info_path=info_path
            )
        found = [self._dataset(key, name, info, info_path) for name in names]
        self._require_labels(key, found, labels)
        for row in found[1:]:
            if _make(row) != _make(found[0]) or "file" not in row:
                raise self._fail(
                    key,
                    Message(
                        "{title} and {actual_title} are of different make",
                        title=row["title"],
                        actual_title=found[0]["title"],
                    ),
                    Message("a recipe has one kind of data: name one of them"),
                )
        return found

    def _require_labels(self, key: str, sets: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
        """Labels repeat and texts do not: refuse data to write from, whatever else is wrong with them.

        Raises:
            LaunchError: responses that are texts, or that --labels does not name.
        """
        for one in sets:
            if "file" in one and one["file"] not in self._seen:
                self._seen[one["file"]] = one.get("rows") or _rows(Path(one["file"]))
        rows = [row for one in sets if "file" in one for row in self._seen[one["file"]]]
        title = ", ".join(one["title"] for one in sets)
        column = sets[0]["columns"].get("response")
        counts = Counter(str(row[column]) for row in rows if isinstance(row.get(column), str | int | float))
        if len(rows) < 2 or not counts:
            return
        if labels:
            number, odd = next(
                ((i, str(row.get(column))) for i, row in enumerate(rows, 1) if str(row.get(column)) not in labels),
                (0, ""),
            )
            if number:
                raise self._fail(
                    key,
                    Message(
                        "{title}: row {number} has the response {odd}, which --labels does not name",
                        title=title,
                        number=number,
                        odd=short(odd),
                    ),
                    Message("name every response that the data has, or leave --labels out"),
                )
            return
        once = sum(1 for count in counts.values() if count == 1)
        long = max(counts, key=len)
        if len(counts) > MAX_LABELS or 2 * once > len(rows):
            why: str = Message(
                "{num_counts} different responses in {num_rows} rows, {once} of them once",
                num_counts=len(counts),
                num_rows=len(rows),
                once=once,
            )
        elif len(long) > MAX_LABEL_LETTERS or "\n" in long.strip():
            why = Message("a response is a text: {long}", long=short(long))
        else:
            return
        few = "" if len(counts) > MAX_LABELS else Message("; if these are labels, name them: --labels A,B")
        raise self._fail(
            key,
            Message("{title}: {why}: this model is to write, not to label", title=title, why=why),
            Message(
                "LLaMA-Factory trains that; ascend-launch trains labels, which repeat from row to row{few}", few=few
            ),
        )

    def _dataset(self, key: str, name: str, info: dict[str, Any], info_path: Path) -> dict[str, Any]:
        entry = info.get(name)
        if entry is None:
            raise self._fail(
                key,
                Message("{info_path} has no {name!r}", info_path=info_path, name=name),
                Message("it has {info}", info=", ".join(list(info)[:8]) or "nothing"),
            )
        texts = ("formatting", "file_name", "hf_hub_url", "subset", "split")
        given = entry.get("columns") or {} if isinstance(entry, dict) else None
        if not isinstance(given, dict) or not all(
            isinstance(v, str) for v in [*given.values(), *(entry[k] for k in texts if entry.get(k) is not None)]
        ):
            raise LaunchError(
                "{info_path}: {name}: not an entry as LLaMA-Factory reads it: {dumps}",
                hint="it is a mapping with file_name or hf_hub_url, and columns by name",
                info_path=info_path,
                name=name,
                dumps=json.dumps(entry, ensure_ascii=False)[:60],
            )
        if entry.get("formatting", "alpaca") != "alpaca" or entry.get("ranking"):
            self._require_labels(key, [_conversations(name, entry, info_path)], ())
            raise self._fail(
                key,
                Message(
                    "{name}: {formatting} data are conversations or rankings",
                    name=name,
                    formatting=entry.get("formatting", "ranking"),
                ),
                Message("a recipe needs a text and a label a row: export them as JSON lines"),
            )
        columns = {"prompt": "instruction", "query": "input", "response": "output", **given}
        if given and "query" not in given:
            columns.pop("query")
        if "history" in columns:
            self._leave(
                key, Message("the column {history!r}: a row is one question and one answer", history=columns["history"])
            )
        for odd in sorted(entry.keys() - ENTRY):
            self._leave(key, Message("{odd!r} of {name} in {info_path}", odd=odd, name=name, info_path=info_path.name))
        row = {"title": name, "info": info_path.name, "columns": columns, "split": entry.get("split", "train")}
        if "hf_hub_url" in entry:
            return {**row, "path": entry["hf_hub_url"], "name": entry.get("subset")}
        if "file_name" not in entry:
            keys = ", ".join(entry.keys() - ENTRY) or "nothing"
            raise self._fail(
                key,
                Message(
                    "{info_path}: {name} names no file and no data set of Hugging Face's hub: it has {keys}",
                    info_path=info_path,
                    name=name,
                    keys=keys,
                ),
                Message("download it, and name its file as file_name"),
            )
        file = info_path.parent / str(entry["file_name"])
        if file.is_dir():
            raise self._fail(
                key,
                Message("{name}: {file} is a folder", name=name, file=file),
                Message("name one file of it as file_name, or each as a data set of its own"),
            )
        if not file.is_file():
            raise self._fail(
                key, Message("{name}: {file}: no such file", name=name, file=file), Message("check dataset_info.json")
            )
        kind = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}.get(file.suffix, "json")
        return {**row, "path": kind, "file": str(file), "split": "train"}


def _conversations(name: str, entry: dict[str, Any], info_path: Path) -> dict[str, Any]:
    """Conversations as rows with the last turn's text, which tells whether they are to be learned as labels or as texts."""
    columns = {"messages": "conversations", **(entry.get("columns") or {})}
    tags = {"content_tag": "value", **(entry.get("tags") or {})}
    dataset: dict[str, Any] = {"title": name, "columns": {"response": "answer"}}
    file = info_path.parent / str(entry.get("file_name", ""))
    if entry.get("ranking") or not file.is_file():
        return dataset
    turns = [row.get(columns["messages"]) for row in _rows(file)]
    last = [t[-1] for t in turns if isinstance(t, list) and t and isinstance(t[-1], dict)]
    answers = [turn.get(tags["content_tag"], turn.get("content")) for turn in last]
    return {**dataset, "file": f"{file}#answers", "rows": [{"answer": answer} for answer in answers]}


def _make(dataset: dict[str, Any]) -> tuple[Any, ...]:
    """What rows must have in common to be read as one."""
    return dataset["path"], dataset.get("name"), dataset["columns"], "file" in dataset


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a local file; none of a kind that is not read here, whose labels must be named."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        if path.suffix not in (".json", ".jsonl", ".csv"):
            return []
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines(keepends=True)))
        value = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
        if odd := [i for i, row in enumerate(value, 1) if not isinstance(row, dict)]:
            raise ValueError(Message("row {odd} is no JSON object", odd=odd[0]))
    except UnicodeDecodeError as error:
        raise LaunchError(
            "{path}: is not UTF-8 text (its byte {start})",
            hint="write it as UTF-8, for Chinese text of Excel: iconv -f GB18030 -t UTF-8 {value} > NEW",
            path=path,
            start=error.start,
            value=shlex.quote(str(path)),
        ) from None
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise LaunchError("{path}: cannot be read: {error}", hint="correct that file", path=path, error=error) from None
    return value
