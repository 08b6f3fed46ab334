"""A translation is one catalogue: dropped into the package, it is all that is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from babel.messages import mofile
from babel.messages.catalog import Catalog

REPO = Path(__file__).resolve().parents[2]
TEXTS = {
    "Nodes of the job [default: from the cluster's environment, else 1].": "作业的节点数。",
    "Language of texts [default: what ASCEND_LAUNCH_LANG names, else the locale's].": "文本的语言。",
    "error: {error}": "错误：{error}",
}


def ascend_launch(package: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line of a package in a folder."""
    clean = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_MESSAGES", "LANG")}
    return subprocess.run(
        [sys.executable, "-m", "launcher.cli", *argv],
        cwd=package,
        env={**clean, "PYTHONPATH": str(package), "PYTHONUTF8": "1", **env},
        capture_output=True,
        encoding="utf-8",
    )


def test_a_language_needs_no_file_but_its_catalogue(tmp_path: Path):
    """Help, an error and what is shown; chosen by option, by variable or by locale, and English without."""
    shutil.copytree(REPO / "launcher", tmp_path / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "recipes", tmp_path / "recipes")
    chinese = Catalog(locale="zh")
    for text, meaning in TEXTS.items():
        chinese.add(text, meaning)
    path = tmp_path / "launcher" / "locale" / "zh" / "LC_MESSAGES" / "ascend_launch.mo"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        mofile.write_mo(file, chinese)

    assert "作业的节点数。" in ascend_launch(tmp_path, "--lang", "zh", "run", "--help").stdout
    assert "文本的语言。" in ascend_launch(tmp_path, "--help", ASCEND_LAUNCH_LANG="zh").stdout
    assert "错误：" in ascend_launch(tmp_path, "no-such.yaml", LANG="zh_CN.UTF-8").stderr
    refused = ascend_launch(tmp_path, "no-such.yaml")
    assert (2, "error: ") == (refused.returncode, refused.stderr[:7])
