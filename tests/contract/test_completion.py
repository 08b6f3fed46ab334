"""Words are completed by real shells, from the script that the command prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A folder with `ascend-launch` in it, as pip would put one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ascend-launch"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPO)!r})\nfrom launcher import cli\ncli.main()\n"
    )
    program.chmod(0o755)
    return folder


def completed(line: str, bin_dir: Path, cwd: Path = REPO) -> list[str]:
    """What bash offers for the last word of a line."""
    return asked(line, bin_dir, cwd).stdout.splitlines()


def asked(line: str, bin_dir: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Bash, with the words as readline hands them over: `=` is a word of its own."""
    script = (
        'eval "$(ascend-launch completion bash)"\n'
        "spec=$(complete -p ascend-launch); func=${spec#*-F }; func=${func%% *}\n"
        'compopt() { echo "compopt $*" >&2; }\n'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n'
        '$func ascend-launch "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    words = line.replace("=", " = ").split(" ") if "=" in line else line.split(" ")
    env = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "HOME": str(bin_dir)}
    return subprocess.run(
        ["bash", "-c", script, "bash", *words], cwd=cwd, env=env, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ascend-launch do", ["doctor"]),
        ("ascend-launch ex", ["explain", "export"]),
        ("ascend-launch recipes/ye", ["recipes/yelp-instruct.yaml", "recipes/yelp-lora.yaml", "recipes/yelp.yaml"]),
        ("ascend-launch --device ", ["auto", "npu", "cpu"]),
        ("ascend-launch plan --chi", ["--chip"]),
        ("ascend-launch recipes show yelp-l", ["yelp-lora"]),
        ("ascend-launch eval recipes/yelp.yaml --check", ["--checkpoint"]),
        ("ascend-launch recipes/yelp.yaml training.learning_r", ["training.learning_rate="]),
        ("ascend-launch recipes/yelp.yaml training.seed=3 data.eval.li", ["data.eval.limit="]),
        ("ascend-launch completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_bash_offers(line: str, offered: list[str], bin_dir: Path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")

    assert offered == completed(line, bin_dir)


def test_a_shipped_recipe_is_found_from_anywhere(bin_dir: Path, tmp_path: Path):
    """By its name, where no file begins so."""
    assert ["yelp-lora"] == completed("ascend-launch yelp-l", bin_dir, tmp_path)


def test_a_key_takes_no_space_after_it(bin_dir: Path):
    """Its value follows at once; a command takes one."""
    assert "nospace" in asked("ascend-launch recipes/yelp.yaml training.learning_r", bin_dir, REPO).stderr
    assert "compopt" not in asked("ascend-launch do", bin_dir, REPO).stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str, ascend_launch):
    """click's own; checked for syntax where that shell is."""
    ran = ascend_launch("completion", shell)

    assert (0, True) == (ran.code, "_ASCEND_LAUNCH_COMPLETE" in ran.out)
    if shutil.which(shell) is not None:
        assert 0 == subprocess.run([shell, "-n"], input=ran.out, text=True, check=False).returncode
