"""What is predicted from a stream, cut into chunks that each rank takes its share of."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.rundir.paths import touch

REFUSED = "refused"
"""The key of a rank's answer that says why it has none to a row."""


class Chunks:
    """Rows on their way to the ranks of a prediction, and answers on their way back; see worker/predict.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._end = folder / "end"

    def rows(self, number: int) -> Path:
        return self.folder / f"in_{number}.json"

    def answers(self, number: int) -> Path:
        return self.folder / f"out_{number}.json"

    def end(self) -> None:
        """Say that no more rows come."""
        touch(self._end)

    def waiting(self) -> tuple[list[int], bool]:
        """The chunks without answers, in order, and whether no more come."""
        is_end = self._end.exists()  # asked first: all rows were there before it was
        names = {entry.name for entry in os.scandir(self.folder)}
        numbers = (n.removeprefix("in_").removesuffix(".json") for n in names if n.startswith("in_"))
        return sorted(int(k) for k in numbers if f"out_{k}.json" not in names), is_end
