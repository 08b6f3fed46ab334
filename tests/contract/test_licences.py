"""No distribution that this package declares as a dependency, of its extras too, is under the GPL or the AGPL."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = sorted(
    {
        Requirement(line).name
        for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for line in lines
    }
)
# Lesser GPL is for what a program imports.
_GPL = re.compile(r"(?<!L)(?<!Lesser )\bA?GPL|(?<!Lesser )General Public License", re.IGNORECASE)


def is_gpl(licence: Iterable[str]) -> bool:
    """Whether all that a distribution may be taken under is the GPL: `GPL or MIT` is a choice."""
    return any(_GPL.search(text) and not re.search(r" OR |lesser|\bL-?GPL", text, re.IGNORECASE) for text in licence)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("GPL-3.0-only", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("GNU AFFERO GPL 3.0", True),
        ("AGPL-3.0-or-later", True),
        ("GPL-2.0-only OR Apache-2.0", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("LGPL-2.1-or-later", False),
        ("MIT", False),
        ("BSD License", False),
    ],
)
def test_a_licence_is_recognised(licence: str, expected: bool):
    assert expected == is_gpl([licence])


def test_no_dependency_is_under_the_gpl():
    """Of those that are installed; the base dependencies always are."""
    known: dict[str, list[str]] = {}
    for name in DECLARED:
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        stated = [*about.get_all("Classifier", []), *about.get_all("License-Expression", [])]
        known[name] = [
            *(text for text in stated if not text.startswith(("Programming", "Topic"))),
            *(text.split("\n")[0] for text in about.get_all("License", [])),
        ]

    assert set() == {Requirement(line).name for line in PROJECT["dependencies"]} - known.keys()
    assert [] == [name for name, licence in known.items() if is_gpl(licence)]
