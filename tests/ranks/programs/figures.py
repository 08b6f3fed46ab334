"""What the programs beside this file print of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Of every bit of the weights, by name."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode() + state[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
