"""From a recipe and a machine to a plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.messages import Message, plural
from launcher.models import config, geometry
from launcher.models.wanted import Wanted
from launcher.planning import choose, fit
from launcher.planning.arguments import trainer_arguments
from launcher.planning.batch import MAX_MICRO_BATCH, batch_of, evaluation_size
from launcher.planning.notes import lone_notes, overlaps_communication, unused_notes
from launcher.planning.plan import Batch, Options, Plan, Use
from launcher.planning.texts import require_room_for_texts
from launcher.planning.unmeasured import unmeasured_strategy
from launcher.planning.use import require_effect, require_room_for_weights, use_arguments, use_strategy
from launcher.recipe.load import Loaded
from launcher.recipe.program import Program
from launcher.recipe.schema import Precision, RecipeSpec, Strategy
from launcher.recipe.tasks.table import TAGS
from launcher.strategies import table as strategies


def wanted(recipe: RecipeSpec, device: str) -> Wanted:
    """What a recipe asks of its model."""
    model = recipe.model
    return Wanted(
        name=model.name,
        task=model.task,
        mapping=recipe.task.mapping,
        has_head=recipe.task.has_head,
        num_labels=model.num_labels or len(model.label_names or ()) or None,
        label_names=model.label_names or (),
        max_length=recipe.data.max_length,
        gguf_file=model.gguf_file,
        pads_to=accelerators.load(device).pads_to,
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
    precision, precision_reason = _precision(recipe, cluster)
    strategy, strategy_reason = unmeasured_strategy(
        recipe, cluster, world_size, precision, unmodelled(cluster, model_config), options.model
    )
    use = options.use
    if use is not None:
        use, strategy, strategy_reason = _used(recipe, use, strategy)
        total = strategies.load(strategy).data_parallel_size(world_size)
        batch = Batch(global_size=total, micro_size=1, accumulation=1, eval_size=evaluation_size(recipe, 1))
    else:
        batch = batch_of(recipe, strategy, world_size, loaded, cluster)
    overlaps = overlaps_communication(recipe, cluster, options)
    needs = memory_job(recipe, cluster, world_size, nproc, precision, model_config, overlaps=overlaps)
    if needs is not None:
        if use is not None:
            require_room_for_weights(needs, use, strategy)
        else:
            strategy, strategy_reason, batch = _fitted(recipe, needs, batch)
        if use is None or use.mode == "eval":
            require_room_for_texts(recipe, needs, strategy, batch, trains=use is None)
    require_effect(loaded, cluster, strategy if use is None else None)
    return Plan(
        **_ranks(loaded, cluster, options, nproc),
        strategy=strategy,
        strategy_reason=strategy_reason,
        precision=precision,
        precision_reason=precision_reason,
        batch=batch,
        training_arguments=trainer_arguments(recipe, cluster, strategy, precision, batch, options.debug)
        | (use_arguments(recipe, use, strategy) if use else {}),
        use=use,
        overlap_comm=overlaps,
        driver_version=cluster.driver_version,
        notes=(*loaded.notes, *(options.model.notes if options.model else ()), *unused_notes(recipe, strategy)),
        hidden_size=config.hidden_size(model_config),
    )


def _used(recipe: RecipeSpec, use: Use, strategy: Strategy) -> tuple[Use, Strategy, str]:
    """An evaluation or a prediction with the strategy that its weights were trained by, and the strategy of its own."""
    if use.mode == "eval":
        use = use.model_copy(update={"trained_by": use.trained_by or strategy})
    return use, *use_strategy(recipe, use)


def of_program(program: Program, loaded: Loaded, cluster: Cluster, options: Options) -> Plan:
    """Decide about a launch of the user's own program: ranks and devices. What it trains, and how, is its own.

    Raises:
        LaunchError: more ranks than cards are asked for, or there is no card.
    """
    nproc = 1 if options.debug else _nproc(cluster, options)
    return Plan(
        **_ranks(loaded, cluster, options, nproc),
        strategy=options.strategy or strategies.WHOLE,
        strategy_reason="--strategy" if options.strategy else Message("the program's own"),
        precision=options.precision or "fp32",
        precision_reason="--precision" if options.precision else Message("the program's own"),
        batch=Batch(global_size=nproc * cluster.num_nodes, micro_size=1, accumulation=1, eval_size=1),
        training_arguments={},
        program=program,
        accelerate=options.accelerate,
        notes=lone_notes(cluster, options),
    )


def _ranks(loaded: Loaded, cluster: Cluster, options: Options, nproc: int) -> dict[str, Any]:
    """What of a Plan does not depend on what its ranks do."""
    accelerator = accelerators.load(cluster.device)
    return {
        "name": loaded.name,
        "recipe_dir": str(_recipe_dir(loaded)),
        "recipe": loaded.spec,
        "device": cluster.device,
        "device_reason": cluster.source,
        "chip": _chip(cluster),
        "backend": accelerator.backend,
        "num_nodes": cluster.num_nodes,
        "nproc_per_node": nproc,
        "rdzv_endpoint": cluster.rdzv_endpoint,
        "nodes_reason": cluster.nodes_source,
        "supervision": options.supervision,
        "debug": options.debug,
        "rank_table": options.rank_table if accelerator.has_cards else None,
    }


def _recipe_dir(loaded: Loaded) -> Path:
    return loaded.recipe_dir or loaded.path.resolve().parent


def memory_rows(
    loaded: Loaded, cluster: Cluster, options: Options, model_config: dict[str, Any] | None
) -> list[fit.Row]:
    """Every strategy's memory for this job at its smallest micro batch, fastest first; empty where it cannot be estimated.

    Raises:
        LaunchError: as `make`, but not because nothing fits.
    """
    recipe = loaded.spec
    if recipe.script is not None:
        return []
    nproc = _nproc(cluster, options)
    world_size = nproc * cluster.num_nodes
    precision, _ = _precision(recipe, cluster)
    overlaps = overlaps_communication(recipe, cluster, options)
    needs = memory_job(recipe, cluster, world_size, nproc, precision, model_config, overlaps=overlaps)
    if needs is None:
        return []
    micro = recipe.parallel.micro_batch_size
    asked = recipe.parallel.strategy
    names = (
        strategies.PREFERENCE if asked in (strategies.AUTO, *strategies.PREFERENCE) else (asked, *strategies.PREFERENCE)
    )
    batch = batch_of(recipe, asked if asked != strategies.AUTO else names[0], world_size, loaded, cluster)
    per_rank, least = batch.micro_size * batch.accumulation, 1 if micro == "auto" else micro
    return fit.table(**needs, strategies=names, micro_batch=least, accumulation=max(1, per_rank // least))


def _nproc(cluster: Cluster, options: Options) -> int:
    cards = len(cluster.devices)
    if not _has_cards(cluster):
        return options.nproc or 1
    if not cards:
        raise LaunchError(
            "no NPU is usable on this node", hint="`ascend-launch doctor` says why; or run with --device cpu"
        )
    if options.nproc and options.nproc > cards:
        raise LaunchError(
            plural(
                "{nproc_source} {nproc} is more than the {count} visible card",
                "{nproc_source} {nproc} is more than the {count} visible cards",
                count=cards,
                nproc_source=options.nproc_source,
                nproc=options.nproc,
            ),
            hint="use --nproc {cards} or less, or widen ASCEND_RT_VISIBLE_DEVICES",
            cards=cards,
        )
    return options.nproc or cards


def _precision(recipe: RecipeSpec, cluster: Cluster) -> tuple[Precision, str]:
    precision, reason = accelerators.load(cluster.device).precision(recipe.parallel.precision, _chip(cluster))
    return cast(Precision, precision), reason


def _chip(cluster: Cluster) -> str | None:
    return cluster.devices[0].name if cluster.devices else None


def _has_cards(cluster: Cluster) -> bool:
    return accelerators.load(cluster.device).has_cards


def unmodelled(cluster: Cluster, config: dict[str, Any] | None) -> str:
    """Why `memory` cannot tell what a job needs, where it cannot."""
    if not _has_cards(cluster):
        return Message("only a card's memory is computed, and this plan is for CPU")
    if config is None:
        return Message("the model's config is not on this machine (a folder, or the hub's cache)")
    if not min((d.hbm_bytes for d in cluster.devices), default=0):
        return Message("no card says how much memory it has")
    if config.get("model_type") in geometry.ARCHITECTURES:
        return Message("the model's config.json does not say all the sizes that its memory is computed from")
    known = ", ".join(geometry.ARCHITECTURES)
    return Message(
        "memory of model type {model_type!r} is not computed here, only of {known}",
        model_type=config.get("model_type"),
        known=known,
    )


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
    """What `memory` asks about this job, but for the strategy; None where it cannot be estimated: on CPU, without the
    model's config, for a family whose shapes are not known, or where no card says how much memory it has."""
    hbm_bytes = min((d.hbm_bytes for d in cluster.devices), default=0)
    if not _has_cards(cluster) or model_config is None or not hbm_bytes:
        return None
    labels = recipe.model.num_labels or len(recipe.model.label_names or ()) or 2
    try:
        geometry.geometry(model_config, has_head=recipe.task.has_head, num_labels=labels)
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
        "has_head": recipe.task.has_head,
        "num_labels": labels,
        "of_words": recipe.task.targets(recipe.model, recipe.data) == TAGS,
        "precision": precision,
        "seq_len": recipe.data.max_length,
        "gradient_checkpointing": bool(checkpointing),
        "attention": recipe.model.attn_implementation or "sdpa",
        "lora": adapter and geometry.Lora(adapter.r, adapter.target_modules, adapter.modules_to_save or ()),
        "overlaps": overlaps,
        "bucket_elements": recipe.parallel.deepspeed and recipe.parallel.deepspeed.reduce_bucket_size,
        "logit_positions": recipe.task.answer_positions,
        "in_chunks": recipe.task.logits_in_chunks,
        "padded": recipe.task.has_mask(recipe.data),
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
        choice.reason
        if asked == strategies.AUTO
        else Message("as the recipe says; {split}", split=choice.reason.split(": the fastest")[0])
    )
    return choice.strategy, reason, taken
