"""Which files a recipe's split names, and how these are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.recipe.schema import RecipeSpec, Split

BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
READER = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".arrow": "arrow",
}
TABS = frozenset({".tsv", ".tab"})
SHEETS = frozenset({".xlsx", ".xls", ".ods"})
COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip"})


def where(recipe: RecipeSpec, split: Split) -> str:
    """The file or data set, for messages."""
    files = files_of(recipe, split)
    if isinstance(files, dict) and len(files) == 1:
        (files,) = files.values()
    if files is None:
        return recipe.data.path
    return files if isinstance(files, str) else f"{recipe.data.path} {json.dumps(files)}"


def saved_files(folder: Path) -> list[str]:
    """The files of one data set that save_to_disk left in a folder, in order; none of another folder."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [row["filename"] for row in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = all(isinstance(name, str) and name == Path(name).name for name in names)
    return [str(folder / name) for name in names] if inside else []


def read_options(recipe: RecipeSpec, split: Split) -> dict[str, Any]:
    """What the names of a split's files tell of how they are read: tabs part the columns of a TSV file."""
    if recipe.data.path != "csv":
        return {}
    ends = {ending(name) for name in _names(files_of(recipe, split))}
    if len(ends & TABS) and len(ends - TABS):
        raise LaunchError(
            "{where}: files with tabs and files with commas are read apart",
            hint="name files of one kind for a split",
            where=where(recipe, split),
        )
    return {"delimiter": "\t"} if ends & TABS else {}


def _names(files: Any) -> list[str]:
    if isinstance(files, dict):
        return [name for part in files.values() for name in _names(part)]
    return [files] if isinstance(files, str) else list(files or ())


def ending(name: str) -> str:
    path = Path(name)
    return (Path(path.stem) if path.suffix in COMPRESSED else path).suffix.lower()


def files_of(recipe: RecipeSpec, split: Split) -> Any:
    """The files of one split alone, where the recipe names them: read together, a builder wants equal columns in all,
    and cannot say which file it stumbled over."""
    files, base = recipe.data.data_files, split.split.partition("[")[0]
    if recipe.data.path in BUILDERS and isinstance(files, dict) and base in files:
        return {base: files[base]}
    return files


def local_files(recipe: RecipeSpec, split: Split) -> list[Path]:
    """The split's files, where the recipe names them and they are here."""
    named = [Path(name) for name in _names(files_of(recipe, split))]
    return [path for path in named if path.is_file()]
