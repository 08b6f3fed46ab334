"""Tools that a conversation may use, and calls of them, as chat templates want them."""

from __future__ import annotations

import json
from typing import Any

from launcher.data.formats.base import FIX_ROW, RowError, kind, parsed, unpacked
from launcher.messages import Message


def listed(value: Any, name: str) -> list[dict[str, Any]]:
    """The tools of a row: a list of objects, or its JSON; empty where there are none. Raises RowError."""
    value = parsed(value, name) if value else None
    value = [value] if isinstance(value, dict) else value
    if not value:
        return []
    value = list(map(unpacked, value)) if isinstance(value, list) else value
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError(Message("{name!r} is not a list of tools", name=name), FIX_ROW)
    return [tool if "function" in tool or "name" not in tool else _of_function(tool) for tool in value]


def calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls in a message of OpenAI's form: `tool_calls`, or `function_call` of its older one. Raises RowError."""
    given = message.get("tool_calls")
    if given is None:
        old = message.get("function_call")
        return [] if old is None else [_call(old, "function_call")]
    if isinstance(given, str):
        given = parsed(given, "tool_calls")
    if not isinstance(given, list):
        raise RowError(Message("'tool_calls' is {kind} and not a list", kind=kind(given)), FIX_ROW)
    return [_call(unpacked(one), "tool_calls") for one in given]


def written(content: Any) -> list[dict[str, Any]]:
    """The calls of a message that is one: an object with name and arguments, or several of them, as JSON. Raises RowError."""
    if not content:
        raise RowError(Message("is a call of a tool, and empty"), FIX_ROW)
    value = parsed(content, Message("the call of a tool"))
    return [_call(one, Message("the call of a tool")) for one in (value if isinstance(value, list) else [value])]


def answer(content: Any) -> Any:
    """What a tool answered, as text: of an object or a number its JSON."""
    return content if content is None or isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _call(call: Any, name: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(Message("{name!r} has a call without the name of its function", name=name), FIX_ROW)
    at = Message("arguments of {function}", function=function["name"])
    arguments = parsed(function.get("arguments") or {}, at)
    if not isinstance(arguments, dict):
        raise RowError(Message("{at!r} are {kind} and not an object", at=str(at), kind=kind(arguments)), FIX_ROW)
    made = _of_function({"name": function["name"], "arguments": arguments})
    return made | ({"id": call["id"]} if call.get("id") is not None else {})


def _of_function(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}
