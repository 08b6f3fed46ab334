"""One rank's situation, with the numbers that every term of its memory needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.accelerators import table as accelerators
from launcher.models.geometry import Geometry, Lora, Parameter


@dataclass(frozen=True)
class Job:
    """What is trained, and how, on how many ranks."""

    g: Geometry
    has_head: bool
    """A classification head; else a language-modelling head."""
    autocasts: bool
    precision: str
    ranks: int
    batch: int
    seq: int
    is_checkpointed: bool
    attention: str
    accumulates: bool
    is_padded: bool
    lora: Lora | None
    device: str
    logit_positions: int
    bucket: int | None
    """reduce_bucket_size of ZeRO's stages 1 and 2; None for the launcher's own."""
    overlaps: bool
    trainable: tuple[Parameter, ...] = field(default=())
    in_chunks: bool = False
    """Whether logits are made in chunks, and their gradients with them."""

    @property
    def on_card(self) -> bool:
        """Whether a rank has memory of its own; otherwise all share the machine's."""
        return accelerators.load(self.device).has_cards

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def mode(self) -> str:
        """fp32 | bf16 (the weights themselves are 16 bit) | autocast (fp32 weights, 16-bit products)."""
        if self.precision == "fp32":
            return "fp32"
        return "autocast" if self.autocasts else "bf16"

    @property
    def low(self) -> int:
        """Bytes of an element of what matrix products read."""
        return 4 if self.precision == "fp32" else 2

    @property
    def num_trainable(self) -> int:
        return sum(p.numel for p in self.trainable)

    @property
    def groups(self) -> tuple[int, int]:
        """Elements with and without weight decay: the Trainer makes two parameter groups, and norms and biases are in the
        second."""
        plain = sum(p.numel for p in self.trainable if p.kind in ("norm", "bias"))
        return self.num_trainable - plain, plain

    @property
    def frozen(self) -> int:
        """Elements that are not trained."""
        return self.g.num_parameters if self.lora else 0

    @property
    def head_copy(self) -> int:
        """Elements of the head that peft trains beside its adapters, in the type of the weights that were loaded."""
        return sum(p.numel for p in self.trainable if p.kind == "head") if self.lora else 0

    @property
    def linear_elements(self) -> int:
        """Weights that autocast copies to 16 bit: everything a matrix product reads."""
        return sum(p.numel for p in self.g.parameters if p.kind in ("linear", "head"))

    def largest_gradients(self) -> tuple[int, int, int, int]:
        """Elements of the largest gradient that is new at each point of a Reduction."""
        kinds = {"head": ("head",), "linear": ("linear", "stacked"), "embedding": ("embedding",)}
        largest = {name: max((p.numel for p in self.trainable if p.kind in kinds[name]), default=0) for name in kinds}
        return largest["head"], largest["linear"], largest["linear"], largest["embedding"]


def merged(*parts: Mapping[str, int]) -> dict[str, int]:
    """Their sums, part by part."""
    out: dict[str, int] = {}
    for part in parts:
        for name, size in part.items():
            out[name] = out.get(name, 0) + size
    return out
