"""The folder that a model is loaded from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models.folder import require_model
from launcher.recipe.schema import num_labels
from launcher.text import first_line
from launcher.worker.data import cache
from launcher.worker.models.hub import HUB_ID_PARTS, snapshot
from launcher.worker.tasks.table import auto_class

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec


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
        raise LaunchError(
            "model.name {name!r} is a file", hint="name its folder, and a GGUF file as model.gguf_file", name=name
        )
    if name.startswith(("/", ".", "~")) or len(name.split("/")) not in HUB_ID_PARTS:
        raise LaunchError(
            "model.name {name!r}: no such folder", hint="check the path, or name a hub id as org/model", name=name
        )
    folder = snapshot(name, recipe.model.revision, recipe.model.hub, gguf_file=recipe.model.gguf_file)
    return _checked(folder, recipe.model.gguf_file)


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
            Message(
                "{folder}: the model's config cannot be read: {first_line}", folder=folder, first_line=first_line(error)
            ),
            hint="it needs code of its own, which is never run here; use a model that transformers knows"
            if remote
            else "name a folder with config.json, tokenizer.json and *.safetensors",
        ) from error


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
        if recipe.task.has_labels:
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
        require_model(folder)
        check_folder(folder)
        return folder
    if not (folder / gguf_file).is_file():
        raise LaunchError("{folder}: no such file", hint="check model.gguf_file", folder=folder / gguf_file)
    try:
        return _dequantised(folder, gguf_file)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LaunchError(
            "{folder}: cannot be read: {first_line}",
            hint="pip install 'ascend-launch[gguf]', or name a folder of safetensors",
            folder=folder / gguf_file,
            first_line=first_line(error),
        ) from error


def check_folder(folder: Path) -> None:
    """Look at the files of a model folder without reading weights.

    Raises:
        LaunchError: no config, or weight files missing or cut short.
    """
    try:
        names = {p.name for p in folder.iterdir()}
    except OSError as error:
        raise LaunchError(
            "{folder}: cannot be read: {problem}", hint="check its permissions", folder=folder, problem=error.strerror
        ) from error
    if "config.json" not in names:
        raise LaunchError(
            "{folder}: no config.json, so it is not a model folder",
            hint="name a folder with config.json, tokenizer.json and *.safetensors",
            folder=folder,
        )
    index = folder / "model.safetensors.index.json"
    wanted = set(_weight_map(index).values()) if index.name in names else set()
    if wanted - names:
        raise LaunchError(
            "{folder}: {num_wanted} of its weight files are missing, the first is {lowest}",
            hint="download the model again",
            folder=folder,
            num_wanted=len(wanted - names),
            lowest=min(wanted - names),
        )
    for path in sorted(folder.glob("*.safetensors")):
        _check_safetensors(path)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise LaunchError(
            "{index}: cannot be read: {first_line}",
            hint="download the model again",
            index=index,
            first_line=first_line(error),
        ) from error


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise LaunchError(
            "{path}: cannot be read: {first_line}",
            hint="download the model again",
            path=path,
            first_line=first_line(error),
        ) from error
