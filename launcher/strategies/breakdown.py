"""What a rank's memory is made of at the highest point of a training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Breakdown:
    """Bytes of one rank at the highest point of a training step."""

    strategy: str
    phase: Literal["forward", "backward", "step"]
    """Where in the step the highest point is."""
    weights: int
    gradients: int
    optimizer: int
    """fp32 master weights, where there are any, and both Adam moments."""
    buffers: int
    """DDP's and ZeRO's buckets, flattened and fp32 copies of gradients."""
    gathered: int
    """Whole parameters that a sharded strategy holds for a while."""
    activations: int
    logits: int
    communication: int
    """HCCL's buffers; outside torch's allocator."""
    reserve: int
    """Framework and fragmentation; outside what torch counts as allocated."""
    host_bytes: int
    """Main memory of this rank's offloaded state."""
    num_parameters: int
    num_trainable: int

    @property
    def total_bytes(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        names = (
            "weights",
            "gradients",
            "optimizer",
            "buffers",
            "gathered",
            "activations",
            "logits",
            "communication",
            "reserve",
        )
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "total_bytes": self.total_bytes}
