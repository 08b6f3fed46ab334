"""The content of a message in parts: OpenAI's of text, and LLaMA-Factory's of text, reasoning and calls of tools."""

from __future__ import annotations

from typing import Any

from launcher.data.formats import tools
from launcher.data.formats.base import RowError, kind, text, unpacked
from launcher.messages import Message

REASONING = "reasoning_content"
"""The key of a message that chat templates read what was thought from."""


def message_of(content: Any, name: str) -> dict[str, Any]:
    """What a message holds: `content`, and of parts `tool_calls` and reasoning. Raises RowError."""
    if content is None:
        return {"content": ""}
    if not isinstance(content, list):
        return {"content": text(content, name)}
    said, thought, calls = "", "", list[dict[str, Any]]()
    for part in map(unpacked, content):
        value = part.get("text", part.get("value")) if isinstance(part, dict) else None
        what = part.get("type", "text") if isinstance(part, dict) else kind(part)
        if what == "text" and isinstance(value, str):
            said += value
        elif what == "reasoning" and isinstance(value, str):
            thought += value
        elif what == "tool_call":
            calls += tools.written(value)
        else:
            raise RowError(
                Message("{name!r} has a part of type {what!r}, and text alone is trained", name=name, what=what),
                Message("remove the rows with it"),
            )
    return {"content": said, **({REASONING: thought} if thought else {}), **({"tool_calls": calls} if calls else {})}
