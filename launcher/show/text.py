"""Text for a terminal, whoever wrote it: in the reader's language, without secrets, and without what a terminal obeys."""

from __future__ import annotations

from typing import Any

import rich.text

from launcher import messages, scrub


class Text(rich.text.Text):
    """rich's, which lets escape sequences pass. A Message is translated; any other text is data, and stays what it is."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(_shown(text), *args, **options)

    def append(self, text: rich.text.Text | str, style: Any = None) -> Text:
        super().append(_shown(text) if isinstance(text, str) else text, style)
        return self


def _shown(text: str) -> str:
    return scrub.shown(messages.translated(text) if isinstance(text, messages.Message) else text)
