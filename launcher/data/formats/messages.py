"""OpenAI's messages: `{"messages": [{"role": "user", "content": …}, …], "tools": […]}`."""

from __future__ import annotations

from launcher.data.formats.dialogue import CALL, Dialogue

MESSAGES = Dialogue(
    name="messages",
    role="role",
    content="content",
    tags={
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "function": "tool",
        "tool_response": "tool",  # this and the next are ms-swift's
        "tool_call": CALL,
    },
    alternates=False,
)
