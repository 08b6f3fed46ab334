"""What code decides by, as far as its text says: where a kind of thing would be known by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def decisions(tree: ast.AST) -> Iterator[ast.expr]:
    """Both sides of comparisons, prefixes, keys of mappings, patterns of `match`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("startswith", "endswith", "removeprefix", "get", "index", "count"):
                yield from node.args
        elif isinstance(node, ast.Dict):
            yield from filter(None, node.keys)
        elif isinstance(node, ast.MatchValue):
            yield node.value
        elif isinstance(node, ast.Subscript):
            yield node.slice


def names_in(node: ast.expr) -> Iterator[str]:
    """The texts that it is made of."""
    yield from (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
