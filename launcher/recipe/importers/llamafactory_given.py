"""What an importer reads and writes: keys of a LLaMA-Factory YAML, taken one by one, and a recipe's text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.importers.llamafactory_keys import (
    KINDS,
    to_number,
)
from launcher.recipe.tasks import table as tasks


@dataclass(frozen=True)
class Left:
    """A key that the recipe does not keep."""

    where: str
    key: str
    reason: str


@dataclass
class Writer:
    """Values of the recipe in the order of its sections, each with the comment that says where it came from."""

    values: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)

    def put(self, path: str, value: Any, origin: str) -> None:
        section, _, key = path.partition(".")
        self.values.setdefault(section, {})[key] = (value, origin)

    def text(self, head: Iterable[str]) -> str:
        lines = [f"# {_one_line(line)}".rstrip() for line in head]
        for section in ("model", "data", "training", "parallel", "adapter", "metrics", "output_dir"):
            rows = self.values.get(section)
            if rows is None:
                continue
            if "" in rows:
                value, origin = rows[""]
                lines.append(f"{section}: {_yaml(value)}{f'  # {_one_line(origin)}' if origin else ''}")
                continue
            lines.append(f"{section}:")
            lines += [
                f"  {key}: {_yaml(value)}{f'  # {_one_line(origin)}' if origin else ''}"
                for key, (value, origin) in rows.items()
            ]
        return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    # JSON is YAML: no text can end a line or start a comment.
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LaunchError("{path}: cannot be read: {error}", hint="correct that file", path=path, error=error) from None


@dataclass
class Given:
    """A YAML of LLaMA-Factory, and what was taken of it so far."""

    path: Path
    given: dict[str, Any]
    lines: dict[Any, int]
    nproc: int
    task: str
    command: ClassVar[str] = "llamafactory-cli train"
    """What runs such a file."""
    out: Writer = field(default_factory=Writer)
    left: list[Left] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    _seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of the local files."""

    @property
    def _has_labels(self) -> bool:
        return tasks.load(self.task).has_labels

    @property
    def _has_head(self) -> bool:
        return tasks.load(self.task).has_head

    def _origin(self, *keys: str) -> str:
        keys_with_lines = [f"{k} (line {self.lines[k]})" for k in keys if k in self.given]
        return ", ".join(keys_with_lines)

    def _take(self, key: str, default: Any = None, kind: str | None = None) -> Any:
        """The key's value; `kind`, one of _KINDS, is what the value must be.

        Raises:
            LaunchError: it is something else.
        """
        self.done.add(key)
        value = to_number(self.given.get(key))
        if value is None:
            return default
        if kind is not None and not KINDS[kind](value):
            raise self._fail(
                key,
                Message("{key}: expected {kind}, got {value!r}", key=key, kind=kind, value=value),
                Message("correct that line"),
            )
        return value

    def _names(self, key: str, default: str = "") -> list[str]:
        """A key whose value is a list, or text with commas."""
        value = self._take(key, default, Message("text or a list of texts"))
        names = value if isinstance(value, list) else value.split(",")
        return [name.strip() for name in names if name.strip()]

    def _leave(self, key: str, reason: str) -> None:
        self.done.add(key)
        if key in self.given:
            self.left.append(Left(str(self.lines[key]), key, reason))

    def _move(self, key: str, to: str, change: Callable[[Any], Any] = lambda value: value) -> None:
        value = self._take(key)
        if value is not None:
            self.out.put(to, change(value), self._origin(key))

    def _fail(self, key: str, what: str, hint: str) -> LaunchError:
        return LaunchError(f"{self.path}:{self.lines.get(key, 1)}: {what}", hint=hint)

    def _unchanged(self, instead: str | None = None) -> str:
        """A hint: what to change, if anything, and the command that runs the file as it is."""
        command = f"ascend-launch --nproc {self.nproc} -- {self.command} {shlex.quote(str(self.path))}"
        if instead is None:
            return Message("run the file unchanged: {command}", command=command)
        return Message("{instead}; or run the file unchanged: {command}", instead=instead, command=command)

    def _json(self, name: str) -> Any:
        return next((read_json(p) for p in (Path(name), self.path.parent / name) if p.is_file()), None)
