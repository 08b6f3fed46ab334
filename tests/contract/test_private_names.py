"""What we use of libraries beyond their documented interface: each name is still there, with the parameters we rely on.

A new version that removes or changes one fails here by that name, and not in a training. A new use without a row fails too.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import launcher.worker

REPO = Path(launcher.worker.__file__).resolve().parents[2]
TRAINER = "transformers.trainer:Trainer"
ZERO2 = "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer"
ZERO3 = "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3"
COORDINATOR = "deepspeed.runtime.zero.partitioned_param_coordinator:PartitionedParameterCoordinator"
OFFLOAD = "deepspeed.runtime.zero.parameter_offload:DeepSpeedZeRoOffload"
ENGINE = "deepspeed.runtime.engine:DeepSpeedEngine"

SIGNATURES = {
    # Overridden. Trainer calls them by position or by name, and ours pass them on.
    f"{TRAINER}.__init__": "self model= args= data_collator= train_dataset= eval_dataset= processing_class= model_init= "
    "compute_loss_func= compute_metrics= callbacks= optimizers= optimizer_cls_and_kwargs= preprocess_logits_for_metrics=",
    f"{TRAINER}._evaluate": "self trial ignore_keys_for_eval skip_scheduler=",
    f"{TRAINER}._load_best_model": "self",
    f"{TRAINER}._load_from_checkpoint": "self resume_from_checkpoint model=",
    f"{TRAINER}._load_optimizer_and_scheduler": "self checkpoint",
    f"{TRAINER}._load_rng_state": "self checkpoint",
    f"{TRAINER}._maybe_log_save_evaluate": "self tr_loss grad_norm model trial epoch ignore_keys_for_eval start_time "
    "learning_rate=",
    f"{TRAINER}._prepare_for_training": "self max_steps train_dataloader resume_from_checkpoint",
    f"{TRAINER}._run_epoch": "self model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial "
    "ignore_keys_for_eval start_time resume_from_checkpoint epochs_trained steps_trained_in_current_epoch",
    f"{TRAINER}._save_checkpoint": "self model trial",
    f"{TRAINER}._wrap_model": "self model training= dataloader=",
    f"{TRAINER}.compute_loss": "self model inputs return_outputs= num_items_in_batch=",
    f"{TRAINER}.evaluate": "self eval_dataset= ignore_keys= metric_key_prefix=",
    f"{TRAINER}.floating_point_ops": "self inputs",
    f"{TRAINER}.get_batch_samples": "self epoch_iterator num_batches device",
    f"{TRAINER}.get_train_dataloader": "self",
    f"{TRAINER}.save_model": "self output_dir= _internal_call=",
    f"{TRAINER}.train": "self resume_from_checkpoint= trial= ignore_keys_for_eval=",
    f"{TRAINER}.training_step": "self model inputs num_items_in_batch=",
    "evaluate:Metric._compute": "self *, predictions= references= **kwargs",
    "evaluate:Metric._info": "self",
    "torch.autograd:Function.forward": "*args **kwargs",
    "torch.autograd:Function.backward": "ctx *grad_outputs",
    # Called.
    "transformers.modeling_utils:PreTrainedModel._init_weights": "self module",
    f"{TRAINER}._determine_best_metric": "self metrics trial",
    "torch.utils.data.dataloader:_BaseDataLoaderIter.__next__": "self",  # wrapped, to beat at each batch
    "runpy:_run_module_as_main": "mod_name alter_argv=",  # what Python itself calls for -m
    f"{TRAINER}._prepare_inputs": "self inputs",
    f"{TRAINER}._get_output_dir": "self trial",
    # Asked what accelerate launch sets: run as far as where it would start the ranks, in these places.
    "accelerate.commands.launch:launch_command_parser": "subparsers=",
    "accelerate.commands.launch:launch_command": "args",
    "accelerate.commands.launch:prepare_simple_launcher_cmd_env": "args",
    "accelerate.commands.launch:simple_launcher": "args",
    "torch.distributed.run:run": "args",
    "transformers.integrations.deepspeed:deepspeed_init": "trainer num_training_steps inference=",
    "torch.distributed.tensor._utils:compute_local_shape_and_global_offset": "global_shape mesh placements skip_offset=",
    f"{ZERO2}.update_lp_params": "self",
    f"{COORDINATOR}._invalidate_trace": "self",
    f"{COORDINATOR}.is_invalid_trace": "self",
    f"{ZERO3}.checkpoint_event_epilogue": "self",
    f"{ZERO3}.checkpoint_event_prologue": "self",
    f"{ZERO3}.get_param_id": "self param",
    f"{OFFLOAD}.get_param_coordinator": "self",
    "deepspeed.runtime.zero.partitioned_param_coordinator:PartitionedParameterCoordinator.reset_step": "self",
    # Compared with, to see whether a tokenizer's class calls its backend in its own way: these arguments we set as it does.
    "transformers.utils.chat_template_utils:_compile_jinja_template": "chat_template",
    "transformers:PreTrainedTokenizerFast._encode_plus": "self text text_pair= add_special_tokens= padding_strategy= "
    "truncation_strategy= max_length= stride= is_split_into_words= pad_to_multiple_of= padding_side= return_tensors= "
    "return_token_type_ids= return_attention_mask= return_overflowing_tokens= return_special_tokens_mask= "
    "return_offsets_mapping= return_length= verbose= split_special_tokens= **kwargs",
    "transformers:PreTrainedTokenizerFast.set_truncation_and_padding": "self padding_strategy truncation_strategy "
    "max_length stride pad_to_multiple_of padding_side",
}
"""What is called or overridden → its parameters, in order; `=` where one may be left out."""

ATTRIBUTES = {
    "accelerate.state:PartialState": ("_shared_state",),
    "datasets.arrow_dataset:Dataset": ("_indices",),
    "deepspeed.ops": ("__compatible_ops__",),
    "deepspeed.runtime.zero.partition_parameters": ("ds_numel", "ds_tensor"),
    "deepspeed.utils.mixed_precision_linkage": ("_hp_mapping",),
    "deepspeed.utils.tensor_fragment": ("hp_fragment_address", "lp_fragment_address", "numel", "start"),
    OFFLOAD: ("backward_hooks", "forward_hooks", "fwd_pre_hook", "partition_all_parameters", "persistent_parameters"),
    "torch.utils.hooks:RemovableHandle": ("hooks_dict_ref", "id"),
    ENGINE: ("global_samples", "global_steps", "skipped_steps"),
    ZERO2: ("bit16_groups", "loss_scaler", "partition_count", "single_partition_of_fp32_groups"),
    ZERO3: (
        "dp_process_group",
        "fp16_groups",
        "fp16_partitioned_groups",
        "fp16_partitioned_groups_flat",
        "fp32_partitioned_groups_flat",
        "grad_position",
        "loss_scaler",
        "parameter_offload",
        "unflatten",
    ),
    "launcher.diagnose.explain.patterns": ("_parser",),  # of re, by the name that it has in this version of Python
    "torch.utils.data.dataloader": ("_BaseDataLoaderIter",),
    "torch.distributed.distributed_c10d": ("_world",),
    "torch.distributed.distributed_c10d:_World": ("pg_group_ranks", "pg_names"),
    "torch.nn.modules.module:Module": ("_buffers", "_non_persistent_buffers_set"),
    "transformers.configuration_utils:PreTrainedConfig": ("_attn_implementation",),
    "transformers.models.auto.auto_factory:_BaseAutoModelClass": ("_model_mapping",),
    TRAINER: (
        "_globalstep_last_logged",
        "_tr_loss",
        "_total_loss_scalar",
        "control",
        "is_deepspeed_enabled",
        "is_fsdp_enabled",
        "loss_is_scaled_for_ga",
        "model_accepts_loss_kwargs",
        "model_wrapped",
    ),
    "transformers.modeling_utils:PreTrainedModel": ("_no_split_modules",),
    "weakref:finalize": ("_registry",),
}
"""A class, or a module that sets it on objects of others → what we read or set."""

STANDARD = {
    *dir(type),
    *dir(list),
    *dir(types.ModuleType),
    *dir(BaseException()),
    "__args__",
    "__file__",
    "__stderr__",
    "__stdout__",
    "__version__",
}
DOCUMENTED = {"os._exit", "ctypes.CDLL(None).__nss_configure_lookup"}


# -- the rows hold -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_is_called_or_overridden_has_its_parameters(name: str):
    """By name, order and whether they may be left out."""
    found = functools.reduce(
        getattr, name.partition(":")[2].split("."), importlib.import_module(name.partition(":")[0])
    )

    assert SIGNATURES[name] == parameters(found), f"{name} has other parameters in this version"


@pytest.mark.parametrize(("holder", "name"), [(holder, name) for holder, names in ATTRIBUTES.items() for name in names])
def test_what_is_read_or_set_is_there(holder: str, name: str):
    """On the class, or assigned by its code."""
    module, _, of_class = holder.partition(":")
    loaded = importlib.import_module(module)
    found = getattr(loaded, of_class) if of_class else loaded

    classes = found.__mro__[:-1] if isinstance(found, type) else (found,)
    assert hasattr(found, name) or any(name in assigned(one) for one in classes), f"{holder} has no {name} any more"


def test_every_event_of_our_callbacks_is_one_of_trainers():
    """One that is renamed would never be called again, without a word."""
    from transformers import TrainerCallback

    ours = [
        (one, name, method)
        for one in our_classes()
        if issubclass(one, TrainerCallback)
        for name, method in vars(one).items()
        if name.startswith("on_")
    ]
    unknown = [f"{one.__name__}.{name}" for one, name, _ in ours if not hasattr(TrainerCallback, name)]

    assert ours
    assert [] == unknown
    assert {"self args state control **kwargs"} == {
        parameters(getattr(TrainerCallback, name)) for _, name, _ in ours if name != "on_prediction_step"
    }


def test_options_of_accelerate_launch_are_flags_where_we_say_so():
    """A pasted line is taken apart without accelerate; each option takes as many words there as here."""
    from accelerate.commands.launch import launch_command_parser

    from launcher.cli import command_line

    takes = {
        name: 1 + (action.nargs is None)
        for action in launch_command_parser()._actions
        for name in action.option_strings
    }
    ours = command_line._ACCELERATE_SETTINGS
    known = {name: ours.width(name) for name in takes if ours.width(name)}

    assert {name: takes[name] for name in known} == known
    assert ours.flags | ours.valued <= known.keys()
    of_machines = command_line._ACCELERATE.keys() | command_line._ACCELERATE_FLAGS.keys()
    assert {name: 2 if name in command_line._ACCELERATE else 1 for name in of_machines} == {
        name: takes[name] for name in of_machines
    }


# -- no use without a row ----------------------------------------------------------------------------------------------


def test_every_private_name_of_a_library_has_a_row():
    """By the syntax of launcher/: names that begin with _ and are not our own; and no row is left of a use that is gone."""
    rows = {name.rpartition(".")[2].rpartition(":")[2] for name in SIGNATURES} | {
        n for ns in ATTRIBUTES.values() for n in ns
    }
    uses = {use.name: use for use in private_uses()}

    assert [] == sorted(str(use) for name, use in uses.items() if name not in rows), "add them to the table above"
    assert [] == sorted(n for n in rows if n.startswith("_") and n not in {*uses, "__init__"}), "no longer used"


def test_every_overridden_method_has_a_row():
    """Of a class of transformers, evaluate, torch, …: other than callbacks' events, which have a test of their own."""
    rows = {name.rpartition(".")[2] for name in SIGNATURES} | {n for names in ATTRIBUTES.values() for n in names}
    overridden = {
        f"{one.__name__}.{name} overrides {base.__module__}.{base.__qualname__}.{name}"
        for one in our_classes()
        for name in vars(one)
        if name not in rows
        and not name.startswith("on_")
        and not (name.startswith("__") and name != "__init__")
        and name not in ("_backward_cls", "_abc_impl")  # which metaclasses make
        for base in foreign_bases(one)
        if name in vars(base)
    }

    assert set() == overridden, "add them to the table above"


def test_every_part_of_deepspeeds_optimizers_has_a_row():
    """They have no underscore, and are no interface either: whatever is read of `optimizer` where it is DeepSpeed's."""
    rows = {name.rpartition(".")[2] for name in SIGNATURES} | {n for names in ATTRIBUTES.values() for n in names}
    of_torch = {"optimizer", "param_groups", "state"}
    read = {
        node.attr
        for path in [
            REPO / "launcher" / "worker" / "checkpoints" / "live.py",
            *sorted((REPO / "launcher" / "worker" / "engines").glob("*.py")),
        ]
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] == "optimizer"
    }

    assert read
    assert set() == read - rows - of_torch


@dataclass(frozen=True)
class Use:
    """Where we use a private name."""

    name: str
    text: str
    place: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def private_uses() -> Iterator[Use]:
    """Each private name of somebody else's in launcher/: an attribute, a name that is given as text, an import."""
    files = sorted((REPO / "launcher").rglob("*.py"))
    own = {name for path in files for name in defined(syntax(path))}
    inherited = {
        name for one in our_classes() for base in foreign_bases(one) for name in {*vars(base), *assigned(base)}
    }
    for path in files:
        is_worker = "worker" in path.parts
        for node in ast.walk(syntax(path)):
            place = f"{path.relative_to(REPO)}:{getattr(node, 'lineno', 0)}"
            for name in private_names(node):
                is_foreign = name not in own or (is_worker and name in inherited)
                if is_foreign and ast.unparse(node) not in DOCUMENTED:
                    yield Use(name, ast.unparse(node).splitlines()[0], place)


def private_names(node: ast.AST) -> list[str]:
    """The private names of whomever that a piece of code goes by; of a private module, any name."""
    names: list[str] = []
    if isinstance(node, ast.Attribute):
        names = [node.attr]
    elif isinstance(node, ast.FunctionDef):
        names = [node.name]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("launcher", "__future__")):
        names = [alias.name for alias in node.names]
        if any(map(is_private, node.module.split("."))):
            return names
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
        names = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return [name for name in names if is_private(name)]


def is_private(name: str) -> bool:
    return name.startswith("_") and name not in STANDARD and name != "_"


def defined(tree: ast.Module) -> Iterator[str]:
    """Names that a file of ours gives to something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


@functools.cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def our_classes() -> tuple[type, ...]:
    """Every class of launcher/worker."""
    files = [path.relative_to(REPO).with_suffix("") for path in (REPO / "launcher" / "worker").rglob("[!_]*.py")]
    modules = [importlib.import_module(".".join(path.parts)) for path in files]
    return tuple(c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__)


def foreign_bases(one: type) -> tuple[type, ...]:
    return tuple(
        base for base in one.__mro__ if base.__module__.partition(".")[0] not in ("launcher", "builtins", "typing")
    )


@functools.cache
def assigned(holder: Any) -> frozenset[str]:
    """Attributes that the code of a class or module assigns, to whatever object."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(holder)))
    except (OSError, TypeError):  # compiled
        return frozenset()
    stored = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    fields = {ast.unparse(n.target) for n in ast.walk(tree) if isinstance(n, ast.AnnAssign)}
    return frozenset(stored | fields)


def parameters(function: Any) -> str:
    """A signature as a row has it: names, `=` for a default, `*,` before those that go by name only."""
    out, is_keyword = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            is_keyword = True
            out.append("*,")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        out.append(f"{stars}{parameter.name}{'' if parameter.default is parameter.empty else '='}")
    return " ".join(out)
