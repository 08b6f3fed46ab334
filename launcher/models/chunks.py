"""How many positions' logits are made at once, where a loss is taken in chunks of them."""

from __future__ import annotations

CHUNK_ELEMENTS = 1 << 26
"""Logits that are there at once: 256 MiB in fp32. Matrix products gain nothing from more."""
MIN_ROWS = 128
"""Positions of a chunk at least, whatever the vocabulary."""


def chunk_rows(vocabulary: int) -> int:
    """Positions of a chunk."""
    return max(MIN_ROWS, CHUNK_ELEMENTS // vocabulary)
