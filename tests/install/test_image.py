"""docker/Dockerfile: what it must say. test_pip_lines resolves its lines; that it builds, nothing here can try."""

from __future__ import annotations

import re
import shlex

import pytest

from . import test_pip_lines
from .conftest import REPO

TEXT = (REPO / "docker" / "Dockerfile").read_text(encoding="utf-8")
SECRET = re.compile(r"(?i)(token|passw|secret|api_?key|BEGIN .*PRIVATE|https?://[^/\s]+:[^/\s]+@)")
KNOWN = {"ARG", "CMD", "COPY", "FROM", "RUN", "USER", "WORKDIR"}


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, its words), continued lines joined and comments gone."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile of ours, in words."""
    found, declared, used, stage = [], {}, set(), {}
    users = [""]
    for name, rest in instructions(text):
        if name not in KNOWN:
            found.append(f"{name} is not expected")
        names = set(re.findall(r"\$\{(\w+)\}", rest))
        used |= names
        scope = declared if name == "FROM" else stage
        found += [f"{one} is used before its ARG" for one in sorted(names - scope.keys())]
        if name == "ARG":
            key, equals, _ = rest.partition("=")
            found += [] if equals else [f"ARG {key} has no default"]
            stage[key] = declared[key] = True
        if name == "FROM":
            stage = {}
            users.append("")
            found += [] if "${" in rest else [f"FROM {rest} is fixed"]
            found += [f"FROM {rest}: latest"] if rest.split()[0].endswith(":latest") or ":" not in rest else []
        if name == "USER":
            users[-1] = rest
        if name == "COPY" and rest.split()[0] in (".", "./"):
            found.append("COPY . takes whatever lies in the checkout")
        if name == "RUN" and "pip" in rest and "--no-cache-dir" not in rest:
            found.append(f"pip leaves its cache: {rest}")
        if SECRET.search(rest):
            found.append(f"looks like a secret: {rest}")
    found += [f"ARG {one} is never used" for one in sorted(declared.keys() - used)]
    return found + ([] if users[-1] not in ("", "root", "0") else ["the last stage runs as root"])


def test_nothing_is_wrong_with_it():
    assert [] == faults(TEXT)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("ARG CHIP=910b\n", "", "CHIP is used before its ARG"),
        ("ARG CHIP=910b", "ARG CHIP=910b\nARG MORE=1", "ARG MORE is never used"),
        ("ARG CHIP=910b", "ARG CHIP", "ARG CHIP has no default"),
        ("ARG TORCH_INDEX", "ARG TORCH", "TORCH_INDEX is used before its ARG"),
        ("USER trainer", "USER root", "the last stage runs as root"),
        ("USER trainer\n", "", "the last stage runs as root"),
        ("COPY launcher", "COPY .", "COPY . takes whatever"),
        ("/cann:${CANN}-${CHIP}-${OS}-py${PYTHON}\n", "/cann:latest\n", "latest"),
        ("WORKDIR", "ENV HF_TOKEN=x\nWORKDIR", "looks like a secret"),
        ("pip install --no-cache-dir torch", "pip install torch", "pip leaves its cache"),
    ],
)
def test_each_fault_is_found(before: str, after: str, said: str):
    """The check itself, on files with one fault each."""
    assert before in TEXT
    assert any(said in fault for fault in faults(TEXT.replace(before, after, 1)))


def test_everything_that_is_copied_is_there():
    """And all that the wheel is built from is copied."""
    copied = [word for name, rest in instructions(TEXT) if name == "COPY" for word in rest.split()[:-1]]

    assert [] == [word for word in copied if not (REPO / word).exists()]
    assert {"pyproject.toml", "README.md", "launcher", "recipes", "accelerate_configs"} <= set(copied)


def default(name: str) -> str:
    """The value of an ARG that the build is not told."""
    return dict(rest.split("=", 1) for one, rest in instructions(TEXT) if one == "ARG")[name]


def pip_lines() -> list[list[str]]:
    """The arguments of each `pip install`, with the ARGs' defaults."""
    runs = [re.sub(r"\$\{(\w+)\}", lambda m: default(m[1]), rest) for name, rest in instructions(TEXT) if name == "RUN"]
    words = [[w for w in shlex.split(run) if not w.startswith("--mount")] for run in runs]
    return [[w for w in line[2:] if w != "--no-cache-dir"] for line in words if line[:2] == ["pip", "install"]]


def test_its_lines_are_the_readmes_for_a_node():
    """But for where packages come from: an index of the user's, and the wheel of this checkout."""
    torch, package = pip_lines()
    index, links = package.index("--index-url"), package.index("--find-links")
    own = package[:index] + package[index + 2 : links]

    assert test_pip_lines.pip_lines("README.md")[1:3] == [torch, own]
