"""The strategies: what ranks share of weights, gradients and optimizer state. Each is one file beside this one, or an entry
point of another package in the group `ascend_launch.strategies`; nothing outside this folder goes by their names.

A strategy says what it needs of memory, of TrainingArguments, of accelerate and of DeepSpeed, and where the part of it is
that runs in ranks (`engine`, a `launcher.worker.engines.table.Engine`). Arithmetic and text only: no torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from launcher.messages import Message
from launcher.plugins import Table

if TYPE_CHECKING:
    from launcher.strategies.job import Job

INTERFACE = 1


@dataclass(frozen=True)
class Speed:
    """How fast a strategy is against DDP, and who says so."""

    traffic: float | None = None
    """Bytes between ranks per step, DDP being 1: ZeRO paper, section 7 (stages 1 and 2: as DDP; stage 3: half as much again)."""
    measured: float | None = None
    """Published training speed against DDP: ms-swift's NPU guide, Qwen2-7B LoRA on 4 x 910B3 (2 h, 3.5 h, 8.5 h)."""


SPEED_SOURCES = (
    Message("traffic: ZeRO paper (arXiv 1910.02054), section 7"),
    Message("measured: ms-swift NPU guide, Qwen2-7B LoRA on 4 x 910B3; full fine-tuning has a smaller gap"),
)


class States(NamedTuple):
    """Bytes of a training's state on one rank's device."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class Reduction:
    """Bytes that reducing gradients, and gathering weights for them, takes at points of the backward pass, by the parts of
    a Breakdown."""

    head: Mapping[str, int]
    last_block: Mapping[str, int]
    first_block: Mapping[str, int]
    end: Mapping[str, int]
    between_blocks: Mapping[str, int] | None = None
    """Deep in the pass, where one block's gradients leave while the next block's weights come; None where neither does."""


class Planned(Protocol):
    """What a strategy looks at of a plan."""

    @property
    def device(self) -> str: ...
    @property
    def world_size(self) -> int: ...
    @property
    def num_nodes(self) -> int: ...
    @property
    def program(self) -> object | None: ...
    @property
    def hidden_size(self) -> int | None: ...
    @property
    def overlap_comm(self) -> bool: ...
    @property
    def recomputes_activations(self) -> bool: ...
    @property
    def deepspeed_keys(self) -> Mapping[str, Any]: ...


class Strategy(Protocol):
    """A way to share a training among ranks. `launcher.strategies.base.Base` has an answer for all but the name."""

    interface: int
    """INTERFACE of the launcher that it was written for."""
    name: str
    """As `parallel.strategy` and --strategy say it."""
    engine: str
    """`module:attribute` of the part that runs in ranks."""
    speed: Speed
    needs_deepspeed: bool
    zero_stage: int | None
    """DeepSpeed's stage; None without DeepSpeed."""
    shards_parameters: bool
    """Whether a rank holds only a share of the weights."""
    offloads_optimizer: bool
    """Whether the optimizer's state is in main memory and steps there, by a compiled operator."""
    computes_in_weights: bool
    """Whether the weights that layers hold have the precision that is computed in, beside fp32 ones elsewhere."""
    autocasts: bool
    """Whether layers hold fp32 weights, of which autocast makes copies in a lower precision."""
    is_for_one_rank: bool
    """Whether it makes sense where there is one rank."""
    joins_cpu_ranks: bool
    """Whether a plain Accelerator() of a program joins its peers on CPU by accelerate's config of this strategy."""
    averages_on_gloo_since: tuple[int, int] | None
    """The first torch in which CPU ranks average gradients as it asks them to; None where every torch does."""
    evaluates_as: str
    """The strategy that an evaluation of its weights runs under, where nothing else is to be shared."""

    def data_parallel_size(self, world_size: int) -> int:
        """Ranks, or groups of them, that see different rows of a step. Raises LaunchError for a number of ranks that it
        cannot take."""

    def data_parallel_rank(self, rank: int, world_size: int) -> int:
        """Which share of a step's rows this rank sees."""

    # -- the recipe and the plan -----------------------------------------------------------------------------------

    def problems(self, deepspeed_keys: Iterable[str], *, uses_dora: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        """What in a recipe it could not follow: keys below which, and why."""

    def ignored_arguments(self) -> Mapping[str, str]:
        """TrainingArguments that would have no effect, and why."""

    def default_arguments(self, device: str, precision: str) -> dict[str, Any]:
        """TrainingArguments that a recipe may change."""

    def trainer_arguments(self) -> dict[str, Any]:
        """TrainingArguments that are its own."""

    # -- rendered files --------------------------------------------------------------------------------------------

    def accelerate_template(self) -> dict[str, Any]:
        """accelerate's config for it, for any job."""

    def accelerate_config(self, config: dict[str, Any], plan: Planned, deepspeed_path: Path) -> dict[str, Any]:
        """That template with ranks and precision filled in, made the config of this plan."""

    def deepspeed_config(self, plan: Planned) -> dict[str, Any] | None:
        """deepspeed.json's content; None where DeepSpeed is not used."""

    # -- memory of one rank, in bytes ------------------------------------------------------------------------------

    def weights(self, job: Job) -> int:
        """All through a step."""

    def optimizer(self, job: Job) -> int:
        """Both Adam moments, and fp32 master weights where there are any."""

    def gradients(self, job: Job) -> int:
        """Those that are there when the backward pass ends, beside `resident`."""

    def carried_gradients(self, job: Job) -> int:
        """Those of earlier micro batches that wait while the next one runs, with accumulation."""

    def resident(self, job: Job) -> dict[str, int]:
        """What else is there all through a step, by the parts of a Breakdown."""

    def gathered(self, job: Job) -> dict[str, int]:
        """Whole parameters that stay from block to block."""

    def reduction(self, job: Job) -> Reduction:
        """Buckets, flattened copies and gathered parameters of the backward pass."""

    def step(self, job: Job) -> dict[str, int]:
        """What the optimizer's update takes, by the parts of a Breakdown. Adam is fused: it needs nothing of its own."""

    def offloaded(self, job: Job, states: States) -> tuple[States, int]:
        """What stays of the states on the device, and the bytes of main memory that hold the rest."""

    def load_host_bytes(self, num_parameters: int, precision: str, *, has_adapter: bool) -> int:
        """Main memory that a rank needs while loading."""

    def state_bytes(self, num_parameters: int, world_size: int, precision: str) -> int:
        """Weights, gradients and Adam's state by the ZeRO paper's table, for families that have no geometry."""


TABLE: Table[Strategy] = Table(
    "strategy",
    "ascend_launch.strategies",
    INTERFACE,
    {
        "ddp": "launcher.strategies.ddp:DDP",
        "zero1": "launcher.strategies.zero:ZERO1",
        "zero2": "launcher.strategies.zero:ZERO2",
        "zero3": "launcher.strategies.zero:ZERO3",
        "zero3-offload": "launcher.strategies.zero:ZERO3_OFFLOAD",
        "fsdp2": "launcher.strategies.fsdp2:FSDP2",
    },
)
BUILT_IN = tuple(TABLE.built_in)
PREFERENCE = ("ddp", "zero1", "zero2", "zero3", "fsdp2", "zero3-offload")
"""What `auto` chooses from, fastest first; see Speed. What other packages add is taken where a recipe names it."""
WHOLE = "ddp"
"""Where there is nothing to share, or nobody to share with."""
AUTO = "auto"


def load(name: str) -> Strategy:
    """The strategy of this name. Raises LaunchError where there is none."""
    return TABLE.load(name)


def chosen(name: str) -> Strategy | None:
    """As `load`; None for `auto`, which is not decided yet."""
    return None if name == AUTO else load(name)


def most_sharded() -> Strategy:
    """The fastest that also shards weights: what is taken for a model whose size nobody knows."""
    return next(s for s in map(load, PREFERENCE) if s.shards_parameters)
