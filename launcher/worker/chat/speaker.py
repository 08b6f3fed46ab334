"""How one tokenizer writes conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from launcher.errors import LaunchError
from launcher.recipe.tasks.sft import Chats
from launcher.text import first_line
from launcher.worker.chat.marked import Marked
from launcher.worker.chat.templates import TODAY
from launcher.worker.chat.turns import Question, Text, Turns

_T = TypeVar("_T")
Conversation = Mapping[str, Any]


class Speaker:
    """Conversations (`messages`, and `tools`) as texts in a tokenizer's chat template."""

    def __init__(self, tokenizer: Any, chats: Chats) -> None:
        self._tokenizer = tokenizer
        self._chats = chats
        self._turns: dict[bool, Turns] = {}

    def text(self, conversation: Conversation) -> Text:
        """All of it, and what of it is trained. Raises LaunchError where the template refuses it, or there is none."""
        return _of_row(conversation, lambda: self._turns_of(conversation).text(conversation))

    def question(self, conversation: Conversation) -> Question | None:
        """What its last answer is to, and that answer; None where nothing is answered. Raises LaunchError as `text`."""
        return _of_row(conversation, lambda: self._turns_of(conversation).question(conversation))

    def prompt(self, conversation: Conversation) -> str:
        """All of it, and what announces an answer. Raises LaunchError as `text`."""
        return _of_row(conversation, lambda: self._turns_of(conversation).prompt(conversation))

    def end_of_turn(self) -> str:
        """The token that ends an answer; '' where there is no template, or it writes none."""
        if self._tokenizer.chat_template is None:
            return ""
        try:
            return self._turns_of({}).end_of_turn()
        except LaunchError:  # a template for conversations of another kind
            return ""

    def _turns_of(self, conversation: Conversation) -> Turns:
        """Made when a conversation needs it: texts need no template. Some tokenizers have another one for tools."""
        has_tools = bool(conversation.get("tools"))
        if has_tools not in self._turns:
            self._turns[has_tools] = _turns(self._tokenizer, self._chats, has_tools=has_tools)
        return self._turns[has_tools]


def _of_row(conversation: Conversation, made: Callable[[], _T]) -> _T:
    """With the words by which a row that is refused is known."""
    try:
        return made()
    except LaunchError as refused:
        said = next((m["content"] for m in conversation["messages"] if m.get("content")), "")
        raise LaunchError(
            "the row that begins with {said!r}: {what}", hint=refused.hint, said=said[:40], what=refused.what
        ) from refused


def _turns(tokenizer: Any, chats: Chats, *, has_tools: bool) -> Turns:
    from jinja2.exceptions import TemplateError

    if tokenizer.chat_template is None:
        raise LaunchError(
            "the tokenizer has no chat template", hint="set data.chat_template=plain, =chatml, or to a file"
        )
    try:
        source = tokenizer.get_chat_template(tools=[{}] if has_tools else None)
        template = Marked(source, today=TODAY)
    except (TemplateError, ValueError) as error:  # of several templates, none is the default
        raise LaunchError(
            "the chat template cannot be read: {error}", hint="use another data.chat_template", error=first_line(error)
        ) from error
    named = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return Turns(template, chats, tokens=named, specials=_specials(tokenizer))


def _specials(tokenizer: Any) -> set[str]:
    """Tokens that may end a turn. </tool_call> and such are added tokens too, but part of what is said."""
    added = tokenizer.added_tokens_decoder.values()
    return {
        *tokenizer.all_special_tokens,
        *(str(token) for token in added if token.special or str(token).startswith("<|")),
    }
