"""An adapter added into its model's weights, a tensor at a time; in memory, by peft, where it is more than LoRA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.worker.tasks import table
from launcher.worker.weights import merge
from launcher.worker.weights import trained as trained_weights
from launcher.worker.weights.merge import Source
from launcher.worker.weights.request import Job

_PREFIX = "base_model.model."


def merged(job: Job, config: Any) -> dict[str, Source]:
    """The adapter's model with the adapter added in."""
    assert job.trained.base is not None
    settings = trained_weights.adapter_settings(job.trained.folder)
    sources = merge.folder_sources(job.trained.base)
    adapter = merge.folder_sources(job.trained.folder)
    with torch.device("meta"):
        model = table.auto_class(job.recipe).from_config(config)
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    plan = lora(settings, adapter, _with_twins(sources, tied))
    names = set(model.state_dict())
    if plan is None or names - set(tied) - plan.keys():
        return _merged_in_memory(job, adapter, tied)
    if any(plan.get(twin) is not plan.get(name) for twin, name in tied.items()):
        # peft trains one of the two alone, and the other stays as it was.
        for part in (config, config.get_text_config()):
            part.tie_word_embeddings = False
    else:
        names -= set(tied)
    return {name: source for name, source in plan.items() if name in names}


def _merged_in_memory(job: Job, adapter: Iterable[str], tied: Mapping[str, str]) -> dict[str, Source]:
    """By peft: for adapters that are more than matrices beside linear layers, and models whose files name their
    weights otherwise.

    Raises:
        LaunchError: one of two tied weights was trained, which peft would merge into both.
    """
    import peft

    modules = tuple(f"{_PREFIX}{name.removesuffix('weight')}" for pair in tied.items() for name in pair)
    if part := next((key for key in adapter if key.startswith(modules)), None):
        raise LaunchError(
            "{folder}: {part} was trained apart from the weight it is tied to, and cannot be merged",
            hint="export it with --adapter-only; eval and predict take the adapter as it is",
            folder=job.trained.folder,
            part=part,
        )
    job.notes.append(Message("this adapter is merged in memory, by peft"))
    assert job.trained.base is not None
    options = {"num_labels": len(job.label_names())} if job.recipe.task.has_head else {}
    base = table.auto_class(job.recipe).from_pretrained(job.trained.base, trust_remote_code=False, **options)
    model = peft.PeftModel.from_pretrained(base, str(job.trained.folder)).merge_and_unload(safe_merge=True)
    return {n: merge.of_tensor(t.detach()) for n, t in model.state_dict().items() if n not in tied}


def _with_twins(sources: Mapping[str, Source], tied: Mapping[str, str]) -> dict[str, Source]:
    """Files hold one of two tied weights: under both names, as one and the same source."""
    twins = {twin: sources[name] for twin, name in tied.items() if name in sources}
    return {**sources, **twins}


def lora(
    settings: Mapping[str, Any], adapter: Mapping[str, Source], base: Mapping[str, Source]
) -> dict[str, Source] | None:
    """Every weight with the adapter's part in it; None where the adapter is more than matrices beside linear layers."""
    if (
        settings.get("peft_type") != "LORA"
        or settings.get("fan_in_fan_out")
        or settings.get("alpha_pattern")
        or settings.get("rank_pattern")
    ):
        return None
    out, used = dict(base), set()
    scale = settings["lora_alpha"] / (math.sqrt(settings["r"]) if settings.get("use_rslora") else settings["r"])
    for key, source in adapter.items():
        name = key.removeprefix(_PREFIX)
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = adapter.get(f"{_PREFIX}{module}.lora_B.weight")
            target = base.get(f"{module}.weight")
            if b is None or target is None or len(target.shape) != 2 or target.shape != (b.shape[0], source.shape[1]):
                return None
            magnitude = adapter.get(f"{_PREFIX}{module}.lora_magnitude_vector")
            if settings.get("use_dora") and magnitude is None:
                return None
            out[f"{module}.weight"] = merge.with_lora(target, source, b, scale, magnitude)
            used |= {key, f"{_PREFIX}{module}.lora_B.weight", f"{_PREFIX}{module}.lora_magnitude_vector"}
        elif ".lora_" not in name:  # the head, or a bias, trained whole
            out[name.replace(".base_layer.", ".")] = source
            used.add(key)
    return out if not set(adapter) - used else None
