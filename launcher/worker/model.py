"""The model of a recipe: found once per node, loaded in every rank, and asked for the loss and prediction of each row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from launcher import assets, modelfolder
from launcher import plan as plans
from launcher.errors import LaunchError
from launcher.worker import cache
from launcher.worker.engines import table
from launcher.worker.metrics import NO_LABEL

if TYPE_CHECKING:
    from datasets import Dataset

    from launcher.plan import Plan
    from launcher.spec import RecipeSpec
    from launcher.worker.prepared import Prepared

_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CONFIG_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_HUB_ID_PARTS = (1, 2)


# -- found, once per node ------------------------------------------------------------------------------------------


def num_labels(recipe: RecipeSpec) -> int:
    """How many labels there are; the schema sees to it that one of the two keys says so."""
    count = recipe.model.num_labels or len(recipe.model.label_names or ())
    assert count
    return count


def locate(recipe: RecipeSpec) -> Path:
    """The folder that holds the model: the one named, or the hub's snapshot, downloaded now if need be.

    A GGUF file is dequantised into a folder of its own, once.

    Raises:
        LaunchError: no such folder or id, no access, no network and not in the cache, or files that cannot be read.
    """
    name = recipe.model.name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder, recipe.model.gguf_file)
    if folder.is_file():
        raise LaunchError(f"model.name {name!r} is a file", hint="name its folder, and a GGUF file as model.gguf_file")
    if name.startswith(("/", ".", "~")) or len(name.split("/")) not in _HUB_ID_PARTS:
        raise LaunchError(f"model.name {name!r}: no such folder", hint="check the path, or name a hub id as org/model")
    folder = snapshot(name, recipe.model.revision, recipe.model.hub, gguf_file=recipe.model.gguf_file)
    return _checked(folder, recipe.model.gguf_file)


def tokenizer_folder(recipe: RecipeSpec, folder: Path) -> Path:
    """Where the tokenizer is: the model's own folder unless the recipe names another."""
    other = recipe.model.tokenizer
    if other is None:
        return folder
    path = Path(other).expanduser()
    return path if path.is_dir() else snapshot(other, None, recipe.model.hub, weights=False)


def load_tokenizer(recipe: RecipeSpec, folder: Path) -> Any:
    """The tokenizer, with a pad token: its own, else the end-of-text token, as for Llama 3, which has none.

    Classification pads on the right and causal-lm on the left, where answers then end together.

    Raises:
        LaunchError: it cannot be read, or has neither pad nor end-of-text token.
    """
    from transformers import AutoTokenizer

    path = tokenizer_folder(recipe, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LaunchError(f"{path}: the tokenizer cannot be read: {_first_line(error)}",
                          hint="the folder needs tokenizer.json; or name another with model.tokenizer") from error  # fmt: skip
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise LaunchError(f"{path}: the tokenizer has neither a pad nor an end-of-text token",
                              hint="add pad_token to its tokenizer_config.json")  # fmt: skip
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left" if recipe.model.task == "causal-lm" else "right"
    return tokenizer


def load_config(recipe: RecipeSpec, folder: Path) -> Any:
    """The model's config, as it lies there.

    Raises:
        LaunchError: it cannot be read, or it needs code from the model's folder, which is never run.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        remote = "trust_remote_code" in str(error)
        raise LaunchError(
            f"{folder}: the model's config cannot be read: {_first_line(error)}",
            hint="it needs code of its own, which is never run here; use a model that transformers knows"
            if remote
            else "name a folder with config.json, tokenizer.json and *.safetensors",
        ) from error


def set_pad_token(config: Any, tokenizer: Any) -> None:
    """A classification head looks for the last token that is no padding, and needs to know which that is."""
    for part in (config, config.get_text_config()):
        part.pad_token_id = tokenizer.pad_token_id


def look(recipe: RecipeSpec, device: str, folder: Path, *, is_trained: bool = False) -> tuple[str, ...]:
    """What a model's files say against the recipe, and for it. `is_trained`: its head is used as it is.

    Raises:
        LaunchError: as `modelfolder.check`.
    """
    wanted = plans.wanted(recipe, device)
    if is_trained:
        wanted = replace(wanted, name=str(folder), num_labels=None)
    return modelfolder.check(folder, assets.model_config(str(folder)), wanted).notes


def check_labels(recipe: RecipeSpec, config: Any, folder: Path, *, has_head: bool) -> None:
    """Refuse trained weights whose head has another number of labels than the recipe.

    Raises:
        LaunchError: names both numbers.
    """
    if recipe.model.task == "sequence-classification" and has_head and config.num_labels != num_labels(recipe):
        raise LaunchError(
            f"{folder}: was trained for {config.num_labels} labels, the recipe has {num_labels(recipe)}",
            hint="use the recipe that it was trained with; data.eval may be another",
        )


def notes(recipe: RecipeSpec, tokenizer: Any, config: Any) -> list[str]:
    """What the user should know about this tokenizer with this model.

    Raises:
        LaunchError: the tokenizer has ids that the model's embedding has no row for.
    """
    found = []
    vocab = getattr(config.get_text_config(), "vocab_size", None)
    if vocab is not None and len(tokenizer) > vocab:
        raise LaunchError(f"the tokenizer has {len(tokenizer)} tokens, the model's embedding only {vocab}",
                          hint="model.tokenizer must be the model's own")  # fmt: skip
    if vocab is not None and len(tokenizer) < 0.999 * vocab:
        found.append(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {vocab}: is it the model's own?"
        )
    if recipe.model.task == "causal-lm" and tokenizer.chat_template is None:
        found.append("the tokenizer has no chat template: prompts are plain text")
    return found


def with_weights(recipe: RecipeSpec, folder: Path, *, seed: int, notes: list[str] | None = None) -> tuple[Path, bool]:
    """The folder itself, or, where it has a config but no weights, a copy with random ones; and whether they are random.

    The copy is made once and cached, so that every rank, strategy and run starts from the same weights. Where a cached
    one was damaged, `notes` gets a sentence.
    """
    if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return folder, False
    config_text = (folder / "config.json").read_text(encoding="utf-8")
    key = cache.key([cache.FORMAT, config_text, recipe.model.task, num_labels(recipe), seed])

    def make(target: Path) -> None:
        config = load_config(recipe, folder)
        config.num_labels = num_labels(recipe)
        torch.manual_seed(seed)
        auto_class(recipe).from_config(config, dtype=torch.float32).save_pretrained(target)

    kept = cache.kept("random", key, make)
    if notes is not None:
        notes += kept.notes
    return kept.path, True


def _dequantised(folder: Path, gguf_file: str) -> Path:
    """The GGUF model as safetensors in bf16, with its tokenizer.

    Read once, since it takes minutes; and a model read from GGUF counts as quantized and refuses to be saved, so its
    weights go into a fresh one of the same config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    facts = (folder / gguf_file).stat()
    key = cache.key([cache.FORMAT, str(folder.resolve()), gguf_file, facts.st_size, facts.st_mtime_ns])

    def make(target: Path) -> None:
        options = {"gguf_file": gguf_file, "trust_remote_code": False}
        weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).state_dict()
        config = AutoConfig.from_pretrained(folder, **options)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(weights)
        # Files of a size that several cores can compare at once.
        model.save_pretrained(target, max_shard_size="2GB")
        AutoTokenizer.from_pretrained(folder, **options).save_pretrained(target)

    return cache.kept("gguf", key, make).path


def _checked(folder: Path, gguf_file: str | None) -> Path:
    if gguf_file is None:
        modelfolder.require_model(folder)
        check_folder(folder)
        return folder
    if not (folder / gguf_file).is_file():
        raise LaunchError(f"{folder / gguf_file}: no such file", hint="check model.gguf_file")
    try:
        return _dequantised(folder, gguf_file)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LaunchError(f"{folder / gguf_file}: cannot be read: {_first_line(error)}",
                          hint="pip install 'ascend-launch[gguf]', or name a folder of safetensors") from error  # fmt: skip


def check_folder(folder: Path) -> None:
    """Look at the files of a model folder without reading weights.

    Raises:
        LaunchError: no config, or weight files missing or cut short.
    """
    try:
        names = {p.name for p in folder.iterdir()}
    except OSError as error:
        raise LaunchError(f"{folder}: cannot be read: {error.strerror}", hint="check its permissions") from error
    if "config.json" not in names:
        raise LaunchError(f"{folder}: no config.json, so it is no model folder",
                          hint="name a folder with config.json, tokenizer.json and *.safetensors")  # fmt: skip
    index = folder / "model.safetensors.index.json"
    wanted = set(_weight_map(index).values()) if index.name in names else set()
    if wanted - names:
        raise LaunchError(f"{folder}: {len(wanted - names)} of its weight files are missing, the first is"
                          f" {min(wanted - names)}", hint="download the model again")  # fmt: skip
    for path in sorted(folder.glob("*.safetensors")):
        _check_safetensors(path)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise LaunchError(f"{index}: cannot be read: {_first_line(error)}", hint="download the model again") from error


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise LaunchError(f"{path}: cannot be read: {_first_line(error)}", hint="download the model again") from error


def snapshot(name: str, revision: str | None, hub: str, *, gguf_file: str | None = None, weights: bool = True) -> Path:
    """A hub's model as a folder of this machine, downloaded now if need be.

    Raises:
        LaunchError: no such id, no access, or no network and not in the cache.
    """
    if hub == "modelscope":
        return _modelscope_snapshot(name, revision)
    from huggingface_hub import errors, snapshot_download

    patterns = [*_CONFIG_FILES, *([gguf_file] if gguf_file else ["*.safetensors"] if weights else [])]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if weights and not gguf_file and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns, "pytorch_model*.bin*"]))
        return folder
    except errors.GatedRepoError as error:
        raise LaunchError(f"{name} is gated, and this machine's token has no access to it",
                          hint="accept its licence on its hub page, then set HF_TOKEN or run `hf auth login`") from error  # fmt: skip
    except errors.RepositoryNotFoundError as error:
        raise LaunchError(f"{name}: no such folder here and no such model on the hub",
                          hint="check the spelling; a private model needs HF_TOKEN") from error  # fmt: skip
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise LaunchError(
            f"{name} is not in this machine's cache, and the hub cannot be reached: {_first_line(error)}",
            hint=f"if {name} is a folder: there is none in {Path.cwd()}; if it is a hub id: set HF_ENDPOINT to a mirror, "
            "use model.hub=modelscope, or a local folder: model.name=DIR",
        ) from error


def _modelscope_snapshot(name: str, revision: str | None) -> Path:
    modelscope = _modelscope()
    try:
        return Path(modelscope.snapshot_download(name, **({"revision": revision} if revision else {})))
    except Exception as error:  # its errors have no common base
        raise LaunchError(f"{name}: ModelScope: {_first_line(error)}", hint="check the name and the network") from error


def modelscope_dataset(path: str, split: str, arguments: dict[str, Any]) -> Dataset:
    """A dataset of ModelScope as the `datasets` library's own.

    Raises:
        LaunchError: the extra is not installed, or ModelScope refuses.
    """
    modelscope = _modelscope()
    renamed = {"subset_name" if k == "name" else k: v for k, v in arguments.items()}
    try:
        rows = modelscope.MsDataset.load(path, split=split, **renamed)
    except Exception as error:  # its errors have no common base
        raise LaunchError(f"{path}: ModelScope: {_first_line(error)}", hint="check the name and the network") from error
    return rows.to_hf_dataset() if hasattr(rows, "to_hf_dataset") else rows


def _modelscope() -> Any:
    try:
        import modelscope
    except ImportError as error:
        raise LaunchError("model.hub is modelscope, but the modelscope package is not installed",
                          hint="pip install 'ascend-launch[modelscope]'") from error  # fmt: skip
    return modelscope


# -- loaded, in every rank -----------------------------------------------------------------------------------------


def load_model(plan: Plan, prepared: Prepared, tokenizer: Any) -> torch.nn.Module:
    """The model with its head, its adapter if any, and pad token.

    Under ZeRO-3 TrainingArguments must exist, and the process group must be joined: transformers then loads each
    weight into its shards, and no rank ever holds the model whole.

    Raises:
        LaunchError: the weights do not fit the task, or an extra is not installed.
    """
    recipe = plan.recipe
    labels: dict[str, Any] = {}
    if recipe.model.task == "sequence-classification":
        labels = {
            "num_labels": prepared.num_labels,
            "id2label": dict(enumerate(prepared.label_names)),
            "label2id": {name: i for i, name in enumerate(prepared.label_names)},
        }
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
        raise LaunchError(f"{prepared.model_path}: cannot be loaded for {recipe.model.task}: {_first_line(error)}",
                          hint="use a model whose architecture transformers has with that head") from error  # fmt: skip
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise LaunchError(
            f"{prepared.model_path}: its weights are not of the sizes that its config.json says",
            hint="download the model again, config.json with it",
        ) from error
    if other is not None:
        _replace_head(plan, model, prepared.num_labels)
        model.config.update(labels)
    table.of(plan).adapt_model(model)
    set_pad_token(model.config, tokenizer)
    if plan.use is not None:
        return _with_trained_adapter(plan, prepared, model, sorted(loading["missing_keys"]))
    return model if recipe.adapter is None else _with_adapter(plan, model)


def _other_head(plan: Plan, prepared: Prepared) -> int | None:
    """The labels of a head that the recipe's replaces: one of another size; None where the model's is kept, or has none."""
    if plan.use is not None or plan.recipe.model.task != "sequence-classification":
        return None
    folder = Path(prepared.model_path)
    there = modelfolder.head_labels(folder, assets.model_config(str(folder)) or {})
    return there if there != prepared.num_labels else None


def _replace_head(plan: Plan, model: Any, num_labels: int) -> None:
    """A fresh last layer, equal on all ranks. transformers' own ignore_mismatched_sizes does nothing under ZeRO-3."""
    there = {name for name, _ in model.named_parameters()}
    path = next((name for name in modelfolder.HEADS if name in there), "").removesuffix(".weight")
    if not path:
        raise LaunchError(
            f"the head of {type(model).__name__} has {model.config.num_labels} labels, the recipe {num_labels}",
            hint="name a model without a head, or one whose head has as many labels",
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


def auto_class(recipe: RecipeSpec) -> Any:
    """transformers' class for the recipe's task."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if recipe.model.task == "causal-lm" else AutoModelForSequenceClassification


def _with_adapter(plan: Plan, model: Any) -> torch.nn.Module:
    try:
        import peft
    except ImportError as error:
        raise LaunchError("the recipe has an adapter:, but peft is not installed",
                          hint="pip install 'ascend-launch[lora]'") from error  # fmt: skip
    adapter = plan.recipe.adapter
    assert adapter is not None
    options = adapter.model_dump(exclude={"type"})
    # peft appends to its lists, and takes no tuples.
    options |= {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    _require_modules(model, adapter.modules_to_save or ())
    task = "CAUSAL_LM" if plan.recipe.model.task == "causal-lm" else "SEQ_CLS"
    if plan.recomputes_activations:
        # The frozen embedding's output needs a gradient, or the recomputed blocks get none.
        model.enable_input_require_grads()
    try:
        model = peft.get_peft_model(model, peft.LoraConfig(task_type=task, **options))
    except ValueError as error:
        raise LaunchError(f"adapter: {_first_line(error)}", hint="name modules of this model, or all-linear") from error
    if not plan.computes_in_weights:
        _widen_trained(model)
    return model


def _require_modules(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Raises LaunchError where a name is no module's: peft passes such names over, and trains less than was asked for."""
    there = [name for name, _ in model.named_modules()]
    absent = [name for name in names if not any(module == name or module.endswith(f".{name}") for module in there)]
    if absent:
        known = ", ".join(sorted({module.rpartition(".")[2] for module in there} - {""} - set(map(str, range(1000)))))
        raise LaunchError(
            f"adapter.modules_to_save: the model has no module {absent[0]}", hint=f"its modules are {known}"
        )


def _widen_trained(model: torch.nn.Module) -> None:
    # The head that is trained beside the adapter came in the frozen weights' precision; see _load_dtype.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _with_trained_adapter(plan: Plan, prepared: Prepared, model: Any, missing: list[str]) -> torch.nn.Module:
    """A model that is not trained any more: with its adapter, if it has one, and with no weight left to chance."""
    path = prepared.adapter_path
    if path is None:
        if missing:
            raise LaunchError(f"{prepared.model_path}: has no {missing[0]} for {plan.recipe.model.task}",
                              hint="name a model that was trained for this task")  # fmt: skip
        return model
    try:
        import peft
    except ImportError as error:
        raise LaunchError(f"{path} is an adapter, but peft is not installed",
                          hint="pip install 'ascend-launch[lora]'") from error  # fmt: skip
    try:
        if plan.sharing.shards_parameters:
            raise ValueError("an adapter's model cannot be sharded here")
        # As if to be trained, so that the weights have the precision that they had in training.
        model = peft.PeftModel.from_pretrained(model, path, is_trainable=True)
    except (ValueError, RuntimeError, OSError) as error:
        raise LaunchError(f"{path}: does not fit {prepared.model_path}: {_first_line(error)}",
                          hint="name the model that it was trained on, as model.name of the recipe") from error  # fmt: skip
    renewed = {name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
               for name, _ in model.named_parameters() if ".modules_to_save." in name}  # fmt: skip
    if left := [name for name in missing if name not in renewed]:
        raise LaunchError(f"neither {path} nor its model has {left[0]}",
                          hint=f"name an adapter that was trained for {plan.recipe.model.task}")  # fmt: skip
    if not plan.computes_in_weights:
        _widen_trained(model)
    return model


# -- asked for losses and predictions ------------------------------------------------------------------------------


class Task(Protocol):
    """What a trainer needs from a task. Batches are dicts of tensors; every method is per row, never reduced."""

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Rows (input_ids, labels) as one padded batch."""

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of each row, fp32, shape (rows,)."""

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Predicted label (int64; see `labels_of`) and loss (fp32) of each row, both of shape (rows,), on the batch's
        device."""

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Score of each label for each row, fp32, shape (rows, labels); their softmax is the labels' probability. The
        labels of the batch are not looked at."""


def labels_of(scores: Tensor) -> Tensor:
    """The label of each row's highest score; NO_LABEL where one is NaN or infinite, which argmax would take for it."""
    return torch.where(scores.isfinite().all(-1), scores.argmax(-1), NO_LABEL)


def task(plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Task:
    """The recipe's task, for this model."""
    multiple = plans.CARD_PADDING if plan.device == "npu" else 1
    smoothing = float(plan.training_arguments.get("label_smoothing_factor", 0.0))
    if plan.recipe.model.task == "sequence-classification":
        return Classification(tokenizer.pad_token_id, multiple, smoothing, needs_mask=not _hides_padding(model))
    assert prepared.answer_ids is not None
    accepted = set(inspect.signature(_base(model).forward).parameters)
    return Answering(tokenizer.pad_token_id, multiple, smoothing, prepared.answer_ids, accepted)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _hides_padding(model: Any) -> bool:
    """Whether padding on the right changes nothing without a mask.

    In a decoder no token sees a later one, and transformers' head for decoders finds the last token by the pad id. The
    fused attention is then told to be causal, instead of reading a mask of (rows, 1, length, length).
    """
    from transformers.modeling_layers import GenericForSequenceClassification

    base = _base(model)
    attentions = [m.is_causal for m in base.modules() if hasattr(m, "is_causal")]
    return (
        isinstance(base, GenericForSequenceClassification)
        and base.config._attn_implementation == "sdpa"
        and bool(attentions)
        and all(attentions)
    )


class Classification:
    """A classification head over the last token (decoders) or the pooled text (encoders)."""

    def __init__(self, pad_id: int, multiple: int, smoothing: float, *, needs_mask: bool = True) -> None:
        self._pad_id, self._multiple, self._smoothing = pad_id, multiple, smoothing
        self._needs_mask = needs_mask

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [row["input_ids"] for row in rows]
        input_ids, mask = pad(ids, self._pad_id, self._multiple, left=False)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": torch.tensor([r["labels"] for r in rows])}

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            self.scores(model, batch), batch["labels"], reduction="none", label_smoothing=self._smoothing
        )

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.scores(model, batch)
        return labels_of(logits), functional.cross_entropy(logits, batch["labels"], reduction="none")

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        mask = {"attention_mask": batch["attention_mask"]} if self._needs_mask else {}
        logits: Tensor = model(input_ids=batch["input_ids"], **mask).logits
        return logits.float()


class Answering:
    """A causal LM that writes the label's answer.

    The loss of a row is the mean over its answer's tokens, end of turn included. A label's score is the log-probability
    of its answer; the highest wins. Where no answer begins another the end of turn is left out of the score, which is
    then the probability that what the model writes starts with that answer.

    Rows are padded on the left, so answers end together and logits are computed for those last positions alone: with
    a vocabulary of 128k they would else be the largest tensor of all.
    """

    def __init__(
        self, pad_id: int, multiple: int, smoothing: float, answer_ids: Sequence[Sequence[int]], accepted: set[str]
    ) -> None:
        self._pad_id, self._multiple, self._smoothing = pad_id, multiple, smoothing
        self._answers = [list(a) for a in answer_ids]
        self._slices_itself = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted
        stems = [a[:-1] for a in self._answers]
        self._prefix_free = all(
            s[: len(o)] != o for i, s in enumerate(stems) for j, o in enumerate(stems) if i != j
        ) and all(stems)
        self._one_token = self._prefix_free and all(len(s) == 1 for s in stems)

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self._batch(rows, [self._answers[row["labels"]] for row in rows])

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = self._answer_logits(model, batch)
        return self._mean_loss(logits, batch["targets"], self._smoothing)

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self._answer_logits(model, batch)
        losses = self._mean_loss(logits, batch["targets"], 0.0)
        return labels_of(self._scores(model, batch, logits)), losses

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._scores(model, batch, self._answer_logits(model, batch) if self._one_token else None)

    def _scores(self, model: torch.nn.Module, batch: dict[str, Tensor], logits: Tensor | None) -> Tensor:
        if self._one_token:
            assert logits is not None
            # All answers share the prompt, so one forward scores them all at the position of their first token.
            first = (batch["targets"] != IGNORED).int().argmax(-1)
            here = logits[torch.arange(len(first), device=first.device), first]
            return here[:, [a[0] for a in self._answers]]
        return torch.stack([self._score(model, batch, answer) for answer in self._answers], dim=-1)

    def _score(self, model: torch.nn.Module, batch: dict[str, Tensor], answer: list[int]) -> Tensor:
        prompts = [
            ids[mask.bool()][: int(length)].tolist()
            for ids, mask, length in zip(
                batch["input_ids"], batch["attention_mask"], batch["prompt_length"], strict=True
            )
        ]
        candidate = self._batch([{"input_ids": p, "labels": 0} for p in prompts], [answer] * len(prompts))
        candidate = {k: v.to(batch["input_ids"].device) for k, v in candidate.items()}
        scored = candidate["targets"].clone()
        if self._prefix_free:
            scored[:, -1] = IGNORED
        return -self._token_losses(self._answer_logits(model, candidate), scored, 0.0).sum(-1)

    def _batch(self, rows: Sequence[dict[str, Any]], answers: list[list[int]]) -> dict[str, Tensor]:
        ids = [[*row["input_ids"], *answer] for row, answer in zip(rows, answers, strict=True)]
        input_ids, mask = pad(ids, self._pad_id, self._multiple, left=True)
        longest = max(map(len, answers))
        targets = torch.tensor([[IGNORED] * (longest - len(a)) + a for a in answers])
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "targets": targets,
            "prompt_length": torch.tensor([len(row["input_ids"]) for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    def _answer_logits(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Logits that predict the answer positions: (rows, answer length, vocabulary), fp32."""
        mask, length = batch["attention_mask"], batch["targets"].shape[1]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        keep = {"logits_to_keep": length + 1} if self._slices_itself else {}
        logits: Tensor = model(**inputs, **keep).logits
        return logits[:, -length - 1 : -1].float()

    def _mean_loss(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return self._token_losses(logits, targets, smoothing).sum(-1) / (targets != IGNORED).sum(-1)

    @staticmethod
    def _token_losses(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
        )
        return losses.view_as(targets)


IGNORED = -100
"""A target that no loss is taken of."""


def pad(rows: Sequence[Sequence[int]], pad_id: int, multiple: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 (rows, longest row rounded up to `multiple`)."""
    longest = max(map(len, rows))
    width = -(-longest // multiple) * multiple
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids, mask


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
