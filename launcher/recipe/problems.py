"""What is wrong with a value of `training:`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.messages import Message

Problem = tuple[str, str]
"""The name of a training argument, and what is wrong with it."""


def keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


ABOVE_0 = keys(
    "learning_rate num_train_epochs logging_steps eval_steps save_steps save_total_limit "
    "neftune_noise_alpha torch_empty_cache_steps ddp_timeout ddp_bucket_cap_mb dataloader_prefetch_factor"
)
AT_LEAST_0 = keys(
    "weight_decay max_grad_norm warmup_steps dataloader_num_workers eval_delay adam_beta1 adam_beta2 "
    "adam_epsilon label_smoothing_factor seed data_seed"
)
BELOW = {"adam_beta1": 1, "adam_beta2": 1, "label_smoothing_factor": 1, "seed": 2**32, "data_seed": 2**32}
"""NumPy takes no seed from 2**32 on."""
STEPS_OR_SHARE = ("logging_steps", "eval_steps", "save_steps", "warmup_steps")
"""Below 1 a share of all steps, from 1 on a number of steps."""


def value_problem(name: str, value: Any) -> str | None:
    """What is wrong with one number, or with numbers in a mapping or a list; None for anything else."""
    if isinstance(value, Mapping | list):
        inner = value.values() if isinstance(value, Mapping) else value
        return next((problem for one in inner if (problem := value_problem("", one))), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not _is_finite(value):
        return Message("{value} is not a finite number", value=_short(value))
    if name in ABOVE_0 and value <= 0:
        return Message("{value} must be above 0", value=value)
    if name in AT_LEAST_0 and value < 0:
        return Message("{value} must be at least 0", value=value)
    if name in BELOW and value >= BELOW[name]:
        return Message("{value} must be below {below}", value=value, below=BELOW[name])
    if name in STEPS_OR_SHARE and value > 1 and value != int(value):
        return Message("{value} must be a whole number of steps, or below 1 a share of all steps", value=value)
    if name == "max_steps" and value < 1 and value != -1:
        return Message("{value} steps train nothing; leave it out for num_train_epochs", value=value)
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _short(value: float) -> str:
    text = str(value) if not isinstance(value, int) or value.bit_length() < 64 else "a number of that size"
    return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(text, text)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return Message("; did you mean `{close}`?", close=close[0]) if close else ""
