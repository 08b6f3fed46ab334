"""Text for a terminal, whoever wrote it: without secrets, and without what a terminal obeys."""

from __future__ import annotations

from typing import Any

import rich.text

from launcher import scrub


class Text(rich.text.Text):
    """rich's, which lets escape sequences pass."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(scrub.shown(text), *args, **options)

    def append(self, text: rich.text.Text | str, style: Any = None) -> Text:
        super().append(scrub.shown(text) if isinstance(text, str) else text, style)
        return self
