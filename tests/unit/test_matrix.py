"""tools/matrix: what counts as a failure, and that what it has tried is what is claimed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

MATRIX = Path(__file__).resolve().parents[2] / "tools" / "matrix"
SETS = yaml.safe_load((MATRIX / "sets.yaml").read_text(encoding="utf-8"))
RESULTS = yaml.safe_load((MATRIX / "results.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def matrix() -> SimpleNamespace:
    sys.path.insert(0, str(MATRIX))
    try:
        return SimpleNamespace(**runpy.run_path(str(MATRIX / "__main__.py"), run_name="matrix"))
    finally:
        sys.path.remove(str(MATRIX))


def checked(matrix: SimpleNamespace, name: str, outcome: str, losses: list[float], refused: list[str]) -> Any:
    """After DDP had the losses 2 and 1."""
    row = {"python": "3.11", "torch": "2.8.0", "packages": "newest", "refused": refused}
    case = next(case for case in matrix.CASES if case.name == name)
    ended = {"ddp": matrix.Result("passed", losses=[2.0, 1.0])}
    return matrix._checked(
        case, matrix.Result(outcome, losses=losses), matrix.Wanted.read("a", row), ended, "no such row"
    )


@pytest.mark.parametrize(
    ("name", "outcome", "losses", "refused", "want"),
    [
        ("zero2", "passed", [2.0, 1.00001], [], "passed"),
        ("zero2", "passed", [2.0, 1.001], [], "failed"),
        ("lora", "passed", [2.0, 1.3], [], "passed"),
        ("program", "passed", [9.0, 8.0], [], "passed"),
        ("fsdp2", "refused", [], ["fsdp2"], "refused"),
        ("fsdp2", "refused", [], [], "failed"),
        ("fsdp2", "passed", [2.0, 1.0], ["fsdp2"], "failed"),
        ("zero2", "failed", [], [], "failed"),
    ],
)
def test_other_losses_and_unexpected_refusals_are_failures(
    matrix: SimpleNamespace, name: str, outcome: str, losses: list[float], refused: list[str], want: str
):
    """A strategy has the losses of DDP; LoRA and a program are other models."""
    assert want == checked(matrix, name, outcome, losses, refused).outcome


def test_what_was_tried_did_not_fail():
    cases = {(set_, name): case["outcome"] for set_, row in RESULTS.items() for name, case in row["cases"].items()}

    assert set(SETS["sets"]) >= set(RESULTS)
    assert [] == [where for where, outcome in cases.items() if outcome == "failed"]


def test_an_environment_that_cannot_be_made_fails_its_own_set_alone(
    matrix: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """uv finds no such Python, or the index has a bad day: the sets after it are tried all the same, and what was known of it
    stays."""
    scope = matrix.main.__globals__

    class Maker:
        def __init__(self, *_: object) -> None:
            pass

        def make(self, wanted: Any) -> str:
            if wanted.name == "torch-2.10":
                raise matrix.UvError("uv venv --python 3.11\nerror: No interpreter")
            return "environment"

        def remove(self, *_: object) -> None:
            pass

    tried: list[str] = []
    monkeypatch.setitem(scope, "Maker", Maker)
    monkeypatch.setitem(scope, "_run", lambda wanted, *_: tried.append(wanted.name) or 0)
    monkeypatch.setattr(sys, "argv", ["matrix", "torch-2.10", "torch-2.14", "--folder", str(tmp_path)])

    assert 1 == matrix.main()
    assert ["torch-2.14"] == tried
    assert "error: No interpreter" in capsys.readouterr().out
