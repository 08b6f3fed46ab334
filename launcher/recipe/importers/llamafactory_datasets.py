"""The data sets that a LLaMA-Factory YAML names: their entries in dataset_info.json, and the rows of local files."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.importers.evaluations import Evaluations
from launcher.recipe.importers.given import KINDS, read_json, short
from launcher.recipe.importers.llamafactory_keys import ENTRY

MAX_LABELS = 64
"""More different responses than this are text to be written, not labels."""
MAX_LABEL_LETTERS = 80
"""A response longer than this is a text, unless --labels names it."""


class Datasets(Evaluations):
    """The part of an import that reads data sets."""

    def _datasets(self, key: str, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        names = self._names(key)
        self.done.add("dataset_dir")
        if not names:
            return []
        info_path = self._info_path(key)
        info = read_json(info_path)
        if not isinstance(info, dict):
            raise LaunchError(
                "{info_path}: is not a mapping of data sets' names", hint="correct that file", info_path=info_path
            )
        datasets = [self._dataset(key, name, info, info_path) for name in names]
        self._require_labels(key, datasets, labels)
        first = datasets[0]
        for dataset in datasets[1:]:
            if make(dataset) != make(first) or "file" not in dataset:
                raise self._fail(
                    key,
                    Message(
                        "{title} and {actual_title} are of different make",
                        title=dataset["title"],
                        actual_title=first["title"],
                    ),
                    Message("a recipe has one kind of data: name one of them"),
                )
        return datasets

    def _info_path(self, key: str) -> Path:
        """Of dataset_info.json: in dataset_dir, as the working directory or the YAML's folder has it, or beside the YAML.

        Raises:
            LaunchError: it is in none of them.
        """
        folder = Path(str(self.given.get("dataset_dir", "data")))
        for parent in (folder, self.path.parent / folder, self.path.parent):
            if (parent / "dataset_info.json").is_file():
                return parent / "dataset_info.json"
        raise self._fail(
            key,
            Message("no dataset_info.json in {folder}", folder=folder),
            Message("put it there, or set dataset_dir in that file"),
        )

    def _require_labels(self, key: str, datasets: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
        """Labels repeat and texts do not: refuse data to write from, whatever else is wrong with them.

        Raises:
            LaunchError: responses that are texts, or that --labels does not name.
        """
        local = [dataset for dataset in datasets if "file" in dataset]
        for dataset in local:
            if dataset["file"] not in self._seen:
                self._seen[dataset["file"]] = dataset.get("rows") or _rows(Path(dataset["file"]))
        rows = [row for dataset in local for row in self._seen[dataset["file"]]]
        title = ", ".join(dataset["title"] for dataset in datasets)
        column = datasets[0]["columns"].get("response")
        counts = Counter(str(row[column]) for row in rows if isinstance(row.get(column), str | int | float))
        if len(rows) < 2 or not counts:
            return
        if labels:
            self._require_named(key, title, [str(row.get(column)) for row in rows], labels)
            return
        why = _why_texts(counts, len(rows))
        if why is None:
            return
        few = "" if len(counts) > MAX_LABELS else Message("; if these are labels, name them: --labels A,B")
        raise self._fail(
            key,
            Message("{title}: {why}: this model is to write, not to label", title=title, why=why),
            Message(
                "LLaMA-Factory trains that; ascend-launch trains labels, which repeat from row to row{few}", few=few
            ),
        )

    def _require_named(self, key: str, title: str, responses: list[str], labels: tuple[str, ...]) -> None:
        """Raises LaunchError where --labels does not name a response."""
        for number, response in enumerate(responses, 1):
            if response not in labels:
                raise self._fail(
                    key,
                    Message(
                        "{title}: row {number} has the response {odd}, which --labels does not name",
                        title=title,
                        number=number,
                        odd=short(response),
                    ),
                    Message("name every response that the data has, or leave --labels out"),
                )

    def _dataset(self, key: str, name: str, info: dict[str, Any], info_path: Path) -> dict[str, Any]:
        """What dataset_info.json says of one data set, and what LLaMA-Factory assumes where it says nothing.

        Raises:
            LaunchError: it has no such entry, or one of data that a recipe cannot read.
        """
        entry = self._entry(key, name, info, info_path)
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
        columns = _columns(entry)
        if "history" in columns:
            self._leave(
                key, Message("the column {history!r}: a row is one question and one answer", history=columns["history"])
            )
        for odd in sorted(entry.keys() - ENTRY):
            self._leave(key, Message("{odd!r} of {name} in {info_path}", odd=odd, name=name, info_path=info_path.name))
        dataset = {"title": name, "info": info_path.name, "columns": columns, "split": entry.get("split", "train")}
        if "hf_hub_url" in entry:
            return {**dataset, "path": entry["hf_hub_url"], "name": entry.get("subset")}
        file = self._file(key, name, entry, info_path)
        kind = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}.get(file.suffix, "json")
        return {**dataset, "path": kind, "file": str(file), "split": "train"}

    def _entry(self, key: str, name: str, info: dict[str, Any], info_path: Path) -> dict[str, Any]:
        """Raises LaunchError where there is none, or its values are not of the types that LLaMA-Factory reads."""
        entry = info.get(name)
        if entry is None:
            raise self._fail(
                key,
                Message("{info_path} has no {name!r}", info_path=info_path, name=name),
                Message("it has {info}", info=", ".join(list(info)[:8]) or "nothing"),
            )
        if not is_entry(entry):
            raise LaunchError(
                "{info_path}: {name}: not an entry as LLaMA-Factory reads it: {dumps}",
                hint="it is a mapping with file_name or hf_hub_url, and columns by name",
                info_path=info_path,
                name=name,
                dumps=json.dumps(entry, ensure_ascii=False)[:60],
            )
        return dict(entry)

    def _file(self, key: str, name: str, entry: dict[str, Any], info_path: Path) -> Path:
        """The local file of an entry. Raises LaunchError where it names none, or none that is a file."""
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
        return file


def _is_count(value: Any) -> bool:
    return KINDS["a whole number above 0"](value)


def is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    columns, tags, count = entry.get("columns") or {}, entry.get("tags") or {}, entry.get("num_samples")
    if not isinstance(columns, dict) or not isinstance(tags, dict) or not (count is None or _is_count(count)):
        return False
    texts = (entry[k] for k in ("formatting", "file_name", "hf_hub_url", "subset", "split") if entry.get(k) is not None)
    return all(isinstance(value, str) for value in (*columns.values(), *tags.values(), *texts))


def _columns(entry: dict[str, Any]) -> dict[str, str]:
    """LLaMA-Factory's names of columns, and the entry's; no query where the entry names columns and not that one."""
    given = entry.get("columns") or {}
    columns = {"prompt": "instruction", "query": "input", "response": "output", **given}
    if given and "query" not in given:
        columns.pop("query")
    return columns


def _why_texts(counts: Counter[str], num_rows: int) -> str | None:
    """Why responses, each with the number of its rows, are taken for texts; None where they may be labels."""
    once = sum(1 for count in counts.values() if count == 1)
    longest = max(counts, key=len)
    if len(counts) > MAX_LABELS or 2 * once > num_rows:
        return Message(
            "{num_counts} different responses in {num_rows} rows, {once} of them once",
            num_counts=len(counts),
            num_rows=num_rows,
            once=once,
        )
    if len(longest) > MAX_LABEL_LETTERS or "\n" in longest.strip():
        return Message("a response is a text: {long}", long=short(longest))
    return None


def _conversations(name: str, entry: dict[str, Any], info_path: Path) -> dict[str, Any]:
    """Conversations as rows with the last turn's text, which shows whether they are to be learned as labels or as texts."""
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


def make(dataset: dict[str, Any]) -> tuple[Any, ...]:
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
            raise ValueError(Message("row {odd} is not a JSON object", odd=odd[0]))
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
