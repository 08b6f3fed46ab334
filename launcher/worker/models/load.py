"""The model of a recipe: found once per node, loaded in every rank, and asked for the loss and prediction of each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.errors import LaunchError
from launcher.models.config import model_config
from launcher.models.folder import HEADS, check, head_labels
from launcher.planning import decide
from launcher.text import first_line
from launcher.worker.engines import table
from launcher.worker.kernels import registry
from launcher.worker.models.adapter import with_adapter, with_trained_adapter
from launcher.worker.models.tokenizer import set_pad_token
from launcher.worker.tasks.table import auto_class, problem_type

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared


_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def look(recipe: RecipeSpec, device: str, folder: Path, *, is_trained: bool = False) -> tuple[str, ...]:
    """What a model's files say against the recipe, and for it. `is_trained`: its head is used as it is.

    Raises:
        LaunchError: as `modelfolder.check`.
    """
    wanted = decide.wanted(recipe, device)
    if is_trained:
        wanted = replace(wanted, name=str(folder), num_labels=None)
    return check(folder, model_config(str(folder)), wanted).notes


def load_model(plan: Plan, prepared: Prepared, tokenizer: Any) -> torch.nn.Module:
    """The model with its head, its adapter if any, and pad token.

    Under ZeRO-3 TrainingArguments must exist, and the process group must be joined: transformers then loads each
    weight into its shards, and no rank ever holds the model whole.

    Raises:
        LaunchError: the weights do not fit the task, or an extra is not installed.
    """
    recipe = plan.recipe
    labels: dict[str, Any] = {}
    if recipe.task.has_head:
        labels = {
            "num_labels": prepared.num_labels,
            "id2label": dict(enumerate(prepared.label_names)),
            "label2id": {name: i for i, name in enumerate(prepared.label_names)},
        }
        if plan.use is None or recipe.model.problem_type is not None:
            labels["problem_type"] = problem_type(recipe)
    other = _other_head(plan, prepared)
    attention = recipe.model.attn_implementation
    try:
        model, loading = auto_class(recipe).from_pretrained(
            prepared.model_path,
            dtype=_load_dtype(plan, has_adapter=bool(recipe.adapter or prepared.adapter_path)),
            trust_remote_code=False,
            output_loading_info=True,
            **(labels if other is None else {"num_labels": other}),
            **({"attn_implementation": attention} if attention else {}),
        )
    except (OSError, ValueError, ImportError) as error:
        raise LaunchError(
            "{model_path}: cannot be loaded for {task}: {first_line}",
            hint="use a model whose architecture transformers has with that head",
            model_path=prepared.model_path,
            task=recipe.model.task,
            first_line=first_line(error),
        ) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise LaunchError(
            "{model_path}: its weights are not of the sizes that its config.json says",
            hint="download the model again, config.json with it",
            model_path=prepared.model_path,
        ) from error
    if other is not None:
        _replace_head(plan, model, prepared.num_labels)
        model.config.update(labels)
    registry.apply(plan, model)
    table.of(plan).adapt_model(model)
    set_pad_token(model.config, tokenizer)
    if plan.use is not None:
        return with_trained_adapter(plan, prepared, model, sorted(loading["missing_keys"]))
    return model if recipe.adapter is None else with_adapter(plan, model)


def _other_head(plan: Plan, prepared: Prepared) -> int | None:
    """The labels of a head that the recipe's replaces: one of another size; None where the model's is kept, or has none."""
    if plan.use is not None or not plan.recipe.task.has_head:
        return None
    folder = Path(prepared.model_path)
    num_labels = head_labels(folder, model_config(str(folder)) or {})
    return num_labels if num_labels != prepared.num_labels else None


def _replace_head(plan: Plan, model: Any, num_labels: int) -> None:
    """A fresh last layer, equal on all ranks. transformers' own ignore_mismatched_sizes does nothing under ZeRO-3."""
    parameters = {name for name, _ in model.named_parameters()}
    path = next((name for name in HEADS if name in parameters), "").removesuffix(".weight")
    if not path:
        raise LaunchError(
            "the head of {kind} has {num_labels} labels, the recipe {value}",
            hint="name a model without a head, or one whose head has as many labels",
            kind=type(model).__name__,
            num_labels=model.config.num_labels,
            value=num_labels,
        )
    old = model.get_submodule(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.training_arguments.get("seed", 42))
        new = torch.nn.Linear(old.in_features, num_labels, bias=old.bias is not None)
        model._init_weights(new)
    model.set_submodule(path, new.to(old.weight.device, old.weight.dtype))
    model.num_labels = num_labels


def _load_dtype(plan: Plan, *, has_adapter: bool) -> torch.dtype:
    # DeepSpeed keeps fp32 master weights itself, and frozen weights under LoRA need none. DDP and FSDP2 train the very
    # weights that are loaded, and a bf16 weight would lose updates smaller than 1/256 of it.
    if plan.computes_in_weights or has_adapter:
        return _DTYPE[plan.precision]
    return torch.float32
