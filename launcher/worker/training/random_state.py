"""The state of random generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from launcher.worker.accelerators import table


def random_state(device: torch.device) -> dict[str, Any]:
    """The random generators of this process, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    cards = table.module_of(device)
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "cpu": torch.get_rng_state(),
        "device": None if cards is None else cards.get_rng_state(),
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators where `random_state` found them."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["cpu"])
    cards = table.module_of(device)
    if state["device"] is not None and cards is not None:
        cards.set_rng_state(state["device"])


def derive_random_state(*numbers: int) -> None:
    """Seed all generators from these numbers: for a rank that has no saved state of its own."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
