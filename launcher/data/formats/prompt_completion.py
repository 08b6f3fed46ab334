"""`{"prompt": …, "completion": …}`, both text or both messages. Of messages, the completion alone is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launcher.data.formats.base import (
    SOME_ANSWER,
    SYSTEM,
    Columns,
    Conversation,
    Row,
    RowError,
    filled_text,
    prompted,
    refuse_media,
    required,
    system_messages,
)
from launcher.data.formats.messages import MESSAGES
from launcher.messages import Message
from launcher.recipe import formats


class PromptCompletion:
    """As TRL reads it."""

    interface = formats.INTERFACE
    name = "prompt-completion"
    keys: Mapping[str, str] = {
        "prompt": "the column with the prompt",
        "completion": "the column with its completion",
        "system": "the column with the system message",
        "tools": "the column with the tools",
    }

    def fits(self, row: Row, columns: Columns) -> bool:
        ask, answer = columns.name("prompt", "prompt"), columns.name("completion", "completion")
        return answer in row and (ask in row or columns.prompt is not None)

    def has_columns(self, row: Row, columns: Columns) -> bool:
        return self.fits(row, columns)

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        ask, answer = columns.name("prompt", "prompt"), columns.name("completion", "completion")
        system, known = columns.name("system", *SYSTEM, row=row), columns.name("tools", "tools")
        tags = {key: name for key, name in columns.names.items() if key not in self.keys and key != "messages"}
        read = MESSAGES.reader({}, Columns({**tags, "messages": "messages", "tools": "tools"}))

        def of_messages(row: Row) -> Conversation:
            parts = []
            for name in (ask, answer):
                try:
                    part = required(row, name)
                    parts.append(read({"messages": part})["messages"])
                except RowError as error:
                    raise RowError(Message("{name!r}: {what}", name=name, what=error.what), error.hint) from None
            before = [{**one, "train": False} if one["role"] == "assistant" else one for one in parts[0]]
            if before[0]["role"] != "system":
                before = [*system_messages(row, system), *before]
            tools = read({"messages": row[answer], "tools": row.get(known)}).get("tools")
            return {"messages": [*before, *parts[1]], **({"tools": tools} if tools else {})}

        def conversation(row: Row) -> Conversation:
            refuse_media(row)
            if isinstance(row.get(ask), list) or isinstance(row.get(answer), list):
                return of_messages(row)
            content = filled_text(row, ask) if columns.prompt is None else prompted(columns.prompt, row)
            turns = (("user", content), ("assistant", filled_text(row, answer)))
            messages = [{"role": role, "content": one} for role, one in turns]
            return {"messages": [*system_messages(row, system), *messages]}

        return conversation

    def answered(self, row: Row, columns: Columns) -> Row:
        message = {"role": columns.name("assistant", "assistant"), "content": SOME_ANSWER}
        message = {columns.name(key, key): value for key, value in message.items()}
        is_list = isinstance(row.get(columns.name("prompt", "prompt")), list)
        return {**row, columns.name("completion", "completion"): [message] if is_list else SOME_ANSWER}


PROMPT_COMPLETION = PromptCompletion()
