"""A list of messages in one column, each with who speaks and what is said: the formats messages and sharegpt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.data.formats import parts, tools
from launcher.data.formats.base import (
    FIX_ROW,
    SYSTEM,
    Columns,
    Conversation,
    Row,
    RowError,
    kind,
    missing,
    parsed,
    refuse_media,
    system_messages,
    unpacked,
)
from launcher.messages import Message
from launcher.recipe import formats

SPEAKERS = ("system", "user", "assistant", "tool")
CALL = "tool_call"
"""A message that is nothing but a call of a tool, as JSON."""
TRAINED = ("train", "loss", "weight", "loss_weight")
"""Keys of a message that say whether it is trained: ours, ms-swift's, OpenAI's, and LLaMA-Factory's."""
_COLUMNS = ("messages", "conversations", "conversation", "dialog", "dialogue")


@dataclass(frozen=True)
class Dialogue:
    """A format whose rows hold messages."""

    name: str
    role: str
    """The key of a message that says who speaks."""
    content: str
    tags: Mapping[str, str]
    """How speakers are called → SPEAKERS or CALL."""
    alternates: bool
    """Whether two messages in a row of one speaker are a mistake."""
    columns: tuple[str, ...] = _COLUMNS
    """Names that the column of messages may have."""
    interface: int = formats.INTERFACE

    @property
    def keys(self) -> Mapping[str, str]:
        return {
            "messages": "the column with the list of messages",
            "tools": "the column with the tools",
            "role": "the key of a message that says who speaks",
            "content": "the key of a message that says what",
            "train": "the key of a message that says whether it is trained",
            **dict.fromkeys((*SPEAKERS, CALL), "what role says of it"),
        }

    def fits(self, row: Row, columns: Columns) -> bool:
        value = row.get(columns.name("messages", *self.columns, row=row))
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parsed(value, "")
            except RowError:
                return False
        first = unpacked(value[0]) if isinstance(value, list) and value else None
        return isinstance(first, dict) and columns.name("role", self.role) in first

    def has_columns(self, row: Row, columns: Columns) -> bool:
        return columns.name("messages", self.columns[0]) in row

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        return _Reader(self, row, columns).conversation

    def answered(self, row: Row, columns: Columns) -> Row:
        return row


class _Reader:
    """Of one set, whose names are settled."""

    def __init__(self, form: Dialogue, row: Row, columns: Columns) -> None:
        self._column = columns.name("messages", *form.columns, row=row)
        self._tools = columns.name("tools", "tools")
        self._system = columns.name("system", *SYSTEM, row=row)
        self._role, self._content = columns.name("role", form.role), columns.name("content", form.content)
        named = {columns.names[speaker]: speaker for speaker in (*SPEAKERS, CALL) if speaker in columns.names}
        self._tags = {**form.tags, **named}
        self._trained = (columns.names["train"],) if "train" in columns.names else TRAINED
        self._is_alternating = form.alternates
        self._own = {self._role, self._content, "tool_calls", "function_call", *self._trained}

    def conversation(self, row: Row) -> Conversation:
        refuse_media(row)
        given = row.get(self._column)
        if given is None:
            raise missing(row, self._column)
        given = parsed(given, self._column)
        if not isinstance(given, list):
            raise RowError(
                Message("{name!r} is {kind} and not a list of messages", name=self._column, kind=kind(given)), FIX_ROW
            )
        if not given:
            raise RowError(Message("{name!r} has no message", name=self._column), FIX_ROW)
        messages = list(self._messages(given))
        if messages[0]["role"] != "system":
            messages = [*system_messages(row, self._system), *messages]
        known = tools.listed(row.get(self._tools), self._tools)
        return {"messages": messages, "tools": known} if known else {"messages": messages}

    def _messages(self, given: list[Any]) -> Iterator[dict[str, Any]]:
        before: dict[str, Any] | None = None
        spoke = None
        for number, message in enumerate(given, 1):
            try:
                role, made = self._message(message)
                if self._is_alternating and role == spoke and role in ("user", "assistant"):
                    raise RowError(
                        Message("the message before is from {who!r} too", who=unpacked(message)[self._role]),
                        Message("join the two messages, or remove the row"),
                    )
            except RowError as error:
                at = Message("message {number}: {what}", number=number, what=error.what)
                raise RowError(at, error.hint) from None
            spoke = role
            if role == CALL and before is not None and before["role"] == "assistant":  # one answer, and its calls
                before.setdefault("tool_calls", []).extend(made["tool_calls"])
                continue
            if before is not None:
                yield before
            before = made
        if before is not None:
            yield before

    def _message(self, message: Any) -> tuple[str, dict[str, Any]]:
        message = unpacked(message)
        if not isinstance(message, dict):
            raise RowError(Message("is {kind} and not an object", kind=kind(message)), FIX_ROW)
        role = self._speaker(message)
        content = message.get(self._content)
        if role == CALL:
            made: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": tools.written(content)}
        else:
            if role == "tool" and not isinstance(content, list):
                content = tools.answer(content)
            made = {"role": role, **parts.message_of(content, self._content)}
        if role == "assistant" and (calls := tools.calls(message)):
            made["tool_calls"] = calls
        if role in ("user", "assistant") and "tool_calls" not in made and not made["content"].strip():
            raise RowError(Message("{name!r} is empty", name=self._content), FIX_ROW)
        made |= {key: value for key, value in message.items() if key not in self._own and value is not None}
        if not self._is_trained(message):
            made["train"] = False
        return role, made

    def _speaker(self, message: dict[str, Any]) -> str:
        tag = message.get(self._role)
        if isinstance(tag, str) and tag in self._tags:
            return self._tags[tag]
        if tag is None:
            keys = ", ".join(map(str, message)) or Message("nothing")
            what = Message("has no {name!r} that says who speaks; there is {keys}", name=self._role, keys=keys)
            raise RowError(what, Message("name the keys in data.columns: {role: …, content: …}"))
        what = Message("{name} {tag!r} is not known; known are {tags}", name=self._role, tag=tag, tags=self._known())
        raise RowError(what, Message("say who it is in data.columns, as in {{assistant: {tag}}}", tag=tag))

    def _known(self) -> str:
        return ", ".join(self._tags)

    def _is_trained(self, message: dict[str, Any]) -> bool:
        for key in self._trained:
            value = message.get(key)
            if value is None:
                continue
            if value not in (0, 1):  # which True and False are too
                raise RowError(
                    Message("{key!r} is {value!r}, and only true, false, 1 and 0 are known", key=key, value=value),
                    FIX_ROW,
                )
            if not value:
                return False
        return True
