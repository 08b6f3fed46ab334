"""The arguments of the Trainer."""

from __future__ import annotations

from typing import Any

from launcher.accelerators import table as accelerators
from launcher.machine.cluster import Cluster
from launcher.planning.plan import Batch
from launcher.recipe import metrics, schedulers, schedules
from launcher.recipe.schedules import BY_METRIC, DEFAULT_STEPS, Schedule
from launcher.recipe.schema import RecipeSpec
from launcher.recipe.trackers import OF_WORKERS
from launcher.strategies import table as strategies

DEBUG_STEPS = 4


def trainer_arguments(
    recipe: RecipeSpec, cluster: Cluster, strategy: str, precision: str, batch: Batch, debug: bool
) -> dict[str, Any]:
    schedule = Schedule.of(recipe.training, has_eval=recipe.data.eval is not None)
    arguments: dict[str, Any] = {
        "eval_strategy": schedule.evaluation,
        # A log line every ten steps costs nothing; the guide's table without one hides a diverging loss.
        "logging_steps": DEFAULT_STEPS["logging_steps"],
        "save_strategy": schedule.saving,
        "save_total_limit": 2,
        "train_sampling_strategy": "group_by_length",
        "report_to": "none",
    }
    accelerator, sharing = accelerators.load(cluster.device), strategies.load(strategy)
    arguments |= sharing.default_arguments(cluster.device, precision)
    arguments |= recipe.training | _direction(recipe)
    arguments |= {
        "per_device_train_batch_size": batch.micro_size,
        "gradient_accumulation_steps": batch.accumulation,
        "per_device_eval_batch_size": batch.eval_size,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not accelerator.has_cards,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "average_tokens_across_devices": True,
        "do_train": True,
    }
    if not sharing.needs_deepspeed:
        arguments["ddp_backend"] = accelerator.backend
    if not accelerator.has_cards:
        arguments["dataloader_pin_memory"] = False
    arguments |= sharing.trainer_arguments()
    if debug:
        arguments |= {"max_steps": DEBUG_STEPS, "logging_steps": 1, "logging_strategy": "steps"}
        arguments |= {"dataloader_num_workers": 0, **NO_EVALUATION, **unscheduled(arguments)}
        arguments = {name: value for name, value in arguments.items() if name not in OF_WORKERS}
    return arguments


def _direction(recipe: RecipeSpec) -> dict[str, Any]:
    """By which figure evaluations are compared, and which way: transformers takes every figure but the loss for one of
    which more is better."""
    if not schedules.looks_for_best(recipe.training):
        return {}
    name = schedules.best_metric(recipe.training)
    computed = metrics.named(recipe.metrics, recipe.code)
    direction = {"metric_for_best_model": name, "greater_is_better": metrics.greater_is_better(name, computed)}
    return direction | schedulers.scheduler_mode(recipe.training, computed)


NO_EVALUATION = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no", "load_best_model_at_end": False}


def unscheduled(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without evaluations a scheduler that follows them would be refused."""
    is_by_metric = arguments.get("lr_scheduler_type") in BY_METRIC
    return {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": None} if is_by_metric else {}
