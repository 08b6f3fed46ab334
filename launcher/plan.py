"""Recipe and machine to plan: ranks, batch arithmetic, strategy, precision, training arguments. Pure; refuses what
cannot run. Everything a launch does afterwards follows from the Plan alone."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from launcher import __version__, modelfolder, training_rules
from launcher.cluster.model import GIB, Chip, Cluster, chip
from launcher.errors import LaunchError
from launcher.models import geometry
from launcher.planning import choose, fit
from launcher.program import Program
from launcher.spec import Loaded, Precision, RecipeSpec, Section, Strategy
from launcher.strategies import table as strategies
from launcher.training_rules import Schedule

MAX_MICRO_BATCH = 8
DEBUG_STEPS = 4
CARD_PADDING = 16
"""Batches are padded to a multiple of it on cards, whose kernels like that; on CPU every pad token costs."""
ANSWER_POSITIONS = 32
"""causal-lm: positions of a row whose logits are computed, the answer's. Answers are a word or two; this is ample."""


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
    """Seconds between the launcher's being told to stop and the ranks' being killed: time to save."""
    join_timeout_s: NonNegativeFloat = 600.0
    """Seconds that the nodes of a job wait for each other to come."""
    start_method: Literal["auto", "fork", "spawn"] = "auto"
    preload: bool = True
    """Whether a program's libraries may be imported once for all its ranks."""


class Use(Section):
    """What is done with trained weights, in a run that does not train."""

    mode: Literal["eval", "predict"]
    weights: str
    """A folder by its absolute path (a model, an adapter, a checkpoint of ours or a run directory), or a hub id."""
    trained_by: Strategy | None = None
    """The strategy that they were trained by, whose arithmetic is kept; None where nobody knows."""


class Plan(Section):
    """Everything a rank needs to know, and plan.json's content."""

    version: Literal[1] = 1
    launcher: str = __version__
    name: str
    """The recipe's file name without its ending."""
    recipe_dir: str
    """Folder that `script:` is resolved in."""
    recipe: RecipeSpec
    device: Literal["npu", "cpu"]
    device_reason: str
    chip: str | None = None
    backend: Literal["hccl", "gloo"]
    num_nodes: PositiveInt = 1
    nproc_per_node: PositiveInt
    rdzv_endpoint: str | None = None
    """host:port of node 0; None on a single node, where the agent takes a free port."""
    nodes_reason: str = ""
    """Which environment told the nodes, by which variables; '' for a single node that nobody numbered."""
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
        """The words of `ascend-launch run` that lead to this plan again, but for its recipe."""
        words = ["--device", self.device, "--nproc", str(self.nproc_per_node)]
        if self.num_nodes > 1:
            words += ["--nnodes", str(self.num_nodes), "--node-rank", str(node_rank)]
            words += ["--rdzv-endpoint", self.rdzv_endpoint] if self.rdzv_endpoint else []
        words += ["--rank-table", self.rank_table] if self.rank_table else []
        for name, value in self.supervision:
            if value != Supervision.model_fields[name].default:
                words += [f"--{name.removesuffix('_s').replace('_', '-')}", str(value)]
        return words

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
    model: modelfolder.About | None = None
    """None where nobody looked."""
    accelerate: Accelerate | None = None
    strategy: Strategy | None = None
    precision: Precision | None = None
    """These three for programs; a recipe says its own."""
    deepspeed_version: str | None = None
    """Of the package that ranks import; None where there is none."""


def wanted(recipe: RecipeSpec, device: str) -> modelfolder.Wanted:
    """What a recipe asks of its model."""
    model = recipe.model
    return modelfolder.Wanted(
        name=model.name,
        task=model.task,
        num_labels=model.num_labels or len(model.label_names or ()) or None,
        label_names=model.label_names or (),
        max_length=recipe.data.max_length,
        gguf_file=model.gguf_file,
        pads_to=CARD_PADDING if device == "npu" else 1,
    )


def make(loaded: Loaded, cluster: Cluster, options: Options, model_config: dict[str, Any] | None = None) -> Plan:
    """Decide everything about a launch.

    Args:
        loaded: the checked recipe.
        cluster: the machine, as detected or as asked for.
        options: the command line.
        model_config: the model's config.json where it can be read without a network, else None.

    Raises:
        LaunchError: the combination cannot run; the hint names what would.
    """
    recipe = loaded.spec
    if recipe.script is not None:
        script = os.path.normpath(_recipe_dir(loaded) / recipe.script)
        return of_program(
            Program(kind="script", target=script, args=tuple(map(str, recipe.args))), loaded, cluster, options
        )
    nproc = 1 if options.debug else _nproc(cluster, options)
    world_size = nproc * cluster.num_nodes
    silicon = chip(cluster.devices[0].name) if cluster.devices else None
    precision, precision_reason = _precision(recipe, cluster, silicon)
    strategy, strategy_reason = _strategy(recipe, cluster, world_size, precision, model_config, options.model)
    use = options.use
    if use is not None:
        if use.mode == "eval":
            use = use.model_copy(update={"trained_by": use.trained_by or strategy})
        strategy, strategy_reason = _use_strategy(recipe, use)
        total = strategies.load(strategy).data_parallel_size(world_size)
        batch = Batch(global_size=total, micro_size=1, accumulation=1, eval_size=_eval_size(recipe, 1))
    else:
        batch = _batch(recipe, strategy, world_size, loaded, cluster)
    overlaps = _overlaps(recipe, cluster, options)
    needs = memory_job(recipe, cluster, world_size, nproc, precision, model_config, overlaps=overlaps)
    if needs is not None:
        if use is not None:
            _require_room_for_weights(needs, use, strategy)
        else:
            strategy, strategy_reason, batch = _fitted(recipe, needs, batch)
    _require_effect(loaded, cluster, strategy if use is None else None)
    return Plan(
        **_ranks(loaded, cluster, options, nproc),
        strategy=strategy,
        strategy_reason=strategy_reason,
        precision=precision,
        precision_reason=precision_reason,
        batch=batch,
        training_arguments=_training_arguments(recipe, cluster, strategy, precision, batch, options.debug)
        | (_use_arguments(recipe, use, strategy) if use else {}),
        use=use,
        overlap_comm=overlaps,
        driver_version=cluster.driver_version,
        notes=(*(options.model.notes if options.model else ()), *_unused_notes(recipe, strategy)),
        hidden_size=_hidden_size(model_config),
    )


def of_program(program: Program, loaded: Loaded, cluster: Cluster, options: Options) -> Plan:
    """Decide about a launch of the user's own program: ranks and devices. What it trains, and how, is its own.

    Raises:
        LaunchError: more ranks than cards are asked for, or there is no card.
    """
    nproc = 1 if options.debug else _nproc(cluster, options)
    return Plan(
        **_ranks(loaded, cluster, options, nproc),
        strategy=options.strategy or strategies.WHOLE,
        strategy_reason="--strategy" if options.strategy else "the program's own",
        precision=options.precision or "fp32",
        precision_reason="--precision" if options.precision else "the program's own",
        batch=Batch(global_size=nproc * cluster.num_nodes, micro_size=1, accumulation=1, eval_size=1),
        training_arguments={},
        program=program,
        accelerate=options.accelerate,
        notes=_lone_notes(cluster, options),
    )


def _ranks(loaded: Loaded, cluster: Cluster, options: Options, nproc: int) -> dict[str, Any]:
    """What of a Plan does not depend on what its ranks do."""
    return {
        "name": loaded.name,
        "recipe_dir": str(_recipe_dir(loaded)),
        "recipe": loaded.spec,
        "device": cluster.device,
        "device_reason": cluster.source,
        "chip": cluster.devices[0].name if cluster.devices else None,
        "backend": "hccl" if cluster.device == "npu" else "gloo",
        "num_nodes": cluster.num_nodes,
        "nproc_per_node": nproc,
        "rdzv_endpoint": cluster.rdzv_endpoint,
        "nodes_reason": cluster.nodes_source,
        "supervision": options.supervision,
        "debug": options.debug,
        "rank_table": options.rank_table if cluster.device == "npu" else None,
    }


def _recipe_dir(loaded: Loaded) -> Path:
    return loaded.recipe_dir or loaded.path.resolve().parent


def _lone_notes(cluster: Cluster, options: Options) -> tuple[str, ...]:
    """accelerate joins CPU ranks where ACCELERATE_USE_CPU says so, which its launch sets with neither DeepSpeed nor FSDP."""
    if cluster.device != "cpu" or options.strategy is None or strategies.load(options.strategy).joins_cpu_ranks:
        return ()
    return (
        f"--strategy {options.strategy} on CPU: a plain Accelerator() may not join its peers, and each rank then trains "
        "alone; --strategy ddp joins them",
    )


def memory_rows(
    loaded: Loaded, cluster: Cluster, options: Options, model_config: dict[str, Any] | None
) -> list[fit.Row]:
    """Every strategy's memory for this job at its smallest micro batch, fastest first; empty where it cannot be told.

    Raises:
        LaunchError: as `make`, but not because nothing fits.
    """
    recipe = loaded.spec
    if recipe.script is not None:
        return []
    nproc = _nproc(cluster, options)
    world_size = nproc * cluster.num_nodes
    silicon = chip(cluster.devices[0].name) if cluster.devices else None
    precision, _ = _precision(recipe, cluster, silicon)
    overlaps = _overlaps(recipe, cluster, options)
    needs = memory_job(recipe, cluster, world_size, nproc, precision, model_config, overlaps=overlaps)
    if needs is None:
        return []
    micro = recipe.parallel.micro_batch_size
    asked = recipe.parallel.strategy
    names = (
        strategies.PREFERENCE if asked in (strategies.AUTO, *strategies.PREFERENCE) else (asked, *strategies.PREFERENCE)
    )
    batch = _batch(recipe, asked if asked != strategies.AUTO else names[0], world_size, loaded, cluster)
    per_rank, least = batch.micro_size * batch.accumulation, 1 if micro == "auto" else micro
    return fit.table(**needs, strategies=names, micro_batch=least, accumulation=max(1, per_rank // least))


def _nproc(cluster: Cluster, options: Options) -> int:
    cards = len(cluster.devices)
    if cluster.device == "cpu":
        return options.nproc or 1
    if not cards:
        raise LaunchError(
            "no NPU is usable on this node", hint="`ascend-launch doctor` says why; or run with --device cpu"
        )
    if options.nproc and options.nproc > cards:
        raise LaunchError(
            f"{options.nproc_source} {options.nproc} is more than the {cards} visible card{'s' if cards > 1 else ''}",
            hint=f"use --nproc {cards} or less, or widen ASCEND_RT_VISIBLE_DEVICES",
        )
    return options.nproc or cards


def _precision(recipe: RecipeSpec, cluster: Cluster, silicon: Chip | None) -> tuple[Precision, str]:
    asked = recipe.parallel.precision
    has_bf16 = silicon is None or silicon.supports_bf16
    if cluster.device == "cpu":
        if asked == "fp16":
            raise LaunchError("fp16 does not train on CPU", hint="use parallel.precision=bf16 or fp32")
        if asked == "auto":
            return "fp32", "CPU ranks: exact, and no slower there than bf16"
        return asked, "as the recipe says"
    name = silicon.soc if silicon else "this chip"
    if asked == "auto":
        return ("bf16", f"{name} computes in bf16") if has_bf16 else ("fp16", f"{name} has no bf16; loss scaling is on")
    if asked == "bf16" and not has_bf16:
        raise LaunchError(f"{name} has no bf16", hint="use parallel.precision=auto, which takes fp16 with loss scaling")
    return asked, "as the recipe says"


def _strategy(
    recipe: RecipeSpec,
    cluster: Cluster,
    world_size: int,
    precision: str,
    config: dict[str, Any] | None,
    about: modelfolder.About | None,
) -> tuple[Strategy, str]:
    asked = recipe.parallel.strategy
    if asked != "auto":
        return asked, "as the recipe says"
    if world_size == 1:
        return strategies.WHOLE, "one rank has nobody to share with"
    if cluster.device == "cpu":
        return strategies.WHOLE, "CPU ranks share this machine's memory, so sharding saves little"
    why, sharded = unmodelled(cluster, config), strategies.most_sharded()
    count = about.num_parameters if about else None
    hbm_bytes = min((d.hbm_bytes for d in cluster.devices), default=0)
    if recipe.adapter is not None and (count is None or count * 2 <= fit.usable_bytes(hbm_bytes) * STATE_SHARE):
        return strategies.WHOLE, "LoRA trains few weights, so sharding their state saves little"
    if count is None or not hbm_bytes:
        return sharded.name, f"{why}, so everything is sharded: weights, gradients and optimizer state"
    share = fit.usable_bytes(hbm_bytes) * STATE_SHARE
    said = f"{why}; {'' if about and about.is_counted else 'about '}{_count(count)} parameters"
    for strategy in itertools.takewhile(lambda s: s is not sharded, map(strategies.load, strategies.PREFERENCE)):
        need = strategy.state_bytes(count, world_size, precision)
        if need <= share:
            return (
                strategy.name,
                f"{said}: weights, gradients and optimizer take {need / GIB:.1f} GiB of a card under it",
            )
    return sharded.name, f"{said}: too many for less than sharding weights, gradients and optimizer state"


STATE_SHARE = 0.6
"""Of a card, what weights, gradients and optimizer may take where activations cannot be computed."""


def unmodelled(cluster: Cluster, config: dict[str, Any] | None) -> str:
    """Why `memory` cannot tell what a job needs, where it cannot."""
    if cluster.device == "cpu":
        return "only a card's memory is computed, and this plan is for CPU"
    if config is None:
        return "the model's config is not on this machine (a folder, or the hub's cache)"
    if not min((d.hbm_bytes for d in cluster.devices), default=0):
        return "no card says how much memory it has"
    if config.get("model_type") in geometry.ARCHITECTURES:
        return "the model's config.json does not say all the sizes that its memory is computed from"
    known = ", ".join(geometry.ARCHITECTURES)
    return f"memory of model type {config.get('model_type')!r} is not computed here, only of {known}"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.0f} million"


OVERLAP_SINCE = (0, 19, 3)
"""The DeepSpeed whose overlap_comm can be relied on together with contiguous_gradients. Before it, a bucket could be reduced
before all streams had written to it (DeepSpeed pull request 8080, first in 0.19.3), or given back while still in use
(7965, first in 0.19.0): gradients, and then the loss, became NaN or wrong (issues 7188, 8061)."""


def _overlaps(recipe: RecipeSpec, cluster: Cluster, options: Options) -> bool:
    asked = recipe.parallel.deepspeed
    if asked is not None and asked.overlap_comm is not None:
        return asked.overlap_comm
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", options.deepspeed_version or "")
    return cluster.device == "npu" and found is not None and tuple(map(int, found.groups())) >= OVERLAP_SINCE


def _unused_notes(recipe: RecipeSpec, strategy: Strategy) -> tuple[str, ...]:
    if recipe.parallel.deepspeed is None or strategies.load(strategy).needs_deepspeed:
        return ()
    return (f"parallel.deepspeed has no effect: the strategy taken is {strategy}",)


def memory_job(
    recipe: RecipeSpec,
    cluster: Cluster,
    world_size: int,
    nproc: int,
    precision: str,
    model_config: dict[str, Any] | None,
    *,
    overlaps: bool = True,
) -> dict[str, Any] | None:
    """What `memory` asks about this job, but for the strategy; None where it cannot be told: on CPU, without the
    model's config, for a family whose shapes are not known, or where no card says how much memory it has."""
    hbm_bytes = min((d.hbm_bytes for d in cluster.devices), default=0)
    if cluster.device == "cpu" or model_config is None or not hbm_bytes:
        return None
    labels = recipe.model.num_labels or len(recipe.model.label_names or ()) or 2
    try:
        geometry.geometry(model_config, task=recipe.model.task, num_labels=labels)
    except LaunchError:
        return None
    adapter, training = recipe.adapter, recipe.training
    checkpointing = training.get("activation_checkpointing", training.get("gradient_checkpointing", False))
    return {
        "config": model_config,
        "hbm_bytes": hbm_bytes,
        "world_size": world_size,
        "nproc_per_node": nproc,
        "host_memory_bytes": cluster.host_memory_bytes,
        "task": recipe.model.task,
        "num_labels": labels,
        "precision": precision,
        "seq_len": recipe.data.max_length,
        "gradient_checkpointing": bool(checkpointing),
        "attention": recipe.model.attn_implementation or "sdpa",
        "lora": adapter and geometry.Lora(adapter.r, adapter.target_modules, adapter.modules_to_save or ()),
        "overlaps": overlaps,
        "bucket_elements": recipe.parallel.deepspeed and recipe.parallel.deepspeed.reduce_bucket_size,
        "logit_positions": ANSWER_POSITIONS if recipe.model.task == "causal-lm" else None,
    }


def _fitted(recipe: RecipeSpec, needs: dict[str, Any], batch: Batch) -> tuple[Strategy, str, Batch]:
    """The strategy and micro batch by memory: what the recipe leaves open is chosen, what it says is checked."""
    asked, micro = recipe.parallel.strategy, recipe.parallel.micro_batch_size
    per_rank = batch.micro_size * batch.accumulation
    choice = choose.choose_strategy(
        **needs,
        per_rank_batch=per_rank,
        max_micro_batch=MAX_MICRO_BATCH,
        strategies=strategies.PREFERENCE if asked == strategies.AUTO else (asked,),
        micro_batch=None if micro == "auto" else micro,
    )
    taken = batch.model_copy(update={"micro_size": choice.micro_batch, "accumulation": per_rank // choice.micro_batch})
    reason = (
        choice.reason if asked == strategies.AUTO else "as the recipe says; " + choice.reason.split(": the fastest")[0]
    )
    return choice.strategy, reason, taken


def _batch(recipe: RecipeSpec, strategy: Strategy, world_size: int, loaded: Loaded, cluster: Cluster) -> Batch:
    total, micro = recipe.parallel.global_batch_size, recipe.parallel.micro_batch_size
    least = 1 if micro == "auto" else micro
    size = strategies.load(strategy).data_parallel_size(world_size)
    unit = size * least
    if total % unit:
        below, above = total // unit * unit, (total // unit + 1) * unit
        sizes = f"{below} or {above}" if below else f"{above}"
        ranks = [n * (world_size // size) for n in range(1, total + 1) if total % (n * least) == 0]
        counts = ", ".join(map(str, ranks[:-1])) + f" or {ranks[-1]}" if len(ranks) > 1 else str(ranks[0])
        parts = f"{world_size} ranks" if world_size > 1 else "1 rank"
        parts += f", {size} of them with rows of their own" if size < world_size else ""
        parts += f" on {cluster.num_nodes} nodes ({cluster.nodes_source})" if cluster.num_nodes > 1 else ""
        parts += "" if micro == "auto" else f" x micro batch {micro}"
        origin = loaded.origins.get("parallel.global_batch_size", "default")
        where = "" if origin == "default" else f"{origin}: "
        raise LaunchError(
            f"{where}parallel.global_batch_size {total} cannot be split evenly over {parts}",
            hint=f"use parallel.global_batch_size={sizes}, or {counts} rank{'s' if len(ranks) > 1 else ''}",
        )
    per_rank = total // size
    largest = max(d for d in range(1, min(per_rank, MAX_MICRO_BATCH) + 1) if per_rank % d == 0)
    micro_size = largest if micro == "auto" else micro
    accumulation, eval_size = per_rank // micro_size, _eval_size(recipe, micro_size)
    return Batch(global_size=total, micro_size=micro_size, accumulation=accumulation, eval_size=eval_size)


def _eval_size(recipe: RecipeSpec, micro_size: int) -> int:
    asked, micro = recipe.parallel.eval_batch_size, recipe.parallel.micro_batch_size
    least = micro_size if micro == "auto" else micro
    return max(least, MAX_MICRO_BATCH) if asked == "auto" else asked


def _use_strategy(recipe: RecipeSpec, use: Use) -> tuple[Strategy, str]:
    """Without gradients and optimizer only a strategy that shards weights has something to shard."""
    asked = strategies.chosen(recipe.parallel.strategy)
    evaluates = strategies.load(asked.evaluates_as) if asked is not None else None
    if use.mode == "eval" and evaluates is not None and evaluates.shards_parameters and recipe.adapter is None:
        return evaluates.name, "as the recipe says: every rank holds a share of the weights"
    return strategies.WHOLE, "every rank holds the model whole; nothing is trained, so there is no other state to shard"


def _require_room_for_weights(needs: dict[str, Any], use: Use, strategy: Strategy) -> None:
    """The least that an evaluation or a prediction takes of a card: its weights, in the precision that is computed in.

    Raises:
        LaunchError: they alone are more than a rank can have.
    """
    shape = geometry.geometry(needs["config"], task=needs["task"], num_labels=needs["num_labels"])
    size = shape.num_parameters * (4 if needs["precision"] == "fp32" else 2)
    is_sharded = strategies.load(strategy).shards_parameters
    share = size / needs["world_size"] if is_sharded else size
    room = fit.usable_bytes(needs["hbm_bytes"])
    if share > room:
        shards = use.mode == "eval" and not is_sharded and size / needs["world_size"] < room
        raise LaunchError(
            f"the weights alone take {share / GIB:.1f} GiB of each card, and a rank can have {room / GIB:.1f} GiB",
            hint=f"parallel.strategy={strategies.most_sharded().name} shares them out"
            if shards
            else "use cards with more memory, or a smaller model",
        )


def _require_effect(loaded: Loaded, cluster: Cluster, strategy: Strategy | None) -> None:
    """Refuse what this strategy or device would ignore, or cannot have. `strategy`: None where nothing is trained.

    Raises:
        LaunchError: with all of them, a line each.
    """
    training = loaded.spec.training if strategy is not None else {}
    wrong = dict(strategies.load(strategy).ignored_arguments()) if strategy is not None else {}
    if cluster.device == "cpu":
        wrong["use_liger_kernel"] = "its kernels need cards"
        if training.get("optim") == "adamw_torch_npu_fused":
            wrong["optim"] = "adamw_torch_npu_fused needs NPUs"
    found = {f"training.{name}": reason for name, reason in wrong.items() if training.get(name)}
    if cluster.device == "cpu" and loaded.spec.model.attn_implementation == "flash_attention_2":
        found["model.attn_implementation"] = "flash_attention_2 needs cards; sdpa computes the same"
    if found:
        lines = [
            f"{loaded.origins.get(key, 'recipe').removesuffix(f' {key}')}: {key}: {reason}"
            for key, reason in found.items()
        ]
        raise LaunchError("\n".join(lines), hint=f"leave {'it' if len(lines) == 1 else 'them'} out")


def _use_arguments(recipe: RecipeSpec, use: Use, strategy: Strategy) -> dict[str, Any]:
    training = recipe.training
    arguments: dict[str, Any] = {
        "do_train": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        **_NO_EVALUATION,
    }
    if "activation_checkpointing" in training:  # the newer name, which wins where both are
        arguments["activation_checkpointing"] = False
    arguments |= _unscheduled(training)
    trained_by = strategies.load(use.trained_by) if use.trained_by is not None else None
    if trained_by and trained_by.computes_in_weights and not strategies.load(strategy).computes_in_weights:
        arguments |= {"bf16": False, "fp16": False}  # no autocast over weights that are in that precision themselves
    return arguments


def _training_arguments(
    recipe: RecipeSpec, cluster: Cluster, strategy: str, precision: str, batch: Batch, debug: bool
) -> dict[str, Any]:
    schedule = Schedule.of(recipe.training, has_eval=recipe.data.eval is not None)
    arguments: dict[str, Any] = {
        "eval_strategy": schedule.evaluation,
        # A log line every ten steps costs nothing; the guide's table without one hides a diverging loss.
        "logging_steps": training_rules.DEFAULT_STEPS["logging_steps"],
        "save_strategy": schedule.saving,
        "save_total_limit": 2,
        "train_sampling_strategy": "group_by_length",
        "report_to": "none",
    }
    sharing = strategies.load(strategy)
    arguments |= sharing.default_arguments(cluster.device, precision)
    arguments |= recipe.training | _direction(recipe)
    arguments |= {
        "per_device_train_batch_size": batch.micro_size,
        "gradient_accumulation_steps": batch.accumulation,
        "per_device_eval_batch_size": batch.eval_size,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": cluster.device == "cpu",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "average_tokens_across_devices": True,
        "do_train": True,
    }
    if not sharing.needs_deepspeed:
        arguments["ddp_backend"] = "hccl" if cluster.device == "npu" else "gloo"
    if cluster.device == "cpu":
        arguments["dataloader_pin_memory"] = False
    arguments |= sharing.trainer_arguments()
    if debug:
        arguments |= {"max_steps": DEBUG_STEPS, "logging_steps": 1, "logging_strategy": "steps"}
        arguments |= {"dataloader_num_workers": 0, **_NO_EVALUATION, **_unscheduled(arguments)}
        arguments = {name: value for name, value in arguments.items() if name not in training_rules.OF_WORKERS}
    return arguments


def _direction(recipe: RecipeSpec) -> dict[str, Any]:
    """By which figure evaluations are compared, and which way: transformers takes every figure but the loss for one of
    which more is better."""
    if not training_rules.looks_for_best(recipe.training):
        return {}
    name = training_rules.best_metric(recipe.training)
    direction = {"metric_for_best_model": name, "greater_is_better": training_rules.GREATER_IS_BETTER[name]}
    return direction | training_rules.scheduler_mode(recipe.training)


_NO_EVALUATION = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no", "load_best_model_at_end": False}


def _unscheduled(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without evaluations a scheduler that follows them would be refused."""
    is_by_metric = arguments.get("lr_scheduler_type") in training_rules.BY_METRIC
    return {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": None} if is_by_metric else {}


def _hidden_size(model_config: dict[str, Any] | None) -> int | None:
    config = model_config or {}
    config = config.get("text_config") or config
    for key in ("hidden_size", "n_embd", "d_model", "dim"):
        if isinstance(config.get(key), int) and config[key] > 0:
            return int(config[key])
    return None
