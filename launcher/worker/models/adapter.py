"""LoRA, around a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.tasks.table import TAGS
from launcher.text import first_line

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.rundir.prepared import Prepared


ALL_LINEAR = "all-linear"
WORD_HEADS = ("score", "classifier")
"""Heads over words, which peft trains whole; of the heads that `all-linear` leaves out it knows those of texts alone."""


def with_adapter(plan: Plan, model: Any) -> torch.nn.Module:
    try:
        import peft
    except ImportError as error:
        raise LaunchError(
            "the recipe has an adapter:, but peft is not installed", hint="pip install 'ascend-launch[lora]'"
        ) from error
    adapter = plan.recipe.adapter
    assert adapter is not None
    options = adapter.model_dump(exclude={"type"})
    # peft appends to its lists, and takes no tuples.
    options |= {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    if plan.recipe.targets == TAGS and adapter.target_modules == ALL_LINEAR:
        options["exclude_modules"] = [name for name in WORD_HEADS if hasattr(model, name)]
    _require_modules(model, adapter.modules_to_save or ())
    if plan.recomputes_activations:
        # The frozen embedding's output needs a gradient, or the recomputed blocks get none.
        model.enable_input_require_grads()
    try:
        # In fp32, which peft makes of adapters, they would have fp32 copies of each layer's input; ZeRO's optimizer has its own.
        model = peft.get_peft_model(
            model,
            peft.LoraConfig(task_type=plan.recipe.task.adapter_type, **options),
            autocast_adapter_dtype=not plan.computes_in_weights,
        )
    except ValueError as error:
        raise LaunchError(
            "adapter: {first_line}", hint="name modules of this model, or all-linear", first_line=first_line(error)
        ) from error
    if not plan.computes_in_weights:
        _widen_trained(model)
    return model


def _require_modules(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Raises LaunchError where a name is not that of a module: peft passes it over, and trains less than asked."""
    modules = [name for name, _ in model.named_modules()]
    absent = [name for name in names if not any(module == name or module.endswith(f".{name}") for module in modules)]
    if absent:
        known = ", ".join(sorted({module.rpartition(".")[2] for module in modules} - {""} - set(map(str, range(1000)))))
        raise LaunchError(
            "adapter.modules_to_save: the model has no module {absent}",
            hint="its modules are {known}",
            absent=absent[0],
            known=known,
        )


def _widen_trained(model: torch.nn.Module) -> None:
    # The head that is trained beside the adapter came in the frozen weights' precision; see _load_dtype.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def with_trained_adapter(plan: Plan, prepared: Prepared, model: Any, missing: list[str]) -> torch.nn.Module:
    """A model that is not trained any more: with its adapter, if it has one, and with no weight left to chance."""
    path = prepared.adapter_path
    if path is None:
        if missing:
            raise LaunchError(
                "{model_path}: has no {missing} for {task}",
                hint="name a model that was trained for this task",
                model_path=prepared.model_path,
                missing=missing[0],
                task=plan.recipe.model.task,
            )
        return model
    try:
        import peft
    except ImportError as error:
        raise LaunchError(
            "{path} is an adapter, but peft is not installed", hint="pip install 'ascend-launch[lora]'", path=path
        ) from error
    try:
        if plan.sharing.shards_parameters:
            raise ValueError(Message("an adapter's model cannot be sharded here"))
        # As if to be trained, so that the weights have the precision that they had in training.
        model = peft.PeftModel.from_pretrained(
            model, path, is_trainable=True, autocast_adapter_dtype=not plan.computes_in_weights
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise LaunchError(
            "{path}: does not fit {model_path}: {first_line}",
            hint="name the model that it was trained on, as model.name of the recipe",
            path=path,
            model_path=prepared.model_path,
            first_line=first_line(error),
        ) from error
    renewed = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        for name, _ in model.named_parameters()
        if ".modules_to_save." in name
    }
    if left := [name for name in missing if name not in renewed]:
        raise LaunchError(
            "neither {path} nor its model has {left}",
            hint="name an adapter that was trained for {task}",
            path=path,
            left=left[0],
            task=plan.recipe.model.task,
        )
    if not plan.computes_in_weights:
        _widen_trained(model)
    return model
