"""Which rows of which sets: limits, weights, and rows that are held out. All of it follows from the rows and the seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from launcher.data.sources import Source
from launcher.errors import LaunchError
from launcher.messages import Message


def order(rows: Sequence[str], seed: int) -> list[int]:
    """The rows in an order that looks random: by a digest of the seed and their content. Equal rows stand together, in the
    order that they had."""
    key = seed.to_bytes(8, "little")
    digests = [hashlib.blake2b(row.encode("utf-8", "surrogatepass"), digest_size=16, key=key).digest() for row in rows]
    return sorted(range(len(rows)), key=lambda number: (digests[number], number))


def limited(rows: list[str], limit: int | None, seed: int) -> list[str]:
    """So many of the rows, in the order that they have."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[number] for number in sorted(order(rows, seed)[:limit])]


def mixed(sets: Sequence[Source], parts: list[list[str]], notes: list[str]) -> list[str]:
    """The rows that are trained on, set after set: within each set's limit, and in the proportion of the weights.

    Raises:
        LaunchError: some sets have a weight, and others none.
    """
    parts = [limited(part, one.spec.limit, one.spec.seed) for one, part in zip(sets, parts, strict=True)]
    weights = [one.spec.weight for one in sets if one.spec.weight is not None]
    if len(weights) not in (0, len(sets)):
        lone = next(one for one in sets if one.spec.weight is None)
        raise LaunchError(
            "{key}: has no weight, and other sets have one",
            hint="give every set a weight, or none of them",
            key=lone.key,
        )
    if weights:
        counts = shares([len(part) for part in parts], weights)
        for one, part, count in zip(sets, parts, counts, strict=True):
            if count < len(part):
                notes.append(
                    Message(
                        "{where}: {count:,} of {num_rows:,} rows are trained on, by the weights of the sets",
                        where=one.where,
                        count=count,
                        num_rows=len(part),
                    )
                )
        parts = [limited(part, count, one.spec.seed) for one, part, count in zip(sets, parts, counts, strict=True)]
    return [row for part in parts for row in part]


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each set: the largest numbers in the proportion of the weights, each at least 1 and at most the
    set's size."""
    total = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [min(size, max(1, round(weight * total))) for size, weight in zip(sizes, weights, strict=True)]


def held_out(rows: Sequence[str], amount: float, seed: int) -> tuple[list[int], list[int]]:
    """Which rows to train on and which to evaluate: a share of all below 1, from 1 on a number of rows. Rows that are equal
    are on one side.

    Raises:
        LaunchError: nothing would be left on one of the sides.
    """
    count = round(amount * len(rows)) if amount < 1 else int(amount)
    chosen = order(rows, seed)
    while 0 < count < len(rows) and rows[chosen[count]] == rows[chosen[count - 1]]:
        count += 1
    if not 0 < count < len(rows):
        raise LaunchError(
            "data.eval: {amount:g} of {num_rows:,} rows cannot be held out: some have to be left on either side",
            hint="hold out fewer or more of them, or evaluate on none: data.eval=null",
            amount=amount,
            num_rows=len(rows),
        )
    return sorted(chosen[count:]), sorted(chosen[:count])
