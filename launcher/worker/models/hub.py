"""Models and data that are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.text import first_line

if TYPE_CHECKING:
    from datasets import Dataset


_CONFIG_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
HUB_ID_PARTS = (1, 2)


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
        raise LaunchError(
            "{name} is gated, and this machine's token has no access to it",
            hint="accept its licence on its hub page, then set HF_TOKEN or run `hf auth login`",
            name=name,
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise LaunchError(
            "{name}: no such folder here and no such model on the hub",
            hint="check the spelling; a private model needs HF_TOKEN",
            name=name,
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise LaunchError(
            "{name} is not in this machine's cache, and the hub cannot be reached: {first_line}",
            hint="if {name} is a folder: there is none in {cwd}; if it is a hub id: set HF_ENDPOINT to a "
            "mirror, use model.hub=modelscope, or a local folder: model.name=DIR",
            name=name,
            first_line=first_line(error),
            cwd=Path.cwd(),
        ) from error


def _modelscope_snapshot(name: str, revision: str | None) -> Path:
    modelscope = _modelscope()
    try:
        return Path(modelscope.snapshot_download(name, **({"revision": revision} if revision else {})))
    except Exception as error:  # its errors have no common base
        raise LaunchError(
            "{name}: ModelScope: {first_line}",
            hint="check the name and the network",
            name=name,
            first_line=first_line(error),
        ) from error


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
        raise LaunchError(
            "{path}: ModelScope: {first_line}",
            hint="check the name and the network",
            path=path,
            first_line=first_line(error),
        ) from error
    return rows.to_hf_dataset() if hasattr(rows, "to_hf_dataset") else rows


def _modelscope() -> Any:
    try:
        import modelscope
    except ImportError as error:
        raise LaunchError(
            "model.hub is modelscope, but the modelscope package is not installed",
            hint="pip install 'ascend-launch[modelscope]'",
        ) from error
    return modelscope
