"""A chat template that also says which part of its text comes from which message.

The template itself is rendered, with the messages as they are; marks are put where one of its loops over the messages begins
and ends a turn. So the text is what the template writes, also where it leaves out earlier thoughts, trims, or adds a system
prompt of its own, and a message's part of it is known without looking for the message's words.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, Template, nodes

Span = tuple[int, int]
Message = Mapping[str, Any]

_NONCE = secrets.token_hex(8)
"""Of this process: no text holds it."""
_MARK = re.compile(rf"\x00{_NONCE}([<>])(-?\d+)\x00")
_GENERATION = -1
"""The number of what a template's own `{% generation %}` encloses."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as one text."""

    text: str
    turns: Mapping[int, Span]
    """Where each message's part is, by its number; of those messages alone that a loop of the template went over."""
    generation: tuple[Span, ...]
    """What `{% generation %}` encloses."""


class Marked:
    """A compiled template."""

    def __init__(self, source: str, *, today: date) -> None:
        """`today` is the date that the template gets to know.

        Raises:
            jinja2.TemplateSyntaxError: it is no template.
        """
        self.source = source
        self._today = today
        self._numbers: dict[int, int] = {}
        """Of the messages that are being rendered, by the identity of their objects."""
        environment = _environment(source)
        tree = _with_marks(environment.parse(source))
        own = {"strftime_now": self._strftime, "turn_number": self._number, "turn_mark": _turn_mark}
        code, known = environment.compile(tree), environment.make_globals(own)
        self._template: Template = environment.template_class.from_code(environment, code, known)

    def render(self, messages: Sequence[Message], *, more: bool = False, **values: Any) -> Rendered:
        """Of messages, each an object of its own; `more` for the prompt of an answer that is to come.

        Raises:
            jinja2.TemplateError, TypeError, ...: whatever the template raises.
        """
        self._numbers = {id(message): number for number, message in enumerate(messages)}
        text = self._template.render(messages=messages, add_generation_prompt=more, **values)
        return _parted(text)

    def _strftime(self, form: str) -> str:
        return self._today.strftime(form)

    def _number(self, value: Any) -> int | None:
        return self._numbers.get(id(value))


def _turn_mark(number: int | None, side: str) -> str:
    return "" if number is None else f"\x00{_NONCE}{side}{number}\x00"


def _environment(source: str) -> Environment:
    """transformers' own for chat templates, sandboxed, with its filters and tags."""
    from transformers.utils import chat_template_utils

    environment: Environment = chat_template_utils._compile_jinja_template(source).environment
    return environment


def _with_marks(tree: nodes.Template) -> nodes.Template:
    from jinja2 import nodes

    for count, loop in enumerate(tree.find_all(nodes.For)):
        if isinstance(loop.target, nodes.Name):
            _mark_loop(loop, loop.target.name, f"turn_{count}")
    for block in tree.find_all(nodes.CallBlock):
        if getattr(block.call.node, "name", "") == "_generation_support":
            begin, end = (nodes.Output([nodes.TemplateData(_turn_mark(_GENERATION, side))]) for side in "<>")
            block.body = [begin, *block.body, end]
    return tree


def _mark_loop(loop: nodes.For, target: str, variable: str) -> None:
    """`variable` keeps the message's number, since a template may give `target` another value."""
    from jinja2 import nodes

    number = _call("turn_number", nodes.Name(target, "load"))
    begin, end = (nodes.Output([_call("turn_mark", nodes.Name(variable, "load"), nodes.Const(side))]) for side in "<>")
    body = [nodes.Assign(nodes.Name(variable, "store"), number), begin, *_ended_early(loop.body, end), end]
    loop.body = body


def _ended_early(body: list[nodes.Node], end: nodes.Output) -> list[nodes.Node]:
    """Statements of a loop, with its mark before each `continue` and `break` too."""
    from jinja2 import nodes

    out: list[nodes.Node] = []
    for node in body:
        if isinstance(node, nodes.Continue | nodes.Break):
            out.append(end)
        elif not isinstance(node, nodes.For):
            for key in ("body", "elif_", "else_"):
                if isinstance(inner := getattr(node, key, None), list):
                    setattr(node, key, _ended_early(inner, end))
        out.append(node)
    return out


def _call(function: str, *arguments: nodes.Expr) -> nodes.Call:
    from jinja2 import nodes

    return nodes.Call(nodes.Name(function, "load"), list(arguments), [], None, None)


def _parted(marked: str) -> Rendered:
    """The text without its marks, and what they say."""
    parts: list[str] = []
    length = last = 0
    begun: list[tuple[int, int]] = []
    turns: dict[int, Span] = {}
    generation: list[Span] = []
    for mark in _MARK.finditer(marked):
        parts.append(marked[last : mark.start()])
        length, last = length + len(parts[-1]), mark.end()
        number = int(mark[2])
        if mark[1] == "<":
            begun.append((number, length))
            continue
        _, begin = begun.pop()
        if begin == length:  # a loop that looks through the messages, and writes nothing
            continue
        if number == _GENERATION:
            generation.append((begin, length))
        else:
            turns[number] = (turns.get(number, (begin, 0))[0], length)
    parts.append(marked[last:])
    return Rendered("".join(parts), turns, tuple(generation))
