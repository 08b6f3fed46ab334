"""Versions, for comparing them. packaging is imported where one is read: --help has no use for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version

_NEAREST = re.compile(r"\d{1,6}(?:\.\d{1,6})*(?:\.?rc\d{1,6}(?!\w))?")


def of(text: str) -> Version:
    """A version by PEP 440, as those of Python packages and most of CANN and drivers are: 23.0.rc2 < 23.0.0 < 24.1.rc3.
    Of another one (24.1.rc3.b080), what it begins with; 0 for a text that is none."""
    from packaging.version import Version

    try:
        return Version(text)
    except ValueError:
        nearest = _NEAREST.match(text.lower())
        return Version(nearest.group() if nearest else "0")


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of its release: 2.13.0+cpu → (2, 13, 0); () for a text that is not a version."""
    return of(text).release if re.match(r"v?\d", text) else ()
