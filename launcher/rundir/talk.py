"""What a chat and its model say to each other: JSON lines, each one of these, over a pipe either way."""

from __future__ import annotations

import json
from typing import Any

READY = "ready"
"""The device that the model is on; the first line."""
CONVERSATION = "conversation"
"""Asked: messages, the last of them the user's."""
TURN = "turn"
"""Beside it: how many were asked before, on which what is drawn depends."""
PIECE = "piece"
"""Text that goes on the answer."""
END = "end"
"""The whole answer, as `predict` has it."""
REFUSED = "refused"
"""Why there is no answer."""
HINT = "hint"
"""Beside it: what to do."""
NOTE = "note"
"""What the user should know about the model."""


def line(**values: Any) -> bytes:
    """One message."""
    return (json.dumps(values) + "\n").encode()


def parsed(raw: bytes) -> dict[str, Any]:
    """What `line` made."""
    value: dict[str, Any] = json.loads(raw)
    return value
