"""The commands of README and docs/, in a folder that is no checkout, with an installed wheel and no torch.

What would start ranks or hand a job to a queue is run as a dry run. Left out is what reads something that a page only tells
of: a run, a log, hosts, a file of the reader's own.
"""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from launcher.cli import cli, command_line, program

from .conftest import REPO, Installed

PAGES = sorted([*REPO.glob("README*.md"), *(REPO / "docs").glob("*.md"), REPO / "recipes" / "README.md"])
FOLLOWED = ("run", "plan", "render", "recipes", "submit", "doctor")
ELSEWHERE = ("--hostfile", "import")


def commands(page: Path) -> list[tuple[list[str], bool]]:
    """The arguments of each `ascend-launch …` line of a page's code blocks, and whether an error is shown below it."""
    text = page.read_text(encoding="utf-8")
    blocks = [
        body
        for kind, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if kind in ("", "console")
    ]
    lines = [line for block in blocks for line in [*block.replace("\\\n", " ").splitlines(), ""]]
    found = []
    for line, below in pairwise([*lines, ""]):
        if re.match(r"(\$ )?ascend-launch ", line):
            words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
            words = words[: words.index("|")] if "|" in words else words
            is_named = words[0] in cli.commands or words[0].startswith("--help")
            whole = words if is_named else command_line.with_command(words, program.program_command.params)
            found.append((whole, below.startswith("error:")))
    return found


def dry(words: list[str]) -> list[str]:
    """The same, for a machine without a card, starting nothing."""
    command, *rest = words
    if command == "submit":
        return [command, "--dry-run", *(w for w in rest if w not in ("--dry-run", "--follow"))]
    if command != "run":
        return words
    more = [] if "--nproc" in rest or "--debug" in rest else ["--nproc", "1"]
    more += [] if "--device" in rest else ["--device", "npu"]
    return [command, "--dry-run", *more, *(w for w in rest if w != "--dry-run")]


def follows(words: list[str], written: set[str]) -> bool:
    """Whether nothing is read that the page has only told of."""
    own = {w for w in words if w.endswith((".yaml", ".py")) and "=" not in w and not w.startswith("recipes/")}
    if words[:2] == ["recipes", "copy"]:
        written |= own
    is_elsewhere = set(ELSEWHERE) & set(words) or any("=/" in w for w in words)
    return words[0] in FOLLOWED and not is_elsewhere and own <= written


def page_commands(page: Path) -> list[tuple[list[str], bool]]:
    written: set[str] = set()
    return [(dry(words), is_error) for words, is_error in commands(page) if follows(words, written)]


FOUND = {str(page.relative_to(REPO)): page_commands(page) for page in PAGES}


@pytest.mark.parametrize("page", [name for name, words in FOUND.items() if words])
def test_documented_commands_run_outside_the_checkout(installed: Installed, tmp_path: Path, page: str):
    """In the order of their page, each after those before it. A program of the reader's is an empty one, and conversations of
    the reader's are ten."""
    (tmp_path / "train.py").touch()
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}] for n in range(10)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    done = installed.each([words for words, _ in FOUND[page]], cwd=tmp_path)

    for (words, is_error), ran in zip(FOUND[page], done, strict=True):
        allowed = {0, 2} if words[0] == "doctor" else {2} if is_error else {0}  # doctor's is the machine's
        assert ran.code in allowed, f"{' '.join(words)}: {ran.err}"
        assert ran.out or is_error
        if "--json" in words:
            json.loads(ran.out)


def test_the_pages_have_such_commands():
    """A pattern that finds nothing would let everything pass."""
    assert {
        "README.md",
        "README.zh-CN.md",
        "docs/guide.md",
        "docs/first-run.md",
        "docs/slurm.md",
        "docs/kubernetes.md",
    } <= {page for page, words in FOUND.items() if words}
    assert len(FOUND["README.md"]) > 3 and len(FOUND["docs/guide.md"]) > 8
