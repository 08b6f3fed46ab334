"""--lang: the language of help, errors and everything that is shown."""

from __future__ import annotations

import inspect

import click

from launcher import messages
from launcher.messages import Message

HELP = Message("Language of texts [default: what ASCEND_LAUNCH_LANG names, else the locale's].")


def choices() -> list[str]:
    return ["auto", *messages.languages()]


def words(args: list[str]) -> list[str]:
    """--lang and its value, where a command line begins with it; what follows may be a program's own."""
    if args[:1] == ["--lang"]:
        return args[:2]
    return args[:1] if args and args[0].startswith("--lang=") else []


def paragraphs(text: str) -> list[str]:
    """Of a command's help, as click reads it. One that begins with \\b is an example, and is shown as it is."""
    return inspect.cleandoc(text).split("\n\n")


def translate(command: click.Command) -> None:
    """Have the help of `command`, and of those below it, in the language that was chosen."""
    translate_own(command)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            translate(each)


def translate_own(command: click.Command) -> None:
    """As `translate`, without what is below it."""
    if not messages.is_translated():
        return
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            option.help = messages.translated(option.help)
    # click cuts short_help out of help where there is none.
    command.help, command.epilog, command.short_help = map(_page, (command.help, command.epilog, command.short_help))


def _page(text: str | None) -> str | None:
    if not text:
        return text
    return "\n\n".join(part if part.startswith("\b") else messages.translated(part) for part in paragraphs(text))
