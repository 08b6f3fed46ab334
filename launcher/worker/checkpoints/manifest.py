"""A checkpoint on disk: which one is whole, and what is wrong with another."""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from launcher import __version__, confined
from launcher.errors import LaunchError
from launcher.files import read_json, write_json
from launcher.messages import Message
from launcher.worker.checkpoints.tensorfile import TensorFile, Written
from launcher.worker.runtime import disk

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


FORMAT = 1
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
UNFINISHED = "checkpoint-is-incomplete.txt"
"""transformers' JIT checkpointing leaves this beside files that it could not finish (trainer_jit_checkpoint.py)."""
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
NAME = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")


MAX_FILES = 100_000
"""Of one checkpoint; each rank has one, and the weights a few hundred."""


FOREIGN = (KeyError, TypeError, AttributeError, ValueError, RecursionError)
"""What a manifest that is JSON and otherwise anything at all makes of reading it."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was found whole."""

    path: Path
    step: int
    manifest: dict[str, Any]


@dataclass(frozen=True)
class PassedOver:
    """A folder that looks like a checkpoint and must not be used."""

    path: Path
    reason: str


def newest_whole(folder: Path, *, for_resuming: bool = True) -> tuple[Checkpoint | None, list[PassedOver]]:
    """The newest checkpoint whose every byte is what was written, and the newer ones that are not, with the reasons.

    Reads every file of each checkpoint that it looks at, in threads.
    """
    passed: list[PassedOver] = []
    for step, path in reversed(listed(folder)):
        checked = check(path, step, for_resuming=for_resuming)
        if isinstance(checked, Checkpoint):
            return checked, passed
        passed.append(checked)
    return None, passed


def check(path: Path, step: int, *, for_resuming: bool = True) -> Checkpoint | PassedOver:
    """Whether one folder is whole, with the first reason why not. One of weights alone is whole too, unless a training
    is to go on from it."""
    try:
        if path.is_symlink():
            return PassedOver(path, "is a link; ascend-launch makes folders")
        manifest = read_json(path / MANIFEST)
        reason = _wrong_manifest(path, step, manifest, for_resuming) or _wrong_files(path, manifest)
    except OSError as error:
        return PassedOver(path, Message("cannot be read: {problem}", problem=error.strerror))
    except FOREIGN:
        return PassedOver(path, Message("{manifest} was written by something else", manifest=MANIFEST))
    return PassedOver(path, reason) if reason else Checkpoint(path, step, manifest)


def changed(folder: Path) -> str | None:
    """What is not as it was written in a folder with a manifest of ascend-launch, be it a finished model's or a
    checkpoint's under another name; None where all is."""
    try:
        manifest = read_json(folder / MANIFEST)
        return wrong_seal(folder, manifest) or _wrong_bytes(folder, manifest)
    except OSError as error:
        return Message("cannot be read: {problem}", problem=error.strerror)
    except FOREIGN:
        return Message("{manifest} was written by something else", manifest=MANIFEST)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells; -1 for another name, which no manifest agrees with."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _wrong_manifest(path: Path, step: int, manifest: Any, for_resuming: bool) -> str | None:
    if (path / UNFINISHED).exists():
        return Message("is marked as incomplete by {unfinished}", unfinished=UNFINISHED)
    if reason := wrong_seal(path, manifest):
        return reason
    if manifest["step"] != step:
        return Message("its manifest is of step {step}", step=manifest["step"])
    if not manifest["resumable"] and for_resuming:
        return Message("holds weights only, since save_only_model is set")
    names = {row["name"] for row in manifest["files"]}
    needed = {TRAINER_STATE, *(state_files(manifest))}
    missing = sorted(needed - names)
    return Message("its manifest has no {missing}", missing=missing[0]) if missing else None


def wrong_seal(path: Path, manifest: Any) -> str | None:
    if manifest is None:
        exists = (path / MANIFEST).exists()
        return (
            Message("{manifest} is not readable", manifest=MANIFEST)
            if exists
            else Message("has no {manifest}: its save was cut short, or is not ours", manifest=MANIFEST)
        )
    if not isinstance(manifest, dict) or manifest.get("digest") != _digest(manifest):
        return Message("{manifest} was changed after it was written", manifest=MANIFEST)
    if manifest["format"] != FORMAT:
        return Message(
            "was written by ascend-launch {launcher} in format {format}, not {value}",
            launcher=manifest["launcher"],
            format=manifest["format"],
            value=FORMAT,
        )
    return _wrong_rows(path, manifest)


def _wrong_rows(path: Path, manifest: dict[str, Any]) -> str | None:
    """Whoever can write a manifest can write its digest: it may name files that are elsewhere, and ranks without number."""
    rows, ranks = manifest["files"], manifest["world_size"] if manifest["resumable"] else 0
    if not isinstance(rows, list) or not isinstance(ranks, int) or not 0 <= ranks <= len(rows) <= MAX_FILES:
        return Message("{manifest} was written by something else", manifest=MANIFEST)
    for name in (row["name"] for row in rows):
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name:
            return Message(
                "{manifest} names {name!r}, which is not a file of this folder", manifest=MANIFEST, name=name[:100]
            )
        if any((path / "/".join(parts[: i + 1])).is_symlink() for i in range(len(parts))):
            return Message("{name} is a link; ascend-launch writes files", name=name)
    return None


def _wrong_files(path: Path, manifest: dict[str, Any]) -> str | None:
    pickles = sorted(p.name for p in path.rglob("*") if p.suffix in PICKLES)
    if pickles:
        return Message(
            "holds {pickle}, a pickle, which can run code when it is read; ascend-launch writes none", pickle=pickles[0]
        )
    if reason := _wrong_bytes(path, manifest):
        return reason
    # A vocabulary that leads to another file would be copied into every model made of it.
    kinds = ((p, confined.kind(p.lstat().st_mode)) for p in sorted(path.rglob("*")))
    if odd := next(((p, kind) for p, kind in kinds if kind not in ("", "a folder")), None):
        return Message(
            "holds {odd}, which is {second_odd}; ascend-launch writes files",
            odd=odd[0].relative_to(path),
            second_odd=odd[1],
        )
    # Whoever can change a file can change the manifest; what is not a safetensors file is not opened any further.
    return next(filter(None, (_unreadable(path / name) for name in state_files(manifest))), None)


def _wrong_bytes(path: Path, manifest: dict[str, Any]) -> str | None:
    for row in manifest["files"]:
        try:
            status = (path / row["name"]).lstat()
        except OSError:
            return Message("{name} is missing", name=row["name"])
        if confined.kind(status.st_mode):
            return Message("{name} is {kind}, not a file", name=row["name"], kind=confined.kind(status.st_mode))
        size = status.st_size
        if size != row["size"]:
            return Message("{name} has {size} bytes of {row_size}", name=row["name"], size=size, row_size=row["size"])
    names = [row["name"] for row in manifest["files"]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_sha256_or_error, [path / name for name in names]))
    for row, digest in zip(manifest["files"], digests, strict=True):
        if digest != row["sha256"]:
            return (
                f"{row['name']} {digest}"
                if " " in digest
                else Message("{name} is damaged: its SHA-256 differs", name=row["name"])
            )
    return None


def _unreadable(path: Path) -> str | None:
    try:
        TensorFile(path)
    except LaunchError as error:
        return error.what.removeprefix(f"{path.parent}/")
    return None


def seal(folder: Path, facts: dict[str, Any], files: list[Written]) -> None:
    """Write the manifest, which makes a folder of files a checkpoint."""
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "launcher": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **facts,
        "files": [asdict(file) for file in sorted(files, key=lambda f: f.name)],
    }
    write_json(folder / MANIFEST, manifest | {"digest": _digest(manifest)})


def state_file(rank: int) -> str:
    return f"state_{rank}.safetensors"


def state_files(manifest: dict[str, Any]) -> list[str]:
    """The names of the ranks' files; none where weights alone were saved."""
    return [state_file(rank) for rank in range(manifest["world_size"])] if manifest["resumable"] else []


def listed(folder: Path) -> list[tuple[int, Path]]:
    """Folders named checkpoint-<step>, by step."""
    if not folder.is_dir():
        return []
    named = [(NAME.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()]
    return sorted((int(match[1]), path) for match, path in named if match)


def sha256(path: Path) -> str:
    with os.fdopen(confined.open_read(path), "rb", buffering=0) as file:
        return disk.sha256(file)


def _sha256_or_error(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        return Message("cannot be read: {problem}", problem=error.strerror)


def _digest(manifest: dict[str, Any]) -> str:
    rest = {k: v for k, v in manifest.items() if k != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def manifest_facts(plan: Plan, step: int, epoch: float | None, *, resumable: bool) -> dict[str, Any]:
    """What a manifest says of the training beside its files."""
    return {
        "step": step,
        "epoch": epoch,
        "world_size": plan.world_size,
        "strategy": plan.strategy,
        "precision": plan.precision,
        "recipe": recipe_hash(plan),
        "resumable": resumable,
    }


_DECIDES = {"model", "data", "training", "adapter", "loss", "early_stopping"}


def recipe_hash(plan: Plan) -> str:
    """Of what decides the course of a training: model, data and training, not on what it runs."""
    recipe = plan.recipe.model_dump(mode="json", include=_DECIDES)
    recipe["global_batch_size"] = plan.batch.global_size
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
