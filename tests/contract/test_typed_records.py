"""Events and failures have their keys in one file, launcher/rundir/records.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "launcher"
RECORDS = {"event", "failure", "stalled", "rates", "incident"}
"""What events and failures are called where they are used."""
FILES = {"events_path", "failure_path", "error_path"}
OTHERS = {"clusters/kubernetes/manifest.py"}
"""A manifest has events of another kind."""


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "records.py"]


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def keys_looked_up(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """`event["step"]` and `failure.get("what")`."""
    for node in ast.walk(tree):
        is_item = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        is_get = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        owner = node.value if is_item else node.func.value if is_get else None
        if owner is not None and name_of(owner) in RECORDS:
            yield ast.unparse(node), node.lineno


def events_by_key(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """`{"event": "note", ...}`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and any(isinstance(k, ast.Constant) and k.value == "event" for k in node.keys):
            yield ast.unparse(node), node.lineno


def untyped_files(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """`rundir.read_json(run.failure_path)` and the like: their own functions read and write these files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in ("read_json", "write_json", "mapping") and node.args:
            path = node.args[0].func if isinstance(node.args[0], ast.Call) else node.args[0]
            if name_of(path) in FILES:
                yield ast.unparse(node), node.lineno


@pytest.mark.parametrize("look", [keys_looked_up, events_by_key, untyped_files], ids=lambda look: look.__name__)
def test_no_event_or_failure_is_handled_by_key_elsewhere(look):
    """Whoever makes or reads one does it by the fields of its type, which mypy checks."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in modules()
        if str(path.relative_to(PACKAGE)) not in OTHERS
        for text, line in look(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert [] == found


@pytest.mark.parametrize(
    ("look", "code"),
    [
        (keys_looked_up, "x = event['step']"),
        (keys_looked_up, "x = outcome.failure.get('what')"),
        (events_by_key, "f(path, {'event': 'note', **more})"),
        (untyped_files, "rundir.write_json(run.failure_path, value)"),
        (untyped_files, "rundir.read_json(zygote.error_path(run, 0, 1))"),
    ],
)
def test_what_is_looked_for_is_found(look, code: str):
    assert 1 == len(list(look(ast.parse(code))))
