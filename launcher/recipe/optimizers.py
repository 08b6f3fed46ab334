"""Optimizers: what each needs, and the arguments it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.messages import Message
from launcher.recipe.problems import Problem, did_you_mean, keys

ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer of `optim` reads and needs."""

    adam: tuple[str, ...] = ADAM
    """Which of the adam_ arguments it reads."""
    args: frozenset[str] = frozenset()
    """Keys of optim_args."""
    package: str = ""
    """The module that it is imported from, where that is none of torch or transformers."""
    pip: str = ""
    """What is installed for it."""
    has_targets: bool = False
    """Whether it reads optim_target_modules, which it then needs."""
    refused: str = ""
    """Why it is not supported here, whatever is installed."""


_BITSANDBYTES = "needs bitsandbytes, which has no optimizer for NPUs and CPUs"
_LAYERWISE = "updates a layer in its backward pass, which works with neither several ranks nor gradient accumulation"
_GALORE = keys("rank update_proj_gap scale proj_type")
_APOLLO = _GALORE | keys("proj scale_type")


def _bitsandbytes(*names: str) -> dict[str, Optimizer]:
    return dict.fromkeys(names, Optimizer(package="bitsandbytes", refused=_BITSANDBYTES))


def _galore(name: str) -> Optimizer:
    refused = _LAYERWISE if name.endswith("layerwise") else _BITSANDBYTES if "8bit" in name else ""
    return Optimizer((), _GALORE, "galore_torch", "galore-torch", has_targets=True, refused=refused)


def _apollo(name: str) -> Optimizer:
    refused = _LAYERWISE if name.endswith("layerwise") else ""
    return Optimizer(ADAM, _APOLLO, "apollo_torch", "apollo-torch", has_targets=True, refused=refused)


OPTIMIZERS = {
    "adamw_torch": Optimizer(),
    "adamw_torch_fused": Optimizer(),
    "adamw_torch_xla": Optimizer(package="torch_xla", refused="it is for TPUs"),
    "adamw_torch_npu_fused": Optimizer(),
    "adafactor": Optimizer(()),
    "adamw_anyprecision": Optimizer(
        args=keys("use_kahan_summation momentum_dtype variance_dtype compensation_buffer_dtype"),
        package="torchdistx",
        pip="torchdistx",
    ),
    "sgd": Optimizer((), keys("momentum dampening weight_decay nesterov")),
    "adagrad": Optimizer((), keys("lr_decay weight_decay eps")),
    "rmsprop": Optimizer((), keys("momentum alpha eps weight_decay centered")),
    **_bitsandbytes(
        "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "ademamix", "ademamix_8bit"
    ),
    **_bitsandbytes("paged_ademamix_32bit", "paged_ademamix_8bit", "lion_8bit", "lion_32bit", "paged_lion_32bit"),
    **_bitsandbytes("paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    **dict.fromkeys(
        ("adamw_torch_4bit", "adamw_torch_8bit"),
        Optimizer(args=keys("block_size bf16_stochastic_round"), package="torchao", pip="torchao"),
    ),
    **{name: _galore(name) for name in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor")},
    **{
        f"{name}_layerwise": _galore(f"{name}_layerwise")
        for name in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor")
    },
    **{name: _apollo(name) for name in ("apollo_adamw", "apollo_adamw_layerwise")},
    **dict.fromkeys(("lomo", "adalomo"), Optimizer((), package="lomo_optim", pip="lomo-optim")),
    "grokadamw": Optimizer(
        (), keys("alpha_init lamb gamma grokking_signal_decay_rate gradient_clipping"), "grokadamw", "grokadamw"
    ),
    **{
        f"schedule_free_{name}": Optimizer(adam, keys("weight_lr_power r"), "schedulefree", "schedulefree")
        for name, adam in {"radam": ADAM, "adamw": ADAM, "sgd": ()}.items()
    },
    "stable_adamw": Optimizer(args=keys("max_lr kahan_sum decouple_lr"), package="optimi", pip="torch-optimi"),
}


def optimizer_problems(training: Mapping[str, Any]) -> Iterator[Problem]:
    name = training.get("optim", "adamw_torch_fused")
    optimizer = OPTIMIZERS.get(name)
    if optimizer is None:
        return
    if optimizer.refused:
        yield (
            "optim",
            Message(
                "{name} is not supported: {refused}; adamw_torch and adafactor are",
                name=name,
                refused=optimizer.refused,
            ),
        )
        return
    for key in ADAM:
        if key in training and key not in optimizer.adam:
            yield key, Message("has no effect: optim {name} does not read it", name=name)
    yield from _optim_args(str(name), training.get("optim_args"), optimizer.args)
    targets = training.get("optim_target_modules")
    if targets is not None and not optimizer.has_targets:
        yield "optim_target_modules", Message("has no effect: optim {name} trains every module", name=name)
    elif targets is None and optimizer.has_targets:
        yield "optim", Message("{name} needs optim_target_modules, as in optim_target_modules: all-linear", name=name)


def _optim_args(name: str, text: Any, takes: frozenset[str]) -> Iterator[Problem]:
    for part in str(text or "").replace(" ", "").split(","):
        key, equals, _ = part.partition("=")
        if part and (not equals or "=" in part[len(key) + 1 :]):
            yield "optim_args", Message("{part!r} is not KEY=VALUE", part=part)
        elif part and key not in takes:
            choices = did_you_mean(key, takes) or Message(
                "; it reads {takes}", takes=", ".join(sorted(takes)) or "none"
            )
            yield "optim_args", Message("optim {name} does not read {key}{actual}", name=name, key=key, actual=choices)
        elif part and (wrong := _optim_value(key, part[len(key) + 1 :])):
            yield "optim_args", f"{key}: {wrong}"
    if "nesterov=true" in str(text).lower().replace(" ", "") and "momentum=" not in str(text):
        yield "optim_args", Message("nesterov needs momentum, as in momentum=0.9,nesterov=true")


_WHOLE = keys("rank update_proj_gap block_size")
_ANY_WORD = keys("kahan_sum decouple_lr")
"""Switches that transformers takes for on by any word."""
_SWITCHES = _ANY_WORD | keys("nesterov centered use_kahan_summation bf16_stochastic_round")
_TEXTS = keys("proj proj_type scale_type momentum_dtype variance_dtype compensation_buffer_dtype")


def _optim_value(key: str, text: str) -> str | None:
    """What is wrong with a value of optim_args, which are read as numbers unless they are switches or names."""
    if key in _ANY_WORD and text.lower() != "true":  # bool("false") is true
        return Message("expected true, got {text!r}; leave it out for false", text=text)
    if key in _SWITCHES:
        return None if text.lower() in ("true", "false") else Message("expected true or false, got {text!r}", text=text)
    if key in _TEXTS:
        return None if text else Message("expected a name")
    try:
        number = float(text)
    except ValueError:
        return Message("expected a number, got {text!r}", text=text)
    if not math.isfinite(number) or number < 0:
        return Message("{text} must be a finite number of at least 0", text=text)
    return Message("{text} must be a whole number", text=text) if key in _WHOLE and not text.isdigit() else None
