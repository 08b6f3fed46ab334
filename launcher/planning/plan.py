"""Recipe and machine to plan: ranks, batch arithmetic, strategy, precision, training arguments. Pure; refuses what
cannot run. Everything a launch does afterwards follows from the Plan alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_core import PydanticCustomError

from launcher import __version__
from launcher.accelerators import table as accelerators
from launcher.models.wanted import About
from launcher.recipe.program import Program
from launcher.recipe.schema import Precision, RecipeSpec, Section, Strategy
from launcher.strategies import table as strategies


def _device(value: object) -> str:
    if isinstance(value, str) and value in accelerators.TABLE:
        return value
    raise PydanticCustomError(
        "literal_error", "Input should be one of {names}", {"names": ", ".join(accelerators.TABLE.names())}
    )


Device = Annotated[str, BeforeValidator(_device)]
"""A name in the table of accelerators."""


class Batch(Section):
    """How one optimizer step's rows are split: `global_size = data_parallel_size x micro_size x accumulation`."""

    global_size: PositiveInt
    micro_size: PositiveInt
    accumulation: PositiveInt
    eval_size: PositiveInt


class Accelerate(Section):
    """What a program's ranks get of the environment of `accelerate launch`."""

    words: tuple[str, ...] = ()
    """Its options, its config file's among them; those of ranks and machines are the plan's."""
    renders: bool = False
    """Whether its config file is made from the plan's strategy."""
    version: str = ""
    """Of the accelerate that was asked."""


class Supervision(Section):
    """How the agents watch their ranks."""

    max_restarts: NonNegativeInt = 0
    """How often ranks are started again after a failure, from the newest whole checkpoint."""
    hang_timeout_s: NonNegativeFloat = 1800.0
    """Seconds without a sign of life from any rank before the job is ended; 0 waits for ever."""
    grace_s: NonNegativeFloat = 60.0
    """Seconds between the signal that stops the launcher and the ranks' being killed: time to save."""
    join_timeout_s: NonNegativeFloat = 600.0
    """Seconds that the nodes of a job wait for each other to come."""
    start_method: Literal["auto", "fork", "spawn"] = "auto"
    preload: bool = True
    """Whether a program's libraries may be imported once for all its ranks."""
    hooks: Literal["auto", "none"] = "auto"
    """Whether the libraries of a program's ranks are watched; see launcher/worker/hooks/."""


class Use(Section):
    """What is done with trained weights, in a run that does not train."""

    mode: Literal["eval", "predict"]
    weights: str
    """A folder by its absolute path (a model, an adapter, a checkpoint or a run directory), or a hub id."""
    trained_by: Strategy | None = None
    """The strategy that they were trained by, whose arithmetic is kept; None where nobody knows."""
    shares_weights: bool = False
    """Whether each rank of a prediction holds a share of the weights; an evaluation goes by its recipe."""
    chats: bool = False
    """Whether a model that writes is asked by its chat template."""


class Plan(Section):
    """Everything a rank needs to know, and plan.json's content."""

    version: Literal[1] = 1
    launcher: str = __version__
    name: str
    """The recipe's file name without its ending."""
    recipe_dir: str
    """Folder that `script:` is resolved in."""
    recipe: RecipeSpec
    device: Device
    device_reason: str
    chip: str | None = None
    backend: str
    """Of torch.distributed, by which ranks communicate."""
    num_nodes: PositiveInt = 1
    nproc_per_node: PositiveInt
    rdzv_endpoint: str | None = None
    """host:port of node 0; None on a single node, where the agent takes a free port."""
    nodes_reason: str = ""
    """Which environment named the nodes, by which variables; '' for a single node that nobody numbered."""
    strategy: Strategy
    strategy_reason: str
    precision: Precision
    precision_reason: str
    batch: Batch
    training_arguments: dict[str, Any]
    """Keyword arguments of TrainingArguments, but for output_dir and the path of deepspeed.json."""
    supervision: Supervision = Supervision()
    debug: bool = False
    use: Use | None = None
    """None for a training."""
    program: Program | None = None
    """What ranks run instead of the recipe's training: `script:` of a recipe, or the command line's program."""
    accelerate: Accelerate | None = None
    """None where nothing of accelerate's is set for a program, and for recipes, whose ranks say it to accelerate themselves."""
    accelerate_env: dict[str, str] = Field(default_factory=dict)
    """The variables that these settings come to on this node."""
    rank_table: str | None = None
    """This node's file for RANK_TABLE_FILE, where --rank-table asked for one."""
    overlap_comm: bool = False
    """Whether DeepSpeed reduces gradients while others are computed."""
    driver_version: str | None = None
    """Of this node's cards; None where it is not known."""
    notes: tuple[str, ...] = ()
    """What the user should know about this model with this recipe."""
    hidden_size: PositiveInt | None = None
    """The model's hidden size where its config could be read; ZeRO-3's buffer sizes follow from it."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.nproc_per_node

    def options(self, node_rank: int = 0) -> list[str]:
        """The arguments of `ascend-launch run` that lead to this plan again, but for its recipe."""
        arguments = ["--device", self.device, "--nproc", str(self.nproc_per_node)]
        if self.num_nodes > 1:
            arguments += ["--nnodes", str(self.num_nodes), "--node-rank", str(node_rank)]
            arguments += ["--rdzv-endpoint", self.rdzv_endpoint] if self.rdzv_endpoint else []
        arguments += ["--rank-table", self.rank_table] if self.rank_table else []
        for name, value in self.supervision:
            if value != Supervision.model_fields[name].default:
                arguments += [f"--{name.removesuffix('_s').replace('_', '-')}", str(value)]
        return arguments

    @property
    def accelerator(self) -> accelerators.Accelerator:
        """What ranks compute on, by whose name `device` goes."""
        return accelerators.load(self.device)

    @property
    def sharing(self) -> strategies.Strategy:
        """The strategy itself, by whose name `strategy` goes."""
        return strategies.load(self.strategy)

    @property
    def data_parallel_size(self) -> int:
        """Ranks, or groups of them, that see different rows of a step; as many as ranks where each holds its own."""
        return self.sharing.data_parallel_size(self.world_size)

    def data_parallel_rank(self, rank: int) -> int:
        """Which share of a step's rows this rank sees, from 0."""
        return self.sharing.data_parallel_rank(rank, self.world_size)

    def counts_rows(self, rank: int) -> bool:
        """Whether this rank is the first of those that see the same rows, and the only one whose rows count."""
        own = self.data_parallel_rank(rank)
        return all(self.data_parallel_rank(other) != own for other in range(rank))

    @property
    def zero_stage(self) -> int | None:
        """DeepSpeed's; None without DeepSpeed."""
        return self.sharing.zero_stage

    @property
    def deepspeed_keys(self) -> dict[str, Any]:
        """What the recipe says below parallel.deepspeed."""
        asked = self.recipe.parallel.deepspeed
        return asked.given() if asked is not None else {}

    @property
    def recomputes_activations(self) -> bool:
        """Whether the backward pass computes activations again, by the newer name or the older."""
        given = self.training_arguments
        return bool(given.get("activation_checkpointing", given.get("gradient_checkpointing")))

    @property
    def computes_in_weights(self) -> bool:
        """Whether the weights themselves have the precision that is computed in. DeepSpeed keeps fp32 ones beside them;
        DDP and FSDP2 train fp32 weights under autocast. An evaluation rounds as its training did."""
        if self.use is None:
            return self.sharing.computes_in_weights
        return self.use.trained_by is None or strategies.load(self.use.trained_by).computes_in_weights


@dataclass(frozen=True)
class Options:
    """What the command line asks for, and what the model's folder tells, beyond the recipe."""

    nproc: int | None = None
    """Ranks on this node; None for one a card (one in all on CPU)."""
    nproc_source: str = "--nproc"
    """The option or variable that says so."""
    debug: bool = False
    supervision: Supervision = field(default_factory=Supervision)
    use: Use | None = None
    rank_table: str | None = None
    model: About | None = None
    """None where nobody looked."""
    accelerate: Accelerate | None = None
    strategy: Strategy | None = None
    precision: Precision | None = None
    """These three for programs; a recipe says its own."""
    deepspeed_version: str | None = None
    """Of the package that ranks import; None where there is none."""
