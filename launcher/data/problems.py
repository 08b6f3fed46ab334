"""What is wrong with rows: collected, and said at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.errors import LaunchError
from launcher.messages import Message, joined

MOST_SHOWN = 20


@dataclass
class Problems:
    """All of a job's data; the first are kept, and the rest are counted."""

    shown: list[tuple[Message, str]] = field(default_factory=list)
    """What is wrong, with its place; and what to do."""
    count: int = 0

    def add(self, place: object, what: str, hint: str) -> None:
        self.count += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append((Message("{place}: {what}", place=place, what=what), hint))

    def raise_if_any(self) -> None:
        """Raises LaunchError with all of them."""
        if not self.shown:
            return
        lines = [what for what, _ in self.shown]
        if more := self.count - len(lines):
            lines.append(Message("and {count:,} more like these", count=more))
        hints = dict.fromkeys(hint for _, hint in self.shown)
        raise LaunchError(joined(lines, "\n"), hint=joined(hints, "\n       "))
