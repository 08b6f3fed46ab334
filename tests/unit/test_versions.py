"""Versions are compared by PEP 440, and those that are none by what they begin with."""

from __future__ import annotations

import itertools

import pytest

from launcher import versions

DRIVERS = ["23.0.rc2", "23.0.0", "23.0.3", "24.1.rc2.b080", "24.1.rc3", "24.1.0", "25.2.0"]


@pytest.mark.parametrize(("older", "newer"), list(itertools.combinations(DRIVERS, 2)))
def test_a_driver_is_older_than_another(older: str, newer: str):
    """One with a build's name behind it too, which PEP 440 does not know."""
    assert versions.of(older) < versions.of(newer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.13.0+cpu", (2, 13, 0)),
        ("2.1.0.post17", (2, 1, 0)),
        ("2.14.0.dev20261101", (2, 14, 0)),
        ("8.5.0.alpha001", (8, 5, 0)),
        ("8.0.RC3", (8, 0)),
        ("7.0.0.5.242", (7, 0, 0, 5, 242)),
        ("8.2.RC1.SPC001", (8, 2)),
        ("4.57", (4, 57)),
        ("main", ()),
        ("", ()),
        ("9" * 5000, (999999,)),
    ],
)
def test_the_numbers_of_a_release(text: str, expected: tuple[int, ...]):
    """Without what marks a build or a preview."""
    assert expected == versions.numbers(text)
