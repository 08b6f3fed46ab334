"""Importers of other tools' training files. Each is one module, or an entry point of another package in the group
`ascend_launch.importers`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from launcher.errors import LaunchError
from launcher.messages import joined
from launcher.plugins import Table
from launcher.recipe import load, yamlfile
from launcher.recipe.importers.base import INTERFACE, Imported, Importer, Source

_HERE = "launcher.recipe.importers"
TABLE: Table[Importer] = Table(
    "importer",
    "ascend_launch.importers",
    INTERFACE,
    {
        "llamafactory": f"{_HERE}.llamafactory:LLAMAFACTORY",
        "ms-swift": f"{_HERE}.msswift:MSSWIFT",
        "axolotl": f"{_HERE}.axolotl:AXOLOTL",
    },
)
_DOCUMENTS = (".yaml", ".yml", ".json")


def convert(path: Path, *, nproc: int | None, task: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read a training file of another tool, recognised by what is in it.

    Args:
        path: the file.
        nproc: ranks that it ran on, where it does not say so itself; its global batch follows.
        task: of a recipe; of one with labels the responses are the labels.
        labels: the responses in the order of their numbers; () to read them from the data.

    Raises:
        LaunchError: it is no such file, trains something else, or its data are not labels.
    """
    source = _read(path)
    importers = [TABLE.load(name) for name in TABLE.names()]
    importer = next((one for one in importers if one.fits(source)), None)
    if importer is None:
        raise LaunchError(
            "{path}: is no training file that can be imported: it names no {known}",
            hint="name one of these",
            path=path,
            known=joined([one.names for one in importers], ", "),
        )
    made = importer.convert(source, nproc=nproc, task=task, labels=labels)
    _require_recipe(path, made.text)
    return made


def _read(path: Path) -> Source:
    text = ""
    if path.suffix not in _DOCUMENTS and path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(yamlfile.MAX_BYTES)
    if _is_script(path, text):
        return Source(path, text, {}, {})
    document = yamlfile.load(path, "training")
    value = document.value if isinstance(document.value, dict) else {}
    return Source(path, text, value, document.lines)


def _is_script(path: Path, text: str) -> bool:
    return path.suffix in (".sh", ".bash") or bool(re.search(r"(?m)^#!|^(\w+=\S*\s+)*(swift|megatron)\s", text))


def _require_recipe(path: Path, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "imported.yaml"
        try:
            made.write_text(text, encoding="utf-8")
        except UnicodeEncodeError:
            raise LaunchError(
                "{path}: one of its values or labels holds half of a surrogate pair, which is not text",
                hint="correct it there",
                path=path,
            ) from None
        try:
            load.load(made, env={})
        except LaunchError as error:
            raise LaunchError(
                "{path}: its values make no recipe:\n{what}",
                hint="correct them there",
                path=path,
                what=_at_source(error.what, made, path, text),
            ) from None


def _at_source(message: str, made: Path, path: Path, text: str) -> str:
    """A message about the recipe that was made, with the line of the file that its value came from."""
    origins = [re.search(r"# .*\(line (\d+)\)", line) for line in text.splitlines()]

    def place(position: re.Match[str]) -> str:
        origin = origins[int(position[1]) - 1]
        return f"{path}:{origin[1]}" if origin else str(path)

    return re.sub(re.escape(str(made)) + r":(\d+)", place, message).replace(str(made), str(path))
