"""What an importer of another tool's training files is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from launcher.recipe.yamlfile import KeyPath

INTERFACE = 1


@dataclass(frozen=True)
class Source:
    """A file that is to be imported."""

    path: Path
    text: str
    value: Mapping[str, Any]
    """The mapping that it is as YAML or JSON; empty where it is something else."""
    lines: Mapping[KeyPath, int]
    """The line of each value, by its keys and numbers in lists."""

    def key_lines(self) -> dict[Any, int]:
        """The line of each key of the mapping."""
        return {path[0]: line for path, line in self.lines.items() if len(path) == 1}


@dataclass(frozen=True)
class Left:
    """A key that the recipe does not keep."""

    where: str
    """Its line."""
    key: str
    reason: str


@dataclass
class Imported:
    """The recipe's text, and what is not in it."""

    text: str
    left: list[Left]


class Importer(Protocol):
    """Reads the files of one tool."""

    @property
    def interface(self) -> int: ...

    @property
    def names(self) -> str:
        """What its files have, and whose they are, for a message: base_model (axolotl)."""

    def fits(self, source: Source) -> bool:
        """Whether the file is one of this tool."""

    def convert(self, source: Source, *, nproc: int | None, task: str, labels: tuple[str, ...]) -> Imported:
        """Its recipe.

        Args:
            source: a file that fits.
            nproc: ranks that it ran on; None where nobody said.
            task: of the recipe; of one with labels the responses are the labels.
            labels: the responses in the order of their numbers; () to read them from the data.

        Raises:
            LaunchError: it trains what a recipe cannot.
        """
