"""Rows that share a sequence: which go together, and a data set of them."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


def packs(lengths: Sequence[int] | np.ndarray, max_length: int) -> list[list[int]]:
    """Row numbers that share one sequence of at most `max_length` tokens, by best fit decreasing: the longest row that is
    left goes where the least room stays. A row longer than that has a sequence of its own.

    A pure function of the lengths, so every rank and every resumed run makes the same packs.
    """
    size = np.asarray(lengths)
    made: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # those that some pack has, sorted
    for row in np.argsort(-size, kind="stable").tolist():
        length = int(size[row])
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            pack, room = len(made), max_length
            made.append([])
        else:
            room = rooms[at]
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(at)
        made[pack].append(row)
        left = room - length
        if left > 0:
            if not by_room[left]:
                bisect.insort(rooms, left)
            by_room[left].append(pack)
    return made


class Packed:
    """A data set whose item is the list of the rows of one pack. `collate` of a task makes one sequence of them."""

    def __init__(self, rows: Dataset, packs: Sequence[Sequence[int]], lengths: np.ndarray) -> None:
        self._rows = rows
        self._packs = packs
        self.lengths = np.array([int(lengths[list(pack)].sum()) for pack in packs], np.int64)
        """Tokens of each pack."""

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, pack: int) -> list[dict[str, Any]]:
        return self.__getitems__([pack])[0]

    def __getitems__(self, packs: Sequence[int]) -> list[list[dict[str, Any]]]:
        """Several packs by one look into the table, as DataLoader asks for a batch."""
        wanted = [row for pack in packs for row in self._packs[pack]]
        rows = iter(self._rows.__getitems__(wanted))
        return [[next(rows) for _ in self._packs[pack]] for pack in packs]
