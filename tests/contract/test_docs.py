"""The documentation: what is generated is current, links lead somewhere, and its commands are the command line's. That they
run is tests/install's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from launcher.cli import cli, command_line, program, submit_program

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"
GENERATED = DOCS / "troubleshooting.md"
"""Written by `make docs` and not committed, so it may be there or not."""
PAGES = sorted({*REPO.glob("*.md"), *DOCS.rglob("*.md"), REPO / "recipes" / "README.md"} - {GENERATED})


def test_generated_pages_are_current():
    """docs/recipes.md is the schema, docs/cli.md is --help, docs/versions.md is the results of tools/matrix."""
    done = subprocess.run(
        [sys.executable, REPO / "tools" / "reference_docs.py", "--check"], capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stderr


def test_every_recipe_key_has_a_meaning():
    """A row without one helps nobody."""
    text = (REPO / "docs" / "recipes.md").read_text(encoding="utf-8")

    assert [] == re.findall(r"^\| `\w+` \|.*\|\s*\|$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_somewhere(page: Path):
    """Files that are there, and headings that the file has."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = [link for link in links if not re.match(r"[a-z]+:", link) and not _leads(page, link)]

    assert [] == broken


def _leads(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists() or not target.is_relative_to(REPO) or target == GENERATED:
        return False
    return not anchor or anchor in {_slug(h) for h in re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)}


def _slug(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_page_is_in_the_index():
    """docs/README.md leads to all of docs/."""
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    names = [str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)]

    assert [] == [name for name in names if name != "README.md" and f"({name})" not in text]


def test_the_troubleshooting_page_is_not_committed():
    """It repeats the signatures, which change often; `make docs` writes it."""
    done = subprocess.run(["git", "ls-files", "--error-unmatch", GENERATED], cwd=REPO, capture_output=True, text=True)
    ignored = (REPO / ".gitignore").read_text(encoding="utf-8").splitlines()

    assert 0 != done.returncode and f"/{GENERATED.relative_to(REPO)}" in ignored


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `ascend-launch …` line in a page's console blocks."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.removeprefix("$ ").strip()
            if not text.startswith("ascend-launch "):
                continue
            words = shlex.split(text, comments=True)
            ends = [
                i
                for i, word in enumerate(words)
                if word in ("|", ">", ">>", "<", "&&", ";", "&") or word.startswith("2>")
            ]
            found.append(words[1 : min(ends, default=len(words))])
    return found


ALL = [(page, words) for page in PAGES for words in commands(page)]
IDS = [f"{page.relative_to(REPO)}: {' '.join(words)[:60]}" for page, words in ALL]


@pytest.mark.parametrize(("page", "words"), ALL, ids=IDS)
def test_commands_are_parsed_by_the_real_command_line(page: Path, words: list[str]):
    """No option or command that does not exist, no value that is refused."""
    command: click.Command = cli
    if words[0] == "submit":
        words = command_line.with_command(words[1:], submit_program.submit_program_command.params, command_line.SUBMIT)
    elif words[0] not in cli.commands and not words[0].startswith("--help"):
        words = command_line.with_command(words, program.program_command.params)
    while isinstance(command, click.Group) and words:
        command, words = command.commands[words[0]], words[1:]

    command.make_context("ascend-launch", list(words)).close()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/extending.md"])
def test_the_files_that_a_page_names_are_there(page: str):
    """`launcher/jobs/launch.py` and the like, whole paths from the root."""
    named = re.findall(r"`((?:launcher|tests|tools)/[\w./]*)`", (REPO / page).read_text(encoding="utf-8"))

    assert named
    assert [] == [name for name in named if not (REPO / name).exists()]


def test_every_group_of_entry_points_is_explained():
    """What other packages can add to."""
    code = "".join(path.read_text(encoding="utf-8") for path in (REPO / "launcher").rglob("*.py"))
    groups = set(re.findall(r'^ *"(ascend_launch\.[a-z]+)",$', code, re.MULTILINE))
    page = (DOCS / "extending.md").read_text(encoding="utf-8")

    assert {"ascend_launch.strategies"} <= groups
    assert [] == [group for group in sorted(groups) if f"`{group}`" not in page]
