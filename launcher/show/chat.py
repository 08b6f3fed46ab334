"""A chat on a terminal or in a pipe: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys

from launcher import scrub
from launcher.messages import Message, translated
from launcher.show.console import err
from launcher.show.text import Text

PROMPT = "> "
HELP = Message(
    "/reset       begin anew, with the same system message\n"
    "/system TEXT begin anew with TEXT as the system message; without TEXT, with none\n"
    "/exit        leave, as Ctrl-D does; Ctrl-C ends an answer\n"
    "//TEXT       say TEXT with one slash before it"
)


def line(text: str) -> None:
    """One of the chat's own, and not of the model."""
    err.print(Text(text if isinstance(text, Message) else translated(text)))


def begin(name: str, device: str) -> None:
    """Who answers, and how to find out more."""
    line(Message("{name} on {device}; /help says what else there is", name=name, device=device))


def refused(what: str, hint: str) -> None:
    """There is no answer."""
    line(Message("{what}; {hint}", what=translated(what), hint=translated(hint)) if hint else what)


def piece(text: str) -> None:
    """Part of an answer, as it comes, without what a terminal obeys."""
    sys.stdout.write(scrub.plain(text))
    sys.stdout.flush()


def end(*, is_cut: bool) -> None:
    """The end of an answer, and whether it would have gone on."""
    sys.stdout.write("\n")
    sys.stdout.flush()
    if is_cut:
        line(Message("(cut: --max-new-tokens says how long an answer may be)"))
