"""The formats of conversations that `data.format` may name. Each is one file in `launcher/data/formats/`, or an entry point of
another package in the group `ascend_launch.formats`."""

from __future__ import annotations

from typing import Any

from launcher.plugins import Table

INTERFACE = 1
AUTO = "auto"
TEXT = "text"
"""Whose rows are texts and no conversations."""
"""The first of those built in that the first row of a set fits."""
_HERE = "launcher.data.formats"
TABLE: Table[Any] = Table(
    "format",
    "ascend_launch.formats",
    INTERFACE,
    {
        "messages": f"{_HERE}.messages:MESSAGES",
        "sharegpt": f"{_HERE}.sharegpt:SHAREGPT",
        "alpaca": f"{_HERE}.alpaca:ALPACA",
        "prompt-completion": f"{_HERE}.prompt_completion:PROMPT_COMPLETION",
        "query-response": f"{_HERE}.query_response:QUERY_RESPONSE",
        TEXT: f"{_HERE}.text:TEXT",
    },
)
"""Things of it are `launcher.data.formats.base.Format`."""


def keys(name: str) -> tuple[str, ...]:
    """The keys of `data.columns` that a format has, or any where it is to be recognised."""
    names = TABLE.built_in if name == AUTO else (name,)
    return tuple(dict.fromkeys(key for one in names for key in TABLE.load(one).keys))
