"""Functions of the user's own that a recipe names, `FILE.py:FUNCTION`. A file's text becomes part of the resolved recipe (its
key `code`), and so of a run directory, of a job's manifest, and of what nodes compare: ranks run that text, whatever becomes
of the file. It is parsed and never run outside ranks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import scrub
from launcher.errors import LaunchError
from launcher.messages import Message

_FORM = re.compile(r"(?P<file>[^\0\n]*[^\0\n/]\.py):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Reference:
    """A function of a file of the user's."""

    file: str
    """As the recipe says it: relative to the recipe's folder, or absolute."""
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function}"

    def path(self, folder: str | Path) -> Path:
        """The file, of a recipe in `folder`."""
        return Path(folder) / Path(self.file).expanduser()


def reference(value: object) -> Reference | None:
    """What `FILE.py:FUNCTION` names; None where a value has another form."""
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    return Reference(match["file"], match["function"]) if match else None


def read(one: Reference, folder: str | Path) -> str:
    """The text of the function's file, of a recipe in `folder`. Raises LaunchError where it cannot be read."""
    path = one.path(folder)
    if not path.is_file():
        raise LaunchError("{path}: no such file", path=path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LaunchError("{path}: cannot be read as text: {error}", path=path, error=error) from None


def problem(one: Reference, text: str, path: Path) -> str:
    """What is wrong with the function's file, as far as that shows without running it; '' where nothing is."""
    if scrub.has_url_secret(text):
        return Message(
            "{path}: holds a user, a password or a token in a URL, and is copied into the run directory; read it "
            "from a variable of the environment instead",
            path=path,
        )
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return Message("{path}:{line}: is not Python: {error}", path=path, line=error.lineno or 1, error=error.msg)
    except ValueError as error:  # a NUL
        return Message("{path}:1: is not Python: {error}", path=path, error=error)
    names = [node.name for node in _functions(tree)]
    if one.function in names:
        return ""
    if not names:
        return Message("{path}: has no function", path=path)
    return Message(
        "{path}: has no function {function}, only {names}", path=path, function=one.function, names=", ".join(names)
    )


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in tree.body if isinstance(node, ast.FunctionDef))


def line_of(text: str, function: str) -> int:
    """Where a function begins in a file's text that has it."""
    return next(node.lineno for node in _functions(ast.parse(text)) if node.name == function)


def attributes(text: str, function: str) -> dict[str, Any]:
    """What a file says of its function by lines such as `cost.greater_is_better = False`: plain values only."""
    out = {}
    for node in ast.parse(text).body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == function:
                try:
                    out[target.attr] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
                except ValueError:
                    continue
    return out


def has_changed(one: Reference, text: str, folder: str | Path) -> bool:
    """Whether the file is there and says something else than `text`, the resolved recipe's."""
    try:
        return one.path(folder).read_text(encoding="utf-8") != text
    except (OSError, ValueError):
        return False
