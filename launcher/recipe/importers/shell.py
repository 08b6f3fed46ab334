"""The commands of a shell script, with the line of every word. Nothing is run: of expansions, variables that the script sets and
arithmetic on them are known, and a word with any other says so."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field

_NAME = re.compile(r"\{(\w+)(?::?-([^}]*))?\}|([A-Za-z_]\w*)")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_EXPR = re.compile(r"\s*expr\s+(.*)", re.DOTALL)
_ENDS = "\n;&|"
_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod}


@dataclass
class Word:
    """A word of a command."""

    text: str
    line: int
    unknown: str = ""
    """What in it is known only when the script runs."""


@dataclass
class Command:
    """A command without its redirections."""

    words: list[Word]
    environment: dict[str, Word]
    """Variables that the script sets for it."""


@dataclass
class _Reader:
    text: str
    at: int = 0
    line: int = 1
    word: Word | None = None
    words: list[Word] = field(default_factory=list)
    variables: dict[str, Word] = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)
    commands: list[Command] = field(default_factory=list)
    is_redirected: bool = False
    """The next word is a file's name."""

    def read(self) -> list[Command]:
        while self.at < len(self.text):
            self._step(self._take())
        self._end_command()
        return self.commands

    def _take(self, count: int = 1) -> str:
        taken = self.text[self.at : self.at + count]
        self.at += count
        self.line += taken.count("\n")
        return taken

    def _add(self, text: str, unknown: str = "") -> None:
        if self.word is None:
            self.word = Word("", self.line)
        self.word.text += text
        self.word.unknown = self.word.unknown or unknown

    def _step(self, char: str) -> None:
        if char == "\\":
            escaped = self._take()
            if escaped != "\n":
                self._add(escaped)
        elif char == "'":
            self._add(self._until("'"))
        elif char == '"':
            self._quoted()
        elif char == "#" and self.word is None:
            self._until("\n", keep=True)
        elif char in _ENDS:
            self._end_command()
        elif char in "<>":
            self._redirect()
        elif char in "$`":
            self._expand(char)
        elif char.isspace():
            self._end_word()
        else:
            self._add(char)

    def _until(self, end: str, *, keep: bool = False) -> str:
        """The text before `end`, which is taken with it or kept."""
        place = self.text.find(end, self.at)
        place = len(self.text) if place < 0 else place
        text = self._take(place - self.at)
        if not keep:
            self._take(len(end))
        return text

    def _quoted(self) -> None:
        self._add("")
        while self.at < len(self.text):
            char = self._take()
            if char == '"':
                return
            if char == "\\" and self.text[self.at : self.at + 1] in tuple('$`"\\\n'):
                escaped = self._take()
                self._add("" if escaped == "\n" else escaped)
            elif char in "$`":
                self._expand(char)
            else:
                self._add(char)

    def _expand(self, char: str) -> None:
        start = self.at - 1
        known = None if self._skipped(char) else self._known()
        if known is None:
            self._add("", self.text[start : self.at].strip())
        else:
            self._add(known)

    def _skipped(self, char: str) -> bool:
        """Whether it was a command in backquotes, which is left out."""
        if char == "`":
            self._until("`")
        return char == "`"

    def _known(self) -> str | None:
        """The value of what follows a $; None where it is known only when the script runs."""
        if self.text.startswith("((", self.at):
            self._take(2)
            return self._calculated(self._until("))"))
        if self.text.startswith("(", self.at):
            command = _EXPR.match(self._parenthesised())
            return self._calculated(command[1]) if command else None
        if name := _NAME.match(self.text, self.at):
            self._take(name.end() - self.at)
            known = self.variables.get(name[1] or name[3])
            return name[2] if known is None else None if known.unknown else known.text
        if self.text.startswith("{", self.at):
            self._until("}")
            return None
        return "$"

    def _parenthesised(self) -> str:
        depth, start = 0, self.at + 1
        while self.at < len(self.text):
            char = self._take()
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth == 0:
                break
        return self.text[start : self.at - 1]

    def _calculated(self, expression: str) -> str | None:
        def value(name: re.Match[str]) -> str:
            known = self.variables.get(name[1])
            return name[0] if known is None or known.unknown else known.text

        result = _result(re.sub(r"\$?\{?\b([A-Za-z_]\w*)\}?", value, expression).replace("\\", ""))
        return None if result is None else str(result)

    def _redirect(self) -> None:
        if self.word is not None and self.word.text.isdigit():
            self.word = None
        self._end_word()
        while self.text[self.at : self.at + 1] in tuple("<>&"):
            self._take()
        self.is_redirected = True

    def _end_word(self) -> None:
        if self.word is None:
            return
        if not self.is_redirected:
            self.words.append(self.word)
        self.word, self.is_redirected = None, False

    def _end_command(self) -> None:
        self._end_word()
        words, self.words = self.words, []
        own: dict[str, Word] = {}
        exports = bool(words) and words[0].text in ("export", "env")
        if exports and words[0].text == "export":
            words = words[1:]
        elif exports:
            exports, words = False, words[1:]
        while words and (assignment := _ASSIGNMENT.fullmatch(words[0].text)):
            own[assignment[1]] = Word(assignment[2], words[0].line, words[0].unknown)
            words = words[1:]
        if words and not exports:
            environment = {name: self.variables[name] for name in self.exported if name in self.variables}
            self.commands.append(Command(words, {**environment, **own}))
            return
        self.variables.update(own)
        if exports:
            self.exported |= own.keys() | {word.text for word in words}


def _result(expression: str) -> int | None:
    """Of whole numbers, from left to right, with signs of one rank."""
    parts = re.findall(r"\d+|[-+*/%]", expression)
    if "".join(parts) != re.sub(r"\s", "", expression) or len(parts) % 2 == 0:
        return None
    signs, numbers = parts[1::2], parts[::2]
    if not all(n.isdigit() for n in numbers) or not (set(signs) <= set("+-") or set(signs) <= set("*/%")):
        return None
    total = int(numbers[0])
    for sign, number in zip(signs, map(int, numbers[1:]), strict=True):
        if sign in "/%" and number == 0:
            return None
        total = _SIGNS[sign](total, number)
    return total


def commands(text: str) -> list[Command]:
    """The commands of a script in the order in which they stand."""
    return _Reader(text).read()
