"""The readers, by the endings of files' names."""

from __future__ import annotations

from pathlib import Path

from launcher.data.encodings import UNPACK
from launcher.data.readers.base import Reader
from launcher.data.readers.columnar import ARROW, PARQUET
from launcher.data.readers.conll import CONLL
from launcher.data.readers.csvfile import CSV
from launcher.data.readers.jsonfile import JSON
from launcher.data.readers.textfile import TEXT

READERS: tuple[Reader, ...] = (JSON, CSV, PARQUET, ARROW, TEXT, CONLL)
BY_ENDING = {ending: reader for reader in READERS for ending in reader.endings}
BUILDERS: dict[str, Reader] = {
    "json": JSON,
    "csv": CSV,
    "parquet": PARQUET,
    "arrow": ARROW,
    "text": TEXT,
    "conll": CONLL,
}
"""load_dataset's names, and conll."""


def ending(name: str) -> str:
    """Of a file's name, without that of its compression: `.jsonl` of chats.jsonl.gz."""
    path = Path(name)
    return (Path(path.stem) if path.suffix.lower() in UNPACK else path).suffix.lower()


def of(path: Path) -> Reader | None:
    """The reader of a file by its name; None where there is none."""
    return BY_ENDING.get(ending(path.name))
