"""A training's state as named pieces, which fit each other whichever strategy cut them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """`numel` elements from `start` of a flattened parameter, at `offset` of what this rank holds."""

    name: str
    start: int
    offset: int
    numel: int


@dataclass(frozen=True)
class Held:
    """One tensor that the optimizer steps on this rank."""

    key: Tensor
    """The very object that the optimizer's state is kept under."""
    pieces: tuple[Piece, ...]

    @property
    def values(self) -> Tensor:
        """Its elements on this rank, in one dimension; writing to it changes the training."""
        return flat(self.key)


class Parts(Protocol):
    """Where a wrapped training's state is."""

    model: torch.nn.Module
    """Without its wrapper."""
    optimizer: Any
    """torch's, without accelerate's or DeepSpeed's around it."""
    is_replicated: bool
    """Whether every rank holds the same pieces, so that one of them is enough."""

    def held(self) -> Iterator[Held]:
        """What this rank's optimizer steps."""

    def values(self) -> dict[str, Any] | None:
        """Counts and scales that the engine keeps beside the optimizer; None where it keeps none."""

    def set_values(self, saved: dict[str, Any]) -> None:
        """Take over what `values` gave."""

    def before_weights(self) -> None:
        """Before the weights of `held` are written to; every rank calls it."""

    def after_weights(self) -> None:
        """After that: bring up to them the weights that layers compute with; every rank calls it."""


def flat(tensor: Tensor) -> Tensor:
    """This rank's elements of it, in one dimension."""
    local = tensor.to_local() if type(tensor).__name__ == "DTensor" else tensor
    return local.detach().view(-1)


def cut(values: Tensor, piece: Piece) -> Tensor:
    """The piece's elements of what this rank holds."""
    return values[piece.offset : piece.offset + piece.numel]
