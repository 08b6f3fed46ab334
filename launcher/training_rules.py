"""What TrainingArguments need of each other and of the recipe, so that nothing is refused only in the ranks, or ignored.

The tables repeat rules of transformers 5.23 (training_args.py, optimization.py, trainer_optimizer.py, trainer.py), since
importing it takes seconds; tests/contract/test_training_arguments.py compares them with the installed version.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Problem = tuple[str, str]
"""The name of a training argument, and what is wrong with it."""

GREATER_IS_BETTER = {"loss": False, "accuracy": True, "precision": True, "recall": True, "f1": True, "mae": False}
"""Every figure of an evaluation that is one number, and whether more of it is better."""


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


# -- single values -------------------------------------------------------------------------------------------------

ABOVE_0 = _keys(
    "learning_rate num_train_epochs logging_steps eval_steps save_steps save_total_limit "
    "neftune_noise_alpha torch_empty_cache_steps ddp_timeout ddp_bucket_cap_mb dataloader_prefetch_factor"
)
AT_LEAST_0 = _keys(
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
        return next((found for one in inner if (found := value_problem("", one))), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not _is_finite(value):
        return f"{_short(value)} is not a finite number"
    if name in ABOVE_0 and value <= 0:
        return f"{value} must be above 0"
    if name in AT_LEAST_0 and value < 0:
        return f"{value} must be at least 0"
    if name in BELOW and value >= BELOW[name]:
        return f"{value} must be below {BELOW[name]}"
    if name in STEPS_OR_SHARE and value > 1 and value != int(value):
        return f"{value} must be a whole number of steps, or below 1 a share of all steps"
    if name == "max_steps" and value < 1 and value != -1:
        return f"{value} steps train nothing; leave it out for num_train_epochs"
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _short(value: float) -> str:
    text = str(value) if not isinstance(value, int) or value.bit_length() < 64 else "a number of that size"
    return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(text, text)


# -- when it logs, evaluates and saves -----------------------------------------------------------------------------

DEFAULT_STEPS = {"logging_steps": 10, "save_steps": 500}
"""Ours for logging, transformers' for saving; eval_steps follows logging_steps."""


@dataclass(frozen=True)
class Schedule:
    """The strategies of a training: what is said, else what `*_steps` imply, else the epoch's end."""

    logging: str
    evaluation: str
    saving: str

    @classmethod
    def of(cls, training: Mapping[str, Any], *, has_eval: bool) -> Schedule:
        """Of a recipe's training section; `has_eval`: whether there are rows to evaluate."""

        def strategy(kind: str, default: str) -> str:
            implied = default if training.get(f"{kind}_steps") is None else "steps"
            return str(training.get(f"{kind}_strategy") or implied)

        return cls(
            logging=strategy("logging", "steps"),
            evaluation=strategy("eval", "epoch") if has_eval else "no",
            saving=strategy("save", "epoch"),
        )


def _schedule(training: Mapping[str, Any], schedule: Schedule, *, has_eval: bool) -> Iterator[Problem]:
    for kind, strategy in (("logging", schedule.logging), ("eval", schedule.evaluation), ("save", schedule.saving)):
        key = f"{kind}_steps"
        if training.get(key) is not None and strategy != "steps":
            if kind == "eval" and not has_eval:
                yield key, "there is no data.eval to evaluate on; set it, or leave this out"
            elif not (kind == "logging" and schedule.evaluation == "steps" and training.get("eval_steps") is None):
                name = f"{kind}_strategy"
                yield (
                    key,
                    f"has no effect with {name}: {strategy}; leave it out (training.{key}=null), or set {name}: steps",
                )
    asked = training.get("eval_strategy")
    if not has_eval and asked not in (None, "no"):
        yield "eval_strategy", "there is no data.eval to evaluate on; set it or say `no`"
    if not has_eval and training.get("eval_on_start"):
        yield "eval_on_start", "there is no data.eval to evaluate on; set it, or leave this out"
    if asked == "steps" and not (training.get("eval_steps") or training.get("logging_steps")):
        yield "eval_strategy", "`steps` needs eval_steps"
    if training.get("eval_delay") and schedule.evaluation == "no":
        yield "eval_delay", "has no effect, since nothing is evaluated during the training"
    yield from _delay(training, schedule)


def _delay(training: Mapping[str, Any], schedule: Schedule) -> Iterator[Problem]:
    """eval_delay counts what evaluations count; how many steps some epochs have is not known yet."""
    steps = training.get("max_steps", -1)
    if schedule.evaluation == "epoch" and steps < 0:
        total, what = training.get("num_train_epochs", 3), "epochs"
    elif schedule.evaluation == "steps" and steps > 0:
        total, what = steps, "steps"
    else:
        return
    if training.get("eval_delay", 0) > total:
        yield "eval_delay", f"is more than the {total} {what} of the training, in which nothing would be evaluated"


# -- the best model ------------------------------------------------------------------------------------------------

BY_METRIC = frozenset({"reduce_lr_on_plateau", "greedy"})
"""Schedulers that follow metric_for_best_model."""


def looks_for_best(training: Mapping[str, Any]) -> bool:
    """Whether evaluations are compared; then by the loss, unless metric_for_best_model names another figure."""
    return bool(
        training.get("load_best_model_at_end")
        or training.get("metric_for_best_model") is not None
        or training.get("save_strategy") == "best"
        or training.get("lr_scheduler_type") in BY_METRIC
    )


def best_metric(training: Mapping[str, Any]) -> str:
    """The figure that evaluations are compared by, without eval_."""
    asked = training.get("metric_for_best_model")
    return "loss" if asked is None else str(asked).removeprefix("eval_")


def _best(training: Mapping[str, Any], schedule: Schedule, metrics: Sequence[str]) -> Iterator[Problem]:
    asked, better = training.get("metric_for_best_model"), training.get("greater_is_better")
    there = ["loss", *(m for m in metrics if m in GREATER_IS_BETTER)]
    name = best_metric(training)
    if asked is not None and name not in there:
        yield "metric_for_best_model", _no_metric(str(asked), name, there)
    elif asked is not None and schedule.evaluation == "no":
        yield "metric_for_best_model", "nothing is evaluated during the training; set eval_strategy, or leave this out"
    if better is not None and not looks_for_best(training):
        yield "greater_is_better", "has no effect without metric_for_best_model"
    elif better is not None and name in there and better != GREATER_IS_BETTER[name]:
        more = "more" if GREATER_IS_BETTER[name] else "less"
        yield "greater_is_better", f"of {name} {more} is better; leave this out, which says {_yaml(not better)}"


def _no_metric(asked: str, name: str, there: Sequence[str]) -> str:
    if name == "confusion_matrix":
        return f"confusion_matrix is a table and no figure; choose from {', '.join(there)}"
    if name in GREATER_IS_BETTER:
        return f"{name} is not computed, choose from {', '.join(there)}, or add {name} to `metrics:`"
    return f"`{asked}` is none of {', '.join(there)}" + _did_you_mean(name.lower(), there)


def _load_best(training: Mapping[str, Any], schedule: Schedule) -> Iterator[Problem]:
    key = "load_best_model_at_end"
    if schedule.saving == "best" and schedule.evaluation == "no":
        yield "save_strategy", "`best` needs evaluations to compare; set eval_strategy"
    if not training.get(key):
        return
    if schedule.saving == "no":
        yield key, "needs save_strategy: epoch or steps"
    elif schedule.saving != "best" and schedule.saving != schedule.evaluation:
        found = f"saving is by {schedule.saving} and evaluation by {schedule.evaluation}"
        yield key, f"needs a save for each evaluation, but {found}; give save_strategy and eval_strategy the same value"
    elif schedule.saving == "steps":
        logging = training.get("logging_steps") or DEFAULT_STEPS["logging_steps"]
        save, every = training.get("save_steps") or DEFAULT_STEPS["save_steps"], training.get("eval_steps") or logging
        if not _is_multiple(save, every):
            yield key, f"needs save_steps that are a multiple of eval_steps, and {save} is none of {every}"
    if training.get("save_only_model"):
        yield key, "needs whole checkpoints: leave out save_only_model"


def _is_multiple(save: float, every: float) -> bool:
    if (save < 1) != (every < 1) or every <= 0:  # a share of all steps beside a number of them: nobody can tell
        return False
    million = 1_000_000  # as transformers: floats leave a rest of their own
    return (save * million) % (every * million) == 0 if save < 1 else save % every == 0


# -- schedulers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler of lr_scheduler_type reads."""

    takes: frozenset[str] = frozenset()
    """Keys of lr_scheduler_kwargs."""
    needs_one_of: tuple[str, ...] = ()
    """Of those keys exactly one must be given."""
    warms_up: bool = True
    """Whether it reads warmup_steps."""


_PLATEAU = _keys("mode factor patience threshold threshold_mode cooldown min_lr eps")
SCHEDULERS = {
    "linear": Scheduler(),
    "cosine": Scheduler(_keys("num_cycles")),
    "cosine_with_restarts": Scheduler(_keys("num_cycles")),
    "polynomial": Scheduler(_keys("lr_end power")),
    "constant": Scheduler(warms_up=False),
    "constant_with_warmup": Scheduler(),
    "inverse_sqrt": Scheduler(_keys("timescale")),
    "reduce_lr_on_plateau": Scheduler(_PLATEAU, warms_up=False),
    "cosine_with_min_lr": Scheduler(_keys("num_cycles min_lr min_lr_rate"), ("min_lr", "min_lr_rate")),
    "cosine_warmup_with_min_lr": Scheduler(
        _keys("num_cycles min_lr min_lr_rate warmup_lr_rate"), ("min_lr", "min_lr_rate")
    ),
    "warmup_stable_decay": Scheduler(
        _keys("num_decay_steps num_stable_steps warmup_type decay_type min_lr_ratio num_cycles"), ("num_decay_steps",)
    ),
    # Its own min_lr is 0.001, which is above any rate that a model is fine-tuned with: its first step down would be one up.
    "greedy": Scheduler(
        _PLATEAU | _keys("warmup max_lr verbose smooth window_size reset_start"), ("min_lr",), warms_up=False
    ),
}
_SHAPES = ("linear", "cosine", "1-sqrt")
_WORDS = {
    "mode": ("min", "max"),
    "threshold_mode": ("rel", "abs"),
    "warmup_type": _SHAPES,
    "decay_type": _SHAPES,
    "verbose": (True, False),
    "smooth": (True, False),
}
"""Keys of lr_scheduler_kwargs that are no numbers, and what they may be."""


def _scheduler(training: Mapping[str, Any], schedule: Schedule) -> Iterator[Problem]:
    name = training.get("lr_scheduler_type", "linear")
    given = training.get("lr_scheduler_kwargs") or {}
    found = SCHEDULERS.get(name)
    if found is None or not isinstance(given, Mapping):
        return
    for key, value in given.items():
        if key not in found.takes:
            takes = f"{name} takes {', '.join(sorted(found.takes)) or 'none'}"
            yield "lr_scheduler_kwargs", f"unknown key {key!r}" + (_did_you_mean(str(key), found.takes) or f"; {takes}")
        elif (text := _argument(key, value)) is not None:
            yield "lr_scheduler_kwargs", text
    if found.needs_one_of and sum(given.get(key) is not None for key in found.needs_one_of) != 1:
        first, names = found.needs_one_of[0], " or ".join(found.needs_one_of)
        one = f"one of {names}" if len(found.needs_one_of) > 1 else names
        where = "lr_scheduler_kwargs" if given else "lr_scheduler_type"
        yield where, f"{name} needs {one}, as in lr_scheduler_kwargs: {{{first}: {_EXAMPLE[first]}}}"
    if training.get("warmup_steps") and not found.warms_up:
        hint = "; constant_with_warmup has one" if name == "constant" else ""
        yield "warmup_steps", f"has no effect: lr_scheduler_type {name} has no warmup{hint}"
    yield from _rates(str(name), given, training.get("learning_rate", 5e-5))
    if name in BY_METRIC:
        if schedule.evaluation == "no":
            yield "lr_scheduler_type", f"{name} follows an evaluation, and nothing is evaluated; set eval_strategy"
        mode = "max" if GREATER_IS_BETTER.get(best_metric(training)) else "min"
        if given.get("mode") in ("min", "max") and given["mode"] != mode:
            yield "lr_scheduler_kwargs", f"mode is {mode} for {best_metric(training)}; leave it out"


_EXAMPLE = {"min_lr": "1e-6", "num_decay_steps": "100"}


def _argument(key: str, value: Any) -> str | None:
    if key in _WORDS:
        allowed = _WORDS[key]
        return None if value in allowed else f"{key}: {value!r} is none of {', '.join(map(_yaml, allowed))}"
    if not _is_number(value):
        return f"{key}: expected a number, got {value!r}"
    if value < 0 or (value == 0 and key in _ABOVE_0):
        return f"{key}: {value} must be {'above' if key in _ABOVE_0 else 'at least'} 0"
    if key in _SHARES and value > 1:
        return f"{key}: {value} must be at most 1, a share of the learning_rate"
    return None


_ABOVE_0 = ("timescale", "num_decay_steps", "power")
_SHARES = ("min_lr_rate", "min_lr_ratio", "warmup_lr_rate")


def _rates(name: str, given: Mapping[str, Any], rate: Any) -> Iterator[Problem]:
    key = "lr_end" if name == "polynomial" else "min_lr"
    least = given.get(key, 1e-7 if name == "polynomial" else None)
    if _is_number(least) and _is_number(rate) and (least >= rate if name == "polynomial" else least > rate):
        where = "lr_scheduler_kwargs" if key in given else "learning_rate"
        yield where, f"{key} {least} must be below the learning_rate, {rate}"
    if name in BY_METRIC and _is_number(given.get("factor")) and not 0 < given["factor"] < 1:
        yield "lr_scheduler_kwargs", f"factor: {given['factor']} must be between 0 and 1"


def scheduler_mode(training: Mapping[str, Any]) -> dict[str, Any]:
    """lr_scheduler_kwargs of a scheduler that follows a figure, with the figure's direction; their own default is min."""
    if training.get("lr_scheduler_type") not in BY_METRIC:
        return {}
    mode = "max" if GREATER_IS_BETTER.get(best_metric(training)) else "min"
    return {"lr_scheduler_kwargs": {"mode": mode, **(training.get("lr_scheduler_kwargs") or {})}}


# -- optimizers ----------------------------------------------------------------------------------------------------

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
_GALORE = _keys("rank update_proj_gap scale proj_type")
_APOLLO = _GALORE | _keys("proj scale_type")


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
        args=_keys("use_kahan_summation momentum_dtype variance_dtype compensation_buffer_dtype"),
        package="torchdistx",
        pip="torchdistx",
    ),
    "sgd": Optimizer((), _keys("momentum dampening weight_decay nesterov")),
    "adagrad": Optimizer((), _keys("lr_decay weight_decay eps")),
    "rmsprop": Optimizer((), _keys("momentum alpha eps weight_decay centered")),
    **_bitsandbytes(
        "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "ademamix", "ademamix_8bit"
    ),
    **_bitsandbytes("paged_ademamix_32bit", "paged_ademamix_8bit", "lion_8bit", "lion_32bit", "paged_lion_32bit"),
    **_bitsandbytes("paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    **dict.fromkeys(
        ("adamw_torch_4bit", "adamw_torch_8bit"),
        Optimizer(args=_keys("block_size bf16_stochastic_round"), package="torchao", pip="torchao"),
    ),
    **{name: _galore(name) for name in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor")},
    **{
        f"{name}_layerwise": _galore(f"{name}_layerwise")
        for name in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor")
    },
    **{name: _apollo(name) for name in ("apollo_adamw", "apollo_adamw_layerwise")},
    **dict.fromkeys(("lomo", "adalomo"), Optimizer((), package="lomo_optim", pip="lomo-optim")),
    "grokadamw": Optimizer(
        (), _keys("alpha_init lamb gamma grokking_signal_decay_rate gradient_clipping"), "grokadamw", "grokadamw"
    ),
    **{
        f"schedule_free_{name}": Optimizer(adam, _keys("weight_lr_power r"), "schedulefree", "schedulefree")
        for name, adam in {"radam": ADAM, "adamw": ADAM, "sgd": ()}.items()
    },
    "stable_adamw": Optimizer(args=_keys("max_lr kahan_sum decouple_lr"), package="optimi", pip="torch-optimi"),
}


def _optimizer(training: Mapping[str, Any]) -> Iterator[Problem]:
    name = training.get("optim", "adamw_torch_fused")
    found = OPTIMIZERS.get(name)
    if found is None:
        return
    if found.refused:
        yield "optim", f"{name} is not supported: {found.refused}; adamw_torch and adafactor are"
        return
    for key in ADAM:
        if key in training and key not in found.adam:
            yield key, f"has no effect: optim {name} does not read it"
    yield from _optim_args(str(name), training.get("optim_args"), found.args)
    targets = training.get("optim_target_modules")
    if targets is not None and not found.has_targets:
        yield "optim_target_modules", f"has no effect: optim {name} trains every module"
    elif targets is None and found.has_targets:
        yield "optim", f"{name} needs optim_target_modules, as in optim_target_modules: all-linear"


def _optim_args(name: str, text: Any, takes: frozenset[str]) -> Iterator[Problem]:
    for part in str(text or "").replace(" ", "").split(","):
        key, equals, _ = part.partition("=")
        if part and (not equals or "=" in part[len(key) + 1 :]):
            yield "optim_args", f"{part!r} is not KEY=VALUE"
        elif part and key not in takes:
            found = _did_you_mean(key, takes) or f"; it reads {', '.join(sorted(takes)) or 'none'}"
            yield "optim_args", f"optim {name} does not read {key}{found}"
        elif part and (wrong := _optim_value(key, part[len(key) + 1 :])):
            yield "optim_args", f"{key}: {wrong}"
    if "nesterov=true" in str(text).lower().replace(" ", "") and "momentum=" not in str(text):
        yield "optim_args", "nesterov needs momentum, as in momentum=0.9,nesterov=true"


_WHOLE = _keys("rank update_proj_gap block_size")
_ANY_WORD = _keys("kahan_sum decouple_lr")
"""Switches that transformers takes for on by any word."""
_SWITCHES = _ANY_WORD | _keys("nesterov centered use_kahan_summation bf16_stochastic_round")
_TEXTS = _keys("proj proj_type scale_type momentum_dtype variance_dtype compensation_buffer_dtype")


def _optim_value(key: str, text: str) -> str | None:
    """What is wrong with a value of optim_args, which are read as numbers unless they are switches or names."""
    if key in _ANY_WORD and text.lower() != "true":  # bool("false") is true
        return f"expected true, got {text!r}; leave it out for false"
    if key in _SWITCHES:
        return None if text.lower() in ("true", "false") else f"expected true or false, got {text!r}"
    if key in _TEXTS:
        return None if text else "expected a name"
    try:
        number = float(text)
    except ValueError:
        return f"expected a number, got {text!r}"
    if not math.isfinite(number) or number < 0:
        return f"{text} must be a finite number of at least 0"
    return f"{text} must be a whole number" if key in _WHOLE and not text.isdigit() else None


# -- what has an effect only together with something else ----------------------------------------------------------

_TRACKERS = "clearml codecarbon comet_ml dagshub dvclive kubeflow mlflow neptune swanlab tensorboard trackio wandb"
TRACKERS = {name: name for name in _TRACKERS.split()} | {"azure_ml": "azureml", "flyte": "flytekit"}
"""training.report_to → the module that it needs on every node."""
NAMES_RUNS = frozenset({"comet_ml", "dagshub", "mlflow", "swanlab", "trackio", "wandb"})
"""Trackers that read run_name."""
_ALTERNATIVES = {"tensorboard": ("tensorboardX",)}
_TRACKIO = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
OF_WORKERS = ("dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context")
"""Arguments of the processes that dataloader_num_workers starts."""
_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")


def trackers(training: Mapping[str, Any]) -> list[str]:
    """The trackers that report_to names, without none."""
    asked = training.get("report_to") or []
    return [str(name) for name in ([asked] if isinstance(asked, str) else asked) if name != "none"]


def _reporting(training: Mapping[str, Any]) -> Iterator[Problem]:
    asked = trackers(training)
    for name in asked:
        if name not in TRACKERS and name != "all":
            choices = ", ".join(["all", "none", *sorted(TRACKERS)])
            yield "report_to", f"`{name}` is none of {choices}" + _did_you_mean(str(name), TRACKERS)
    if training.get("run_name") is not None and not NAMES_RUNS.union(["all"]) & set(asked):
        names = ", ".join(sorted(NAMES_RUNS))
        yield "run_name", f"has no effect: it names the run for {names}; set report_to, or leave it out"
    for key in _TRACKIO:
        if training.get(key) is not None and not {"trackio", "all"} & set(asked):
            yield key, "has no effect without report_to: trackio"
    for key in ("log_level", "log_level_replica"):
        level = training.get(key)
        if level is not None and level not in _LEVELS:
            yield key, f"{level!r} is none of {', '.join(_LEVELS)}" + _did_you_mean(str(level), _LEVELS)


def _recomputation(training: Mapping[str, Any]) -> Iterator[Problem]:
    is_on = training.get("gradient_checkpointing") or training.get("activation_checkpointing")
    for end in ("", "_kwargs"):
        old, new = f"gradient_checkpointing{end}", f"activation_checkpointing{end}"
        if training.get(old) is not None and training.get(new) is not None:
            yield old, f"is the older name of {new}; give one of them"
        for key in (old, new):
            if end and training.get(key) and not is_on:
                yield key, f"has no effect without {key.removesuffix(end)}: true"


def _together(training: Mapping[str, Any]) -> Iterator[Problem]:
    for key in OF_WORKERS:
        if training.get(key) and not training.get("dataloader_num_workers"):
            yield key, "has no effect without dataloader_num_workers, since rows are then loaded by the rank itself"
    if training.get("liger_kernel_config") is not None and not training.get("use_liger_kernel"):
        yield "liger_kernel_config", "has no effect without use_liger_kernel: true"
    yield from _debug(training.get("debug"))
    if training.get("train_sampling_strategy") == "batch_rebalance":
        text = "batch_rebalance depends on the number of ranks; group_by_length balances ranks too"
        yield "train_sampling_strategy", text


def _debug(value: Any) -> Iterator[Problem]:
    for name in value.split() if isinstance(value, str) else value or ():
        if name != "underflow_overflow":
            yield "debug", f"{name!r} is not a choice; `underflow_overflow` is the only one"


# -- all of it -----------------------------------------------------------------------------------------------------


def problems(
    training: Mapping[str, Any], *, metrics: Sequence[str], has_eval: bool, has_script: bool = False
) -> Iterator[Problem]:
    """What is wrong with a training section whose fields have the right types.

    Args:
        training: TrainingArguments by name, as a recipe has them.
        metrics: the recipe's.
        has_eval: whether the recipe has rows to evaluate.
        has_script: a program of the user's trains, whose figures nobody knows.
    """
    bad = {name: text for name, value in training.items() if (text := value_problem(name, value))}
    yield from bad.items()
    training = {name: value for name, value in training.items() if name not in bad}
    schedule = Schedule.of(training, has_eval=has_eval)
    yield from _schedule(training, schedule, has_eval=has_eval)
    yield from _load_best(training, schedule)
    if not has_script:
        yield from _best(training, schedule, metrics)
    yield from _scheduler(training, schedule)
    yield from _optimizer(training)
    yield from _reporting(training)
    yield from _recomputation(training)
    yield from _together(training)


def missing_packages(training: Mapping[str, Any]) -> Iterator[Problem]:
    """What the training section needs and this environment does not have. Looks for modules, and imports none."""
    optimizer = OPTIMIZERS.get(training.get("optim", ""), Optimizer())
    if optimizer.package and not optimizer.refused and not _is_installed(optimizer.package):
        needs = f"needs {optimizer.package}, which is not installed: pip install {optimizer.pip}"
        yield "optim", f"{training['optim']} {needs}"
    if training.get("use_liger_kernel") and not _is_installed("liger_kernel"):
        yield "use_liger_kernel", "needs liger_kernel, which is not installed: pip install liger-kernel"
    for name in trackers(training):
        modules = (TRACKERS.get(name, ""), *_ALTERNATIVES.get(name, ()))
        if modules[0] and not any(map(_is_installed, modules)):
            yield "report_to", f"{name} needs {modules[0]}, which is not installed; install it, or set report_to: none"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""
