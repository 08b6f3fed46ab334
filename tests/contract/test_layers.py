"""The layers of docs/architecture.md: imports point one way, nothing imports in a circle, and torch stays with the ranks."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "launcher"

GROUND = {
    "again",
    "assets",
    "confined",
    "errors",
    "files",
    "messages",
    "moved",
    "nested",
    "network",
    "places",
    "plugins",
    "scrub",
    "signals",
    "streams",
    "text",
    "versions",
}
LAYERS = [
    {"cli"},
    {"show"},
    {"jobs"},
    {"report", "diagnose"},
    {"clusters"},
    {"render"},
    {"rundir"},
    {"planning"},
    {"data"},
    {"recipe"},
    {"strategies"},
    {"accelerators"},
    {"models"},
    {"checks"},
    {"machine"},
    GROUND,
]
"""From the top down: a folder imports from those below it, and not from one beside it. The ground is one folder here."""
RANKS_MAY_USE = LAYERS.index({"rundir"})
RANK_SIDE = {"torch", "transformers", "accelerate", "deepspeed", "datasets", "evaluate", "sklearn", "peft", "numpy"}
ONLY_IN = {"click": {"cli"}, "rich": {"show"}}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`launcher/render/env.py` → `launcher.render.env`; a package by its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports: inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


GRAPH = {name: set(imports(path)) for name, path in MODULES.items()}


def folder(module: str) -> str | None:
    """`launcher.render.env` → `render`; None outside the package, and for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "launcher" and len(parts) > 1 else None


def layer(name: str) -> int:
    found = [number for number, group in enumerate(LAYERS) if name in group]
    assert found, f"launcher/{name} has no place in LAYERS"
    return found[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str):
    """No file imports from a folder above its own or beside it; the rank side may use rundir and what is below."""
    own = folder(module)
    for other in GRAPH[module]:
        concern = folder(other)
        if own is None or concern is None or concern == own:
            continue
        assert "worker" != concern, f"{module} imports the rank side: {other}"
        allowed = layer(concern) >= RANKS_MAY_USE if own == "worker" else layer(concern) > layer(own)
        assert allowed or {own, concern} <= GROUND, f"{module} imports {other}, which is not below it"


def test_nothing_imports_in_a_circle():
    """Neither at import, nor inside functions, nor for types. Python's own sorter names the circle."""
    graphlib.TopologicalSorter({name: found & MODULES.keys() - {name} for name, found in GRAPH.items()}).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if folder(name) != "worker"])
def test_torch_stays_on_the_rank_side(module: str):
    """Nothing outside worker/ names torch or what stands on it; click and rich have one importer each."""
    tops = {name.split(".")[0] for name in GRAPH[module]}

    assert set() == tops & RANK_SIDE
    for library, homes in ONLY_IN.items():
        assert library not in tops or folder(module) in homes


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], ["run", "--help"], ["render", "--help"], ["recipes"], ["run", "no-such.yaml"]],
    ids=" ".join,
)
def test_no_command_imports_torch(argv: list[str]):
    """Asked of the interpreter itself, not of the source."""
    code = (
        "import sys; from launcher import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"sys.exit(len(sys.modules.keys() & {RANK_SIDE!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=PACKAGE.parent, capture_output=True, check=False)

    assert 0 == done.returncode


def test_nothing_here_knows_the_emulator():
    """The emulated CANN is a test rig; the launcher must not be able to tell."""
    assert [] == [str(path) for path in FILES if "emulated" in path.read_text(encoding="utf-8").lower()]
