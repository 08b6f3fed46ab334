"""Which files a recipe's split names, and how these are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launcher.data.readers.csvfile import TABS
from launcher.data.readers.table import ending
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


def where(recipe: RecipeSpec, split: Split) -> str:
    """The file or data set, for messages."""
    files = files_of(recipe, split)
    if isinstance(files, dict) and len(files) == 1:
        (files,) = files.values()
    if files is None:
        return recipe.data.path
    return files if isinstance(files, str) else f"{recipe.data.path} {json.dumps(files)}"


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
