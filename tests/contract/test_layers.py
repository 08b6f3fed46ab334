"""The layers of docs: imports point one way, and torch stays on the rank side."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "launcher"

LAYERS = [
    {"cli"},
    {"nested"},
    {"show"},
    {"submit", "ssh"},
    {"accelerated", "doctor", "report", "supervise", "explain", "trained", "predict"},
    {"render", "rundir", "history"},
    {"plan"},
    {"planning"},
    {"program", "paths"},
    {"llamafactory"},
    {"spec"},
    {"strategies"},
    {"models", "cluster"},
    {"training_fields", "training_rules", "yamlfile", "modelfolder", "places"},
    {"assets", "error_codes"},
    {"records"},
    {"confined", "scrub"},
    {"plugins"},
    {"errors", "streams", "again"},
    {"messages"},
]
"""From the top down. A module may import those in its own group's siblings' modules and anything below."""
RANK_SIDE = {"torch", "transformers", "accelerate", "deepspeed", "datasets", "evaluate", "sklearn", "peft", "numpy"}
ONLY_IN = {"click": {"cli"}, "rich": {"show"}}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """Top-level names and launcher submodules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def concern(module: str) -> str | None:
    """`launcher.render.env` → `render`; None outside the package."""
    parts = module.split(".")
    return parts[1] if parts[0] == "launcher" and len(parts) > 1 else None


def rank_of(name: str) -> int | None:
    return next((i for i, group in enumerate(LAYERS) if name in group), None)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    """No module imports one above it, or a sibling concern; the rank side may use rundir and below."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed_from = rank_of("rundir") if own == "worker" else rank_of(own)
    assert allowed_from is not None, f"{own} has no place in LAYERS"
    for module in imports(path):
        other = concern(module)
        if other is None or other == own or other.startswith("__"):
            continue
        assert other != "worker", f"{path.name} imports the rank side"
        level = rank_of(other)
        assert level is not None, f"{module} has no place in LAYERS"
        assert level > allowed_from or {own, other} <= {"render", "rundir"} or (own, other) == ("worker", "rundir"), (
            f"{path.name} imports {module}, which is not below it"
        )


@pytest.mark.parametrize("path", [p for p in modules() if "worker" not in p.parts], ids=lambda p: p.stem)
def test_torch_stays_on_the_rank_side(path: Path):
    """Nothing outside worker/ names torch or what stands on it; click and rich have one importer each."""
    tops = {module.split(".")[0] for module in imports(path)}

    assert set() == tops & RANK_SIDE
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for library, homes in ONLY_IN.items():
        assert library not in tops or own in homes


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
    assert [] == [p.name for p in modules() if "emulated" in p.read_text(encoding="utf-8").lower()]
