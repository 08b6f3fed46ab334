"""Which characters of a rendered conversation are trained: what the model itself would write of it.

That is an answer from where the template's prompt for an answer ends to the token that ends the turn, that token included. The
prompt, the other roles, and a line break after the end are the template's.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.tasks.sft import Chats
from launcher.text import first_line
from launcher.worker.chat.marked import Marked, Rendered, Span

_EMPTY_THOUGHTS = re.compile(r"\s*(<think>)?\s*</think>\n{0,2}")
"""Without the first word where the prompt for an answer ends with it."""
_OPENED_THOUGHTS = re.compile(r"<think>\s*(</think>\s*)?\Z")
"""What some templates put at the end of the prompt for an answer, and leave out of answers further up."""
_THOUGHTS_END = "</think>"
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold what was thought before what is said."""
_PROBE = {"role": "user", "content": "x"}
_NEAR = 3
"""The prompt for an answer depends on no more than so many messages before it."""
_OWN_TEMPLATE = Message(
    "put the answer between {% generation %} and {% endgeneration %} in a copy of the template, and name that file as "
    "data.chat_template"
)


@dataclass(frozen=True)
class Text:
    """A row as text."""

    text: str
    trained: tuple[Span, ...]
    """In order, and apart."""
    thoughts_left_out: int = 0
    """Messages whose thoughts the template leaves out, as many do of all turns but the last."""


class Question(NamedTuple):
    """What a conversation's last answer is to."""

    prompt: str
    """The text up to where the answer begins."""
    reference: str
    """What the answer says, without thoughts: its words, or its calls as the template writes them."""


@dataclass(frozen=True)
class _Chat:
    """A row as the template gets it."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[Any] | None


class Turns:
    """Conversations in one tokenizer's chat template."""

    def __init__(self, template: Marked, chats: Chats, *, tokens: Mapping[str, str], specials: Iterable[str]) -> None:
        """
        Args:
            tokens: what the template may name: bos_token and the others.
            specials: the tokens that no text is made of; one of them ends a turn.
        """
        self._template = template
        self._chats = chats
        self._tokens = tokens
        words = "|".join(re.escape(word) for word in sorted(specials, key=len, reverse=True) if word) or r"(?!)"
        self._special = re.compile(words)
        self._end = re.compile(rf"({words})\s*\Z")
        self._prompts: dict[Any, str] = {}
        self._stops: dict[Any, str] = {}

    def text(self, conversation: Mapping[str, Any]) -> Text:
        """Of a row's `messages`, and `tools`.

        Raises:
            LaunchError: the template refuses them, leaves out tools, or does not tell where an answer begins.
        """
        chat, whole = self._chat(conversation)
        text, kept = whole.text, [message.get("train", True) for message in conversation["messages"]]
        left_out = sum(thoughts not in text for thoughts in map(_thoughts, conversation["messages"]) if thoughts)
        if self._chats.train_on == "all":
            holes = (whole.turns.get(i) for i, is_kept in enumerate(kept) if not is_kept)
            return Text(text, tuple(_without([(0, len(text))], holes)), left_out)
        answers = _answers(chat.messages)
        chosen = [i for i in (answers[-1:] if self._chats.train_on == "last" else answers) if kept[i]]
        spans = self._spans(chat, whole, chosen)
        if spans and chosen[-1] == len(chat.messages) - 1 and not self._end.search(text, *spans[-1]):
            text += self._tokens.get("eos_token", "")
            spans[-1] = (spans[-1][0], len(text))
        return Text(text, tuple(span for span in spans if span[0] < span[1]), left_out)

    def question(self, conversation: Mapping[str, Any]) -> Question | None:
        """What a row's last answer is to, written as when that answer is trained; None where nothing is answered.

        Raises:
            LaunchError: as `text`.
        """
        messages = conversation["messages"]
        if not (answers := _answers(messages)):
            return None
        last = answers[-1]
        chat, whole = self._chat({**conversation, "messages": messages[: last + 1]})
        begin, end = self._spans(chat, whole, [last])[0]
        said = messages[last].get("content") if not messages[last].get("tool_calls") else None
        return Question(whole.text[:begin], without_thoughts(said or self._end.sub("", whole.text[begin:end])))

    def prompt(self, conversation: Mapping[str, Any]) -> str:
        """All of a conversation, and what announces an answer to it.

        Raises:
            LaunchError: as `text`.
        """
        chat, _ = self._chat(conversation)
        return self._render(chat, more=True).text

    def end_of_turn(self) -> str:
        """The token that ends an answer; '' where the template writes none.

        Raises:
            LaunchError: the template refuses a question and its answer.
        """
        return self._stop(_Chat([dict(_PROBE), {**_PROBE, "role": "assistant"}], None), 1)

    # -- where an answer is ------------------------------------------------------------------------------------------

    def _spans(self, chat: _Chat, whole: Rendered, chosen: Sequence[int]) -> list[Span]:
        spans = self._enclosed(whole, _answers(chat.messages), chosen) or [self._answer(chat, whole, i) for i in chosen]
        return [self._without_empty_thoughts(whole.text, span) for span in spans]

    def _enclosed(self, whole: Rendered, answers: Sequence[int], chosen: Sequence[int]) -> list[Span]:
        """What `{% generation %}` encloses of the chosen messages, with the token that ends each turn."""
        spans = whole.generation
        if all(i in whole.turns for i in chosen):
            spans = tuple(s for s in spans if any(_overlap(s, whole.turns[i]) for i in chosen))
        elif len(spans) == len(answers):
            spans = tuple(span for i, span in zip(answers, spans, strict=True) if i in chosen)
        elif spans and len(chosen) != len(answers):
            raise LaunchError("the chat template does not tell which answer is which message's", hint=_OWN_TEMPLATE)
        return [self._with_end(whole.text, span) for span in spans]

    def _with_end(self, text: str, span: Span) -> Span:
        if self._end.search(text[slice(*span)]):
            return span
        after = self._special.match(text, span[1])
        return (span[0], after.end()) if after else span

    def _answer(self, chat: _Chat, whole: Rendered, i: int) -> Span:
        if i not in whole.turns:
            return self._between_prefixes(chat, whole, i)
        start, end = self._begin(chat, whole, i), self._own_end(chat, whole, i)
        found = self._end.search(whole.text, start, end)
        if found is None:  # the next turn's first token is what ends this one, as in GLM-4
            after = self._special.match(whole.text, end) if i + 1 < len(chat.messages) else None
            return (start, after.end() if after else len(whole.text[:end].rstrip()))
        is_written = found[1] == self._stop(chat, i)
        return (start, found.end(1) if is_written else found.start(1))

    def _begin(self, chat: _Chat, whole: Rendered, i: int) -> int:
        """Where the prompt of an answer ends in the whole text."""
        begin, _ = whole.turns[i]
        before = whole.turns.get(i - 1, (begin, begin))[1]
        for prompt in self._prompts_of(chat, i):
            for written in (prompt, _OPENED_THOUGHTS.sub("", prompt)):
                for start in (before, begin):
                    if whole.text.startswith(written, start):
                        return self._after_header(whole.text, max(start + len(written), begin), written)
        raise LaunchError(
            "the chat template writes {written!r} where an answer was to begin with {prompt!r}",
            hint=_OWN_TEMPLATE,
            written=whole.text[before : before + len(prompt)],
            prompt=prompt,
        )

    def _after_header(self, text: str, start: int, prompt: str) -> int:
        """No answer begins with what announces one, also where a template leaves that out of the prompt, after results."""
        header = next(self._prompts_of(_Chat([dict(_PROBE)], None), 1))
        is_missing = header and header not in prompt
        return start + len(header) if is_missing and text.startswith(header, start) else start

    def _own_end(self, chat: _Chat, whole: Rendered, i: int) -> int:
        """Where a message's part ends; some templates write the results of its calls into it, instead of turns of their own."""
        begin, end = whole.turns[i]
        if i + 1 == len(chat.messages) or i + 1 in whole.turns:
            return end
        alone = self._render(_Chat(chat.messages[: i + 1], chat.tools))
        pairs = zip(whole.text[begin:end], alone.text[slice(*alone.turns.get(i, (0, 0)))], strict=False)
        return begin + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _between_prefixes(self, chat: _Chat, whole: Rendered, i: int) -> Span:
        """Where the template goes over the messages in another way: from where all before it ends, to where it ends itself,
        if the text begins so."""
        before = self._render(_Chat(chat.messages[:i], chat.tools), more=True).text
        after = self._render(_Chat(chat.messages[: i + 1], chat.tools)).text
        if whole.text.startswith(after) and after.startswith(before):
            end = self._end.search(after, len(before))
            return (len(before), end.end(1) if end else len(after.rstrip()))
        raise LaunchError(
            "the chat template writes a conversation in another way than its beginning, so that nothing tells where an answer is",
            hint=_OWN_TEMPLATE,
        )

    def _prompts_of(self, chat: _Chat, i: int) -> Iterator[str]:
        """What the template writes between a message and the answer to it: as after other messages of these kinds, and then,
        where that does not fit, as after these."""
        near = [_kind(message) for message in chat.messages[max(i - _NEAR, 0) : i]]
        first = chat.messages[0]
        key = (*near, i > _NEAR, bool(chat.tools), str(first["content"]) if first["role"] == "system" else None)
        if key in self._prompts:
            yield self._prompts[key]
        self._prompts[key] = self._prompt(chat, i)
        yield self._prompts[key]

    def _prompt(self, chat: _Chat, i: int) -> str:
        before = list(chat.messages[:i]) or [dict(_PROBE)]
        try:
            asked = self._render(_Chat(before, chat.tools), more=True)
        except LaunchError:  # some templates want a question before anything else
            if before == [_PROBE]:
                raise
            return self._prompt(_Chat([dict(_PROBE)], None), 1)
        if len(before) - 1 in asked.turns:
            return asked.text[asked.turns[len(before) - 1][1] :]
        return asked.text[len(self._render(_Chat(before, chat.tools)).text) :]

    def _stop(self, chat: _Chat, i: int) -> str:
        """The token that ends an answer when it is the last one: further up some templates write another there, which no
        model is to write."""
        key = (_kind(chat.messages[i]), bool(chat.tools))
        if key not in self._stops:
            whole = self._render(_Chat(chat.messages[: i + 1], chat.tools))
            found = self._end.search(whole.text, *whole.turns.get(i, (0, len(whole.text))))
            self._stops[key] = found[1] if found else ""
        return self._stops[key]

    def _without_empty_thoughts(self, text: str, span: Span) -> Span:
        empty = None if self._chats.thinking else _EMPTY_THOUGHTS.match(text, *span)
        return (empty.end(), span[1]) if empty else span

    # -- rendering ---------------------------------------------------------------------------------------------------

    def _chat(self, conversation: Mapping[str, Any]) -> tuple[_Chat, Rendered]:
        """The row as this template reads it, and what it makes of it."""
        tools = conversation.get("tools") or None
        refusals: list[LaunchError] = []
        for form in _FORMS:
            chat = _Chat([_as_templates_read(message, form) for message in conversation["messages"]], tools)
            try:
                whole = self._render(chat)
                _check_all_is_written(conversation, whole.text)
                if tools and self._render(_Chat(chat.messages, None)).text == whole.text:
                    raise _left_out(min(_names(tools), default=""))
            except LaunchError as refused:
                refusals.append(refused)
                continue
            return chat, whole
        raise refusals[0]

    def _render(self, chat: _Chat, *, more: bool = False) -> Rendered:
        from jinja2.exceptions import TemplateError

        try:
            return self._template.render(chat.messages, more=more, tools=chat.tools, **self._tokens)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise LaunchError(
                "the chat template refuses the messages: {error}",
                hint="change these rows, or use another data.chat_template",
                error=first_line(error),
            ) from error


class _Form(NamedTuple):
    """What templates want in different ways."""

    no_content: str | None = ""
    """What stands for the content of a message that has calls alone."""
    arguments_as_text: bool = False
    """Whether arguments of a call are their JSON, and not what it says."""
    in_parts: bool = False
    """Whether content is a list of parts, as of models that see images."""


_FORMS = tuple(itertools.starmap(_Form, itertools.product(("", None), (False, True), (False, True))))


def _as_templates_read(message: Mapping[str, Any], form: _Form) -> dict[str, Any]:
    """A message without what is for us alone, and with thoughts under each name that templates know."""
    made = {key: value for key, value in message.items() if key != "train" and value is not None}
    calls = made.get("tool_calls")
    made["content"] = made.get("content") or (form.no_content if calls else "")
    if form.in_parts and isinstance(made["content"], str):
        made["content"] = [{"type": "text", "text": made["content"]}]
    if calls:
        made["tool_calls"] = [_with_arguments(call, as_text=form.arguments_as_text) for call in calls]
    thoughts = next((made[key] for key in _THOUGHTS if key in made), None)
    return made if thoughts is None else {"thinking": thoughts, **made, "reasoning_content": thoughts}


def _answers(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def without_thoughts(said: str) -> str:
    """What is said once the thinking is over."""
    return said.rpartition(_THOUGHTS_END)[2].strip()


def _thoughts(message: Mapping[str, Any]) -> str:
    own = next((message[key] for key in _THOUGHTS if isinstance(message.get(key), str)), None)
    within = str(message.get("content") or "").rpartition(_THOUGHTS_END)[0].rpartition("<think>")[2]
    return (within if own is None else own).strip()


def _check_all_is_written(conversation: Mapping[str, Any], text: str) -> None:
    """Templates leave out what they do not know, and say nothing."""
    calls = [call for message in conversation["messages"] for call in message.get("tool_calls") or ()]
    if absent := next((name for name in _names(calls) if name not in text), None):
        raise _left_out(absent)
    for message in conversation["messages"]:
        content = message.get("content")
        if message["role"] != "tool" and isinstance(content, str):
            said = without_thoughts(content)
            if said not in text:
                raise LaunchError(
                    "the chat template leaves out what the {role} says: {said!r}",
                    hint="use another data.chat_template",
                    role=message["role"],
                    said=said[:40],
                )


def _left_out(tool: str) -> LaunchError:
    return LaunchError(
        "the chat template leaves out the tool {tool!r}", hint="use a data.chat_template that knows tools", tool=tool
    )


def _with_arguments(call: Mapping[str, Any], *, as_text: bool) -> dict[str, Any]:
    if "function" in call:
        return {"type": "function", **call, "function": _with_arguments(call["function"], as_text=as_text)}
    return {**call, "arguments": (_as_json if as_text else _as_value)(call.get("arguments") or {})}


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _as_value(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _names(calls: Iterable[Any]) -> Iterator[str]:
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        if isinstance(name := function.get("name"), str):
            yield name


def _kind(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a template may look at to choose how it writes a message, but for the words."""
    return (message["role"], *sorted(key for key, value in message.items() if value))


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _without(spans: Sequence[Span], holes: Iterable[Span | None]) -> Iterator[Span]:
    rest = list(spans)
    for hole in holes:
        if hole is not None:
            rest = [part for a, b in rest for part in ((a, min(b, hole[0])), (max(a, hole[1]), b)) if part[0] < part[1]]
    yield from rest
