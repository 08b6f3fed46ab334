"""ShareGPT's: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], "system": …, "tools": …}`,
and ms-swift's `{"conversation": [{"human": …, "assistant": …}, …]}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launcher.data.formats.base import Columns, Conversation, Row, parsed
from launcher.data.formats.dialogue import CALL, Dialogue


class ShareGpt(Dialogue):
    """With pairs of turns too."""

    def fits(self, row: Row, columns: Columns) -> bool:
        return super().fits(row, columns) or _has_pairs(row)

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        read = super().reader(row, columns)
        if not _has_pairs(row):
            return read
        return lambda row: read({**row, PAIRS: _turns(parsed(row.get(PAIRS), PAIRS))})


PAIRS = "conversation"


def _has_pairs(row: Row) -> bool:
    value = row.get(PAIRS)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "human" in value[0]


def _turns(pairs: Any) -> Any:
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) and "from" not in pair for pair in pairs):
        return pairs
    sides = (("human", "human"), ("gpt", "assistant"))
    return [{"from": tag, "value": pair.get(key)} for pair in pairs for tag, key in sides]


SHAREGPT = ShareGpt(
    name="sharegpt",
    role="from",
    content="value",
    tags={
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
        "function_call": CALL,
        "observation": "tool",
        "tool": "tool",
    },
    alternates=True,
    columns=("conversations", "conversation", "messages", "dialog", "dialogue"),
)
