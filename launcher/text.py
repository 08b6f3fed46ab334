"""Text: pieces of it, and numbers as text."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
