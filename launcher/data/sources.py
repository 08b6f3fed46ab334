"""Where the rows of a recipe's sets are: files on this machine, or a data set that only `datasets` can load."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.data.readers import table
from launcher.data.readers.base import Reader
from launcher.data.splits import Slice, parsed
from launcher.errors import LaunchError
from launcher.messages import Message, joined
from launcher.recipe import formats
from launcher.recipe.schema import Data, DataSet, Split

SHEETS = frozenset({".xlsx", ".xls", ".ods"})
_KEYWORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "dev", "val"),
}
"""Words in the names of a folder's files, as datasets knows them → the split."""
_NO_ROWS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"})


@dataclass(frozen=True)
class Source:
    """One set, and which of its rows."""

    key: str
    """Of the recipe: data, data.sets[0], data.eval.sets.math."""
    spec: DataSet
    prompt: str | None = None

    @property
    def where(self) -> str:
        """The file or data set, for messages."""
        files = self.spec.data_files
        if files is None or self.spec.path not in table.BUILDERS:
            return self.spec.path
        if isinstance(files, dict):
            files = files.get(parsed(self.spec.split)[0].base, files)
        return files if isinstance(files, str) else f"{self.spec.path} {json.dumps(files)}"

    def reader(self, path: Path) -> Reader | None:
        """What reads one of its files: as data.path says, else by the file's name."""
        return table.BUILDERS.get(self.spec.path) or table.of(path)


def of_split(data: Data, split: Split, key: str = "data") -> Source:
    """A split of `data.path`."""
    fields = ("path", "name", "data_files", "data_dir", "revision", "format", "system")
    spec = DataSet(
        **{field: getattr(data, field) for field in fields},
        columns=_columns(data, data.columns),
        split=split.split,
        limit=split.limit,
        seed=split.seed,
    )
    return Source(key, spec, data.prompt)


def _columns(data: Data, names: Mapping[str, str]) -> dict[str, str]:
    return {"text": data.text, **names} if data.text != Data.model_fields["text"].default else dict(names)


def train(data: Data) -> list[Source]:
    """The sets that are trained on."""
    if not data.sets:
        return [of_split(data, data.train)]
    return [
        Source(f"data.sets[{number}]", _with_defaults(data, one), data.prompt) for number, one in enumerate(data.sets)
    ]


def evaluation(data: Data) -> dict[str, Source]:
    """The sets that are evaluated, but for rows that are held out of those that are trained on: by the names under which
    their rows are kept, `eval`, or `eval.NAME` where the recipe has names."""
    if data.eval is None or data.eval.hold_out is not None:
        return {}
    if data.eval.sets is None:
        return {"eval": of_split(data, data.eval, "data.eval")}
    return {
        f"eval.{name}": Source(f"data.eval.{name}", _with_defaults(data, one), data.prompt)
        for name, one in data.eval.sets.items()
    }


def _with_defaults(data: Data, spec: DataSet) -> DataSet:
    """`data.format`, `columns` and `system` are those of sets that have none."""
    given = {
        "format": spec.format if spec.format != formats.AUTO else data.format,
        "columns": _columns(data, spec.columns or data.columns),
        "system": spec.system if spec.system is not None else data.system,
    }
    return spec.model_copy(update=given)


@dataclass(frozen=True)
class Part:
    """Files of one split of a set, and which of their rows."""

    files: tuple[Path, ...]
    rows: Slice


def local(source: Source) -> list[Part] | None:
    """The files of a set on this machine; None where only `datasets` can load it.

    Raises:
        LaunchError: what the recipe names is not there, or has no such split.
    """
    slices = parsed(source.spec.split)
    parts = [_files(source, one.base) for one in slices]
    chosen = [Part(tuple(files), one) for files, one in zip(parts, slices, strict=True) if files is not None]
    return chosen if len(chosen) == len(slices) else None


def is_here(source: Source) -> bool:
    """Whether what a set names is on this machine: its file or folder, or one of its files."""
    files, path = source.spec.data_files, Path(source.spec.path).expanduser()
    if files is None or source.spec.path not in table.BUILDERS:
        return path.exists()
    by_split = files.values() if isinstance(files, dict) else [files]
    named = [name for one in by_split for name in ([one] if isinstance(one, str) else one)]
    return all(Path(name).expanduser().exists() for name in named)


def _is_file_name(path: str) -> bool:
    return table.ending(path) in table.BY_ENDING.keys() | SHEETS


def _files(source: Source, split: str) -> list[Path] | None:
    spec = source.spec
    path = Path(spec.path).expanduser()
    if spec.path in table.BUILDERS:
        return _named(source, spec.data_files, split, Path(spec.data_dir) if spec.data_dir else None)
    if path.is_file():
        return _single(source, path, split)
    if path.is_dir():
        folder = path / spec.data_dir if spec.data_dir else path
        if spec.data_files is not None:
            return _named(source, spec.data_files, split, folder)
        return _of_folder(source, folder, split)
    if _is_file_name(spec.path):
        raise LaunchError("{key}: {path}: no such file", hint="check its name", key=source.key, path=spec.path)
    return None


def _single(source: Source, path: Path, split: str) -> list[Path]:
    if table.ending(path.name) in SHEETS:
        raise LaunchError("{path}: is a spreadsheet and no text", hint="save it as CSV in UTF-8", path=path)
    if table.of(path) is None:
        raise LaunchError(
            "{path}: a file of this kind is not read; known are {endings}",
            hint="say in its name what it holds, as rows.jsonl does; or name it as data.data_files with data.path=json, "
            "csv, parquet, arrow or text",
            path=path,
            endings=", ".join(table.BY_ENDING),
        )
    if split != "train":
        raise _no_split(source, path, split, ["train"])
    return [path]


def _no_split(source: Source, where: object, split: str, names: Sequence[str]) -> LaunchError:
    if source.key != "data.eval":
        return LaunchError(
            "{key}: {where}: no split {split!r}; there is {names}",
            hint="name one of these as its split",
            key=source.key,
            where=where,
            split=split,
            names=joined(names),
        )
    others = [name for name in names if name != "train"]
    another = Message("evaluate on its split: data.eval.split={other}; or ", other=others[0]) if others else ""
    return LaunchError(
        "{where}: has no split {split!r} to evaluate on",
        hint="{another}hold rows out of training: data.eval=0.1; or evaluate on none: data.eval=null",
        where=where,
        split=split,
        another=another,
    )


def _named(source: Source, names: Any, split: str, folder: Path | None) -> list[Path] | None:
    """The files that `data_files` names for a split; None where they are at a URL."""
    if names is None:
        raise LaunchError(
            "{key}: path {path!r} says how files are read, but not which",
            hint="name the file as path, or add data_files",
            key=source.key,
            path=source.spec.path,
        )
    by_split = names if isinstance(names, dict) else {"train": names}
    if split not in by_split:
        raise _no_split(source, source.where, split, list(by_split))
    given = by_split[split]
    out: list[Path] = []
    for name in [given] if isinstance(given, str) else given:
        if re.match(r"\w+://", name):
            return None
        out += _matches(source, Path(name).expanduser() if folder is None else folder / name)
    return out


def _matches(source: Source, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    anchor = path.anchor
    matches = sorted(one for one in Path(anchor).glob(str(path).removeprefix(anchor)) if one.is_file())
    if not matches:
        raise LaunchError(
            "{key}: {path}: no such file", hint="check data.path and data.data_files", key=source.key, path=path
        )
    return matches


def _of_folder(source: Source, folder: Path, split: str) -> list[Path] | None:
    if (folder / "dataset_dict.json").is_file():
        names = [one.name for one in sorted(folder.iterdir()) if saved_files(one)]
        if split not in names:
            raise _no_split(source, folder, split, names)
        return saved_files(folder / split)
    if saved := saved_files(folder):
        if split != "train":
            raise _no_split(source, folder, split, ["train"])
        return saved
    if any(folder.glob("*.py")):  # a script of the data set's own, which nobody runs; datasets says so
        return None
    by_split = _by_split(folder)
    if not by_split:
        raise LaunchError(
            "{key}: {folder}: holds no file of rows; known are {endings}",
            hint="check its name",
            key=source.key,
            folder=folder,
            endings=", ".join(table.BY_ENDING),
        )
    if split not in by_split:
        raise _no_split(source, folder, split, list(by_split))
    return by_split[split]


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """A folder's files by the words in their names; all are `train` where none has such a word."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and table.of(path) is not None
        and path.name not in _NO_ROWS
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )
    data = [path for path in files if table.ending(path.name) != ".txt"] or files  # not a licence beside rows
    by_split: dict[str, list[Path]] = {}
    for path in data:
        words = re.split(r"[^a-z]+", str(path.relative_to(folder)).lower())
        split = next((name for name, known in _KEYWORDS.items() if set(known) & set(words)), None)
        if split is not None:
            by_split.setdefault(split, []).append(path)
    return by_split or ({"train": data} if data else {})


def saved_files(folder: Path) -> list[Path]:
    """The files of one data set that save_to_disk left in a folder, in order; none of another folder."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [row["filename"] for row in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = all(isinstance(name, str) and name == Path(name).name for name in names)
    return [folder / name for name in names] if inside else []
