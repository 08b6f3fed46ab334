"""NaN and infinite numbers in tensors."""

from __future__ import annotations

import torch

_LOOK_NUMBERS = 1 << 24
"""So many of a weight's numbers are looked at at a time for NaN."""


def not_a_number(weights: dict[str, torch.Tensor]) -> str | None:
    """The first weight that holds a NaN. By parts: a card may have no room for a mask of the largest weight. Not by its
    minimum, which is NaN too in torch, and need not be in every card's operator."""
    for name, weight in weights.items():
        parts = weight.detach().reshape(-1).split(_LOOK_NUMBERS) if weight.is_floating_point() else ()
        if any(torch.stack([torch.isnan(part).any() for part in parts]).tolist() if parts else ()):
            return name
    return None
