"""Ascend's chips: what each computes in and holds, and the names that people use for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from launcher.machine.cluster import Device
from launcher.messages import Message


@dataclass(frozen=True)
class Chip:
    """One generation of Ascend silicon. An A3 package holds two dies; each die is a chip here, as in npu-smi."""

    soc: str
    """Name in torch_npu's spelling (`torch.npu.get_device_name()`)."""
    hbm_gib: int
    """Nominal memory per die; 0 where products differ and only the card itself can say."""
    supports_bf16: bool
    trainable: bool
    """False for inference and edge parts, which have no collective links."""
    peak_tflops: float | None
    """Dense fp16/bf16 peak: AI cores x MHz x 8192 operations, from CANN's platform files. None where unknown."""
    family: str
    """910 | A2 | A3 | 310 | 950."""
    devices_per_node: int
    """Dies in the usual server; 0 where there is no usual server."""

    @property
    def short_name(self) -> str:
        """As npu-smi prints it: without Ascend, but where nothing that tells would be left."""
        return self.soc if self.soc == "Ascend910" else self.soc.removeprefix("Ascend")


# Cores and clocks: CANN's platform_config. bf16: torch_npu's IsBF16Supported is true from 910B1 (soc 220) upward.
_CHIPS = (
    Chip("Ascend910A", 32, False, True, 262.0, "910", 8),
    Chip("Ascend910PremiumA", 32, False, True, 320.0, "910", 8),
    Chip("Ascend910ProA", 32, False, True, 288.0, "910", 8),
    Chip("Ascend910ProB", 32, False, True, 283.0, "910", 8),
    Chip("Ascend910B", 32, False, True, 221.0, "910", 8),  # the old 300T part, not 910B1 to 910B4
    Chip("Ascend910B1", 64, True, True, 364.0, "A2", 8),
    Chip("Ascend910B2", 64, True, True, 354.0, "A2", 8),
    Chip("Ascend910B2C", 64, True, True, 354.0, "A2", 16),
    Chip("Ascend910B3", 64, True, True, 295.0, "A2", 8),
    Chip("Ascend910B4", 32, True, True, 246.0, "A2", 8),
    Chip("Ascend910B4-1", 0, True, True, 246.0, "A2", 8),  # CANN's file says 32, sold with 64: ask the card
    Chip("Ascend910_9391", 64, True, True, 364.0, "A3", 16),
    Chip("Ascend910_9392", 64, True, True, 364.0, "A3", 16),
    Chip("Ascend910_9381", 64, True, True, 354.0, "A3", 16),
    Chip("Ascend910_9382", 64, True, True, 354.0, "A3", 16),
    Chip("Ascend910_9372", 64, True, True, 295.0, "A3", 16),
    Chip("Ascend910_9362", 32, True, True, 246.0, "A3", 16),
    Chip("Ascend910_9363", 32, True, True, 246.0, "A3", 16),
    # npu-smi prints every A3 die as "Ascend910"; 354 is what verl and MindSpeed-LLM use for it.
    Chip("Ascend910", 64, True, True, 354.0, "A3", 16),
)
_BY_NAME = {c.soc.removeprefix("Ascend").lower(): c for c in _CHIPS}
# Whole families, for the many part numbers within them.
_FAMILIES = (
    (re.compile(r"310p"), Chip("Ascend310P", 0, False, False, None, "310", 0)),
    (re.compile(r"310"), Chip("Ascend310", 0, False, False, None, "310", 0)),
    (re.compile(r"950"), Chip("Ascend950", 0, True, True, None, "950", 8)),
)


def chip(name: str) -> Chip | None:
    """The chip for a name from npu-smi (`910B3`), from torch_npu (`Ascend910B3`) or from a user; None if unknown."""
    key = re.sub(r"[\s]+", "", name).lower().removeprefix("ascend")
    if key in _BY_NAME:
        return _BY_NAME[key]
    return next((c for pattern, c in _FAMILIES if pattern.match(key)), None)


def of(device: Device) -> Chip | None:
    """A card's; None where its name is unknown."""
    return chip(device.name)


def first(devices: Iterable[Device]) -> Chip | None:
    """That of the first card whose name is known."""
    return next((silicon for device in devices if (silicon := of(device)) is not None), None)


def is_family(silicon: Chip) -> bool:
    """Whether it stands for many part numbers, such as 950PR, which only a card's own name tells apart."""
    return silicon not in _CHIPS


def chip_names() -> tuple[str, ...]:
    """Short names a user may write, for messages."""
    exact = (c.short_name for c in _CHIPS if c.trainable and c.soc not in ("Ascend910", "Ascend910B"))
    return (*exact, "910C", "A2", "A3")


@dataclass(frozen=True)
class Series:
    """A name that people use for several chips."""

    chips: tuple[Chip, ...]
    usual: Chip | None = None
    """The chip that is meant where nothing else is said; None where guessing would plan for the wrong card."""
    about: str = ""
    hint: str = ""


_COMMON_NAMES = {"Ascend910B": "the old 910B", "Ascend910": "a die of the 910C"}


def described(silicon: Chip) -> str:
    """A chip among others of its name, with what a plan depends on."""
    name = _COMMON_NAMES.get(silicon.soc, silicon.short_name)
    return f"{name} ({silicon.hbm_gib} GB, {'bf16' if silicon.supports_bf16 else 'no bf16'})"


def series(name: str) -> Series | None:
    """The chips that a name covers where it is not a single chip's; None for any other name.

    910B1 to 910B4 are "the 910B" to everyone, and CANN gives that name to an old part without bf16. An Atlas A2 for
    training holds chips of 64 GB, and an A3 (sold as 910C) dies of 64 GB, so those two names can be taken as said.
    """
    key = re.sub(r"[\s_-]+", "", name).lower()
    key = re.sub(r"^(?:huawei|atlas|ascend|800t|900)+|(?:super)?pod$", "", key)
    a2, a3 = (tuple(c for c in _CHIPS if c.family == family) for family in ("A2", "A3"))
    usual_a2, usual_a3 = _BY_NAME["910b3"], _BY_NAME["910"]
    named_a2 = tuple(_BY_NAME[n] for n in ("910b1", "910b2", "910b3", "910b4"))
    ask = Message("`npu-smi info` shows the name; ")
    if key == "910b":
        return Series(
            (*named_a2, _BY_NAME["910b"]),
            hint=Message(
                "{ask}say --chip 910B3, for instance, and --chip 910A for the old 910B, which plans the same", ask=ask
            ),
        )
    if key == "910" and "ascend" not in name.lower():
        return Series(
            (_BY_NAME["910a"], *named_a2, usual_a3),
            hint=Message("{ask}say --chip 910A, 910B3 or 910C, for instance", ask=ask),
        )
    if key == "a2":
        return Series(a2, usual_a2, about="the usual chip of an A2 for training; --chip 910B4 has 32 GB")
    if key in ("a3", "910c", "91093"):  # CANN calls all its parts ascend910_93
        return Series(a3, usual_a3, about="a die of the 910C in an A3: two a card, 16 a node")
    return None
