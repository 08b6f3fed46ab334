"""Experiment trackers: what `training.report_to` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.messages import Message
from launcher.recipe.problems import Problem, did_you_mean

_TRACKERS = "clearml codecarbon comet_ml dagshub dvclive kubeflow mlflow neptune swanlab tensorboard trackio wandb"
TRACKERS = {name: name for name in _TRACKERS.split()} | {"azure_ml": "azureml", "flyte": "flytekit"}
"""training.report_to → the module that it needs on every node."""
NAMES_RUNS = frozenset({"comet_ml", "dagshub", "mlflow", "swanlab", "trackio", "wandb"})
"""Trackers that read run_name."""
ALTERNATIVES = {"tensorboard": ("tensorboardX",)}
_TRACKIO = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
OF_WORKERS = ("dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context")
"""Arguments of the processes that dataloader_num_workers starts."""
_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")


def trackers(training: Mapping[str, Any]) -> list[str]:
    """The trackers that report_to names, without none."""
    asked = training.get("report_to") or []
    return [str(name) for name in ([asked] if isinstance(asked, str) else asked) if name != "none"]


def reporting(training: Mapping[str, Any]) -> Iterator[Problem]:
    asked = trackers(training)
    for name in asked:
        if name not in TRACKERS and name != "all":
            choices = ", ".join(["all", "none", *sorted(TRACKERS)])
            yield (
                "report_to",
                Message(
                    "`{name}` is none of {choices}{did_you_mean}",
                    name=name,
                    choices=choices,
                    did_you_mean=did_you_mean(str(name), TRACKERS),
                ),
            )
    if training.get("run_name") is not None and not NAMES_RUNS.union(["all"]) & set(asked):
        names = ", ".join(sorted(NAMES_RUNS))
        yield (
            "run_name",
            Message("has no effect: it names the run for {names}; set report_to, or leave it out", names=names),
        )
    for key in _TRACKIO:
        if training.get(key) is not None and not {"trackio", "all"} & set(asked):
            yield key, Message("has no effect without report_to: trackio")
    for key in ("log_level", "log_level_replica"):
        level = training.get(key)
        if level is not None and level not in _LEVELS:
            yield (
                key,
                Message(
                    "{level!r} is none of {levels}{did_you_mean}",
                    level=level,
                    levels=", ".join(_LEVELS),
                    did_you_mean=did_you_mean(str(level), _LEVELS),
                ),
            )
