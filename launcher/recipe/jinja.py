"""Whether a file is a chat template, before anything that would render it is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.messages import Message

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser


def problem(file: Path) -> str | None:
    """What is wrong with the template in a file, with its line; None where nothing is, or it cannot be read here."""
    from jinja2 import Environment, TemplateSyntaxError
    from jinja2.ext import Extension

    class Generation(Extension):
        """Tells the parser of transformers' tag around what assistants say."""

        tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        Environment(extensions=[Generation, "jinja2.ext.loopcontrols"]).parse(file.read_text(encoding="utf-8"))  # noqa: S701
    except TemplateSyntaxError as error:
        return Message("{file}:{line}: {error}", file=file, line=error.lineno, error=error.message)
    except (OSError, UnicodeDecodeError):
        return None
    return None
