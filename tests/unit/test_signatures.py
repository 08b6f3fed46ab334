"""Signatures of other packages stand beside those built in, and one that cannot be used never keeps a log from being
explained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.diagnose.explain import signatures
from launcher.errors import LaunchError

REPO = Path(__file__).resolve().parent.parent.parent
PACKAGE = REPO / "tests" / "packages" / "fabric"
ROW: dict[str, Any] = {
    "id": "mine",
    "area": "system",
    "match": ["fabricd: no power"],
    "en": {"cause": "no power.", "fix": "plug it in."},
    "zh": {"cause": "没有电。", "fix": "请接通电源。"},
    "source": "a manual",
}
Explain = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def explain() -> Explain:
    """`ascend-launch explain -` where the package is installed."""

    def run(log: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launcher.cli", "explain", "-"],
            input=log,
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{PACKAGE}"},
            capture_output=True,
            text=True,
            check=True,
        )

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[rank3]: fabricd: licence of node-7 ran out", ("the fabric's licence ran out.", "renew it.", "node-7")),
        ("fabricd: cable B12 is loose", ("cable B12 is loose.", "push it in.", "fabricd's manual")),
        ("RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB", ("memory",)),
    ],
    ids=["of a file", "of a list", "built in"],
)
def test_a_packages_signatures_explain_a_log(explain: Explain, line: str, expected: tuple[str, ...]):
    """Those that cannot be used are named with the reason, beside the verdict."""
    done = explain(f"step 1\n{line}\n")

    assert all(text in done.stdout for text in expected), done.stdout
    assert "'fabric-copy' are left out: row 1: there is another signature oom-npu" in done.stderr
    assert "'fabric-gone': package fabric-signatures 1.0 cannot be imported" in done.stderr


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{**ROW, "id": "oom-npu"}], "row 1: there is another signature oom-npu"),
        ([ROW, ROW], "row 2: there is another signature mine"),
        ([{k: v for k, v in ROW.items() if k != "zh"}], "row 1: KeyError: 'zh'"),
        ([{**ROW, "match": ["("]}], "row 1: error: missing ), unterminated subpattern at position 0"),
        ([{**ROW, "match": [r"\d+"]}], r"row 1: \d+ has no plain text"),
        ([{**ROW, "area": "weather"}], "row 1: area weather"),
        ([{**ROW, "refine": "positions"}], "refine positions"),
        ([{**ROW, "weight": "heavy"}], "row 1: a text is not a string, or the weight not a whole number"),
        (["row"], "row 1: TypeError"),
        (7, "cannot be read"),
        ("/no/such/file.yaml", "cannot be read: [Errno 2]"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, rows: object, expected: str):
    """With its number and what is wrong."""
    monkeypatch.setattr(
        signatures, "TABLE", SimpleNamespace(load=lambda name: SimpleNamespace(interface=1, signatures=rows))
    )
    with pytest.raises(LaunchError) as caught:
        signatures._of_package("theirs", {s.id for s in signatures.built_in()})

    assert "signatures 'theirs' are left out: " in str(caught.value)
    assert expected in str(caught.value)
