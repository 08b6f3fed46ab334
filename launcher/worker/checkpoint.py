"""Checkpoints that are whole or are not there: written aside, checked, published by one rename, and read back exactly.

A checkpoint is a folder `checkpoint-<step>` with the model in Hugging Face format, trainer_state.json, one
`state_<rank>.safetensors` a rank (see `state`), and manifest.json, which names every file with its size and SHA-256.
Nothing in it is a pickle, so reading one runs no code.

Nothing is lost by a save that fails: the older checkpoints are untouched, what was written aside is removed, and training
goes on, since its state is whole in memory and a disk that is full now may have room at the next save. Every such
failure is an event, with how many came in a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import transformers
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_utils import SaveStrategy

from launcher import __version__, confined, records, rundir
from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.worker import disk, state
from launcher.worker.losswatch import NAN_REASONS
from launcher.worker.preempt import EvaluationStopped
from launcher.worker.snapshot import Snapshot
from launcher.worker.state import Live, Saved
from launcher.worker.tensorfile import TensorFile, Written, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.plan import Plan
    from launcher.worker.callbacks import Events
    from launcher.worker.heartbeat import Heart
    from launcher.worker.peers import Peers
    from launcher.worker.schedule import Schedule

FORMAT = 1
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
UNFINISHED = "checkpoint-is-incomplete.txt"
"""transformers' JIT checkpointing leaves this beside files that it could not finish (trainer_jit_checkpoint.py)."""
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")
_ASIDE, _OLD, _BEFORE = ".tmp-", ".old-", ".before-"
_LEFT = re.compile(rf"({re.escape(_ASIDE)}|{re.escape(_OLD)}|{re.escape(_BEFORE)}){_NAME.pattern}")
MAX_FILES = 100_000
"""Of one checkpoint; each rank has one, and the weights a few hundred."""
_LOOK_NUMBERS = 1 << 24
"""So many of a weight's numbers are looked at at a time for NaN."""


# -- finding -------------------------------------------------------------------------------------------------------

_FOREIGN = (KeyError, TypeError, AttributeError, ValueError, RecursionError)
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
        found = check(path, step, for_resuming=for_resuming)
        if isinstance(found, Checkpoint):
            return found, passed
        passed.append(found)
    return None, passed


def check(path: Path, step: int, *, for_resuming: bool = True) -> Checkpoint | PassedOver:
    """Whether one folder is whole, with the first reason why not. One of weights alone is whole too, unless a training
    is to go on from it."""
    try:
        if path.is_symlink():
            return PassedOver(path, "is a link; ascend-launch makes folders")
        manifest = rundir.read_json(path / MANIFEST)
        reason = _wrong_manifest(path, step, manifest, for_resuming) or _wrong_files(path, manifest)
    except OSError as error:
        return PassedOver(path, f"cannot be read: {error.strerror}")
    except _FOREIGN:
        return PassedOver(path, f"{MANIFEST} was written by something else")
    return PassedOver(path, reason) if reason else Checkpoint(path, step, manifest)


def changed(folder: Path) -> str | None:
    """What is not as it was written in a folder with a manifest of ours, be it a finished model's or a checkpoint's under
    another name; None where all is."""
    try:
        manifest = rundir.read_json(folder / MANIFEST)
        return _wrong_seal(folder, manifest) or _wrong_bytes(folder, manifest)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except _FOREIGN:
        return f"{MANIFEST} was written by something else"


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells; -1 for another name, which no manifest agrees with."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _wrong_manifest(path: Path, step: int, manifest: Any, for_resuming: bool) -> str | None:
    if (path / UNFINISHED).exists():
        return f"is marked as incomplete by {UNFINISHED}"
    if reason := _wrong_seal(path, manifest):
        return reason
    if manifest["step"] != step:
        return f"its manifest is of step {manifest['step']}"
    if not manifest["resumable"] and for_resuming:
        return "holds weights only, since save_only_model is set"
    names = {row["name"] for row in manifest["files"]}
    needed = {TRAINER_STATE, *(state_files(manifest))}
    missing = sorted(needed - names)
    return f"its manifest has no {missing[0]}" if missing else None


def _wrong_seal(path: Path, manifest: Any) -> str | None:
    if manifest is None:
        there = (path / MANIFEST).exists()
        return f"{MANIFEST} is not readable" if there else f"has no {MANIFEST}: its save was cut short, or is not ours"
    if not isinstance(manifest, dict) or manifest.get("digest") != _digest(manifest):
        return f"{MANIFEST} was changed after it was written"
    if manifest["format"] != FORMAT:
        return f"was written by ascend-launch {manifest['launcher']} in format {manifest['format']}, not {FORMAT}"
    return _wrong_rows(path, manifest)


def _wrong_rows(path: Path, manifest: dict[str, Any]) -> str | None:
    """Whoever can write a manifest can write its digest: it may name files that are elsewhere, and ranks without number."""
    rows, ranks = manifest["files"], manifest["world_size"] if manifest["resumable"] else 0
    if not isinstance(rows, list) or not isinstance(ranks, int) or not 0 <= ranks <= len(rows) <= MAX_FILES:
        return f"{MANIFEST} was written by something else"
    for name in (row["name"] for row in rows):
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name:
            return f"{MANIFEST} names {name[:100]!r}, which is no file of this folder"
        if any((path / "/".join(parts[: i + 1])).is_symlink() for i in range(len(parts))):
            return f"{name} is a link; ascend-launch writes files"
    return None


def _wrong_files(path: Path, manifest: dict[str, Any]) -> str | None:
    pickles = sorted(p.name for p in path.rglob("*") if p.suffix in PICKLES)
    if pickles:
        return f"holds {pickles[0]}, a pickle, which can run code when it is read; ascend-launch writes none"
    if reason := _wrong_bytes(path, manifest):
        return reason
    # A vocabulary that leads to another file would be copied into every model made of it.
    kinds = ((p, confined.kind(p.lstat().st_mode)) for p in sorted(path.rglob("*")))
    if odd := next(((p, kind) for p, kind in kinds if kind not in ("", "a folder")), None):
        return f"holds {odd[0].relative_to(path)}, which is {odd[1]}; ascend-launch writes files"
    # Whoever can change a file can change the manifest; what is not a safetensors file is not opened any further.
    return next(filter(None, (_unreadable(path / name) for name in state_files(manifest))), None)


def _wrong_bytes(path: Path, manifest: dict[str, Any]) -> str | None:
    for row in manifest["files"]:
        try:
            found = (path / row["name"]).lstat()
        except OSError:
            return f"{row['name']} is missing"
        if confined.kind(found.st_mode):
            return f"{row['name']} is {confined.kind(found.st_mode)}, not a file"
        size = found.st_size
        if size != row["size"]:
            return f"{row['name']} has {size} bytes of {row['size']}"
    names = [row["name"] for row in manifest["files"]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_sha256_or_error, [path / name for name in names]))
    for row, digest in zip(manifest["files"], found, strict=True):
        if digest != row["sha256"]:
            return f"{row['name']} {digest}" if " " in digest else f"{row['name']} is damaged: its SHA-256 differs"
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
    rundir.write_json(folder / MANIFEST, manifest | {"digest": _digest(manifest)})


def state_file(rank: int) -> str:
    return f"state_{rank}.safetensors"


def state_files(manifest: dict[str, Any]) -> list[str]:
    """The names of the ranks' files; none where weights alone were saved."""
    return [state_file(rank) for rank in range(manifest["world_size"])] if manifest["resumable"] else []


def listed(folder: Path) -> list[tuple[int, Path]]:
    """Folders named checkpoint-<step>, by step."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()]
    return sorted((int(match[1]), path) for match, path in named if match)


def _sha256(path: Path) -> str:
    with os.fdopen(confined.open_read(path), "rb", buffering=0) as file:
        return disk.sha256(file)


def _sha256_or_error(path: Path) -> str:
    try:
        return _sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _digest(manifest: dict[str, Any]) -> str:
    rest = {k: v for k, v in manifest.items() if k != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# -- saving --------------------------------------------------------------------------------------------------------


class Store:
    """The run's checkpoints, as all its ranks see them: find the one to go on from, save, and keep the number small."""

    def __init__(self, folder: Path, plan: Plan, peers: Peers, events: Events, heart: Heart) -> None:
        # Nodes may have folders of their own for logs; checkpoints are one folder, the first rank's.
        self.folder = Path(peers.from_first(str(folder)))
        self.peers = peers
        self._plan = plan
        self._heart = heart
        self.events = events
        self.failures_in_a_row = 0
        self.saved_step = -1
        """Of the newest checkpoint that is published or was resumed from."""

    def find(self) -> Checkpoint | None:
        """The checkpoint to resume from, the same on every rank; says which were passed over and why.

        The first rank reads and verifies. What a killed save left behind is removed.
        """
        self._heart.beat("finding a checkpoint")
        found: Checkpoint | None = None
        if self.peers.index == 0:
            _remove_leftovers(self.folder)
            found, passed = newest_whole(self.folder)
            for one in passed:
                self.events.emit(records.Note(text=f"passed over {one.path.name}: {one.reason}"))
        found = self.peers.from_first(found)
        if found is not None:
            self.saved_step = found.step
        return found

    def save(self, snapshot: Snapshot) -> bool:
        """Write and publish a checkpoint; every rank must call it. Says so when it fails, and returns False.

        Raises:
            LaunchError: a weight is NaN.
        """
        start_s, step = time.monotonic(), snapshot.step
        aside = self.folder / f"{_ASIDE}checkpoint-{step}"
        # Sharded weights are gathered here, before any file: a rank whose disk fails must not leave the others waiting.
        self._heart.beat("saving: gathering weights")
        weights = snapshot.gathered_weights()
        self._refuse_nan(step, weights)
        self._heart.beat("saving: writing")
        outcomes = self.peers.gather(_try(lambda: self._write(snapshot, weights, aside)))
        self._heart.beat("saving: publishing")
        failure = next((f"rank {r}: {o}" for r, o in enumerate(outcomes) if isinstance(o, str)), None)
        if failure is None and self.peers.index == 0:
            files = [file for outcome in outcomes for file in outcome]
            failed = _try(lambda: self._publish(snapshot, aside, files))
            failure = f"rank 0: {failed}" if isinstance(failed, str) else None
        failure = self.peers.from_first(failure)
        if failure is not None:
            self._abandon(step, aside, failure)
            return False
        self.failures_in_a_row, self.saved_step = 0, step
        seconds = round(time.monotonic() - start_s, 3)
        path = self.folder / f"checkpoint-{step}"
        self.events.emit(records.Save(step=step, path=str(path), seconds=seconds))
        if self.peers.index == 0:
            self._rotate(snapshot)
        return True

    def _refuse_nan(self, step: int, weights: Any) -> None:
        """Raise LaunchError where a weight is NaN: a checkpoint of it would be gone on from, and older ones removed for it.
        The loss tells only at the step after."""
        bad = self.peers.from_first(_not_a_number(weights) if self.peers.index == 0 else None)
        if bad is not None:
            raise LaunchError(
                f"{bad} is not a number (NaN) after step {step}; no checkpoint of it is written",
                hint=NAN_REASONS[self._plan.precision],
                exit_code=EXIT_JOB_FAILED,
                is_consequence=self.peers.index != 0,
            )

    def _write(self, snapshot: Snapshot, weights: Any, aside: Path) -> list[Written]:
        rundir.make_folder(aside)
        written: list[Written] = []
        if snapshot.is_resumable:
            tensors, tree = snapshot.state_of_rank()
            written.append(write(aside / state_file(self.peers.index), tensors, tree))
        if self.peers.index == 0:
            snapshot.write_model(aside, weights)
            rundir.write_json(aside / TRAINER_STATE, snapshot.trainer_state())
            known = {file.name for file in written}
            others = [p for p in sorted(aside.rglob("*")) if p.is_file() and not p.name.startswith("state_")]
            written += [_synced(p, aside) for p in others if p.name not in known]
        return written

    def _publish(self, snapshot: Snapshot, aside: Path, files: list[Written]) -> None:
        for file in files:
            if not (aside / file.name).exists():
                raise OSError(0, f"{file.name} is not on the first node: all nodes must share {self.folder}")
        seal(aside, manifest_facts(self._plan, snapshot.step, snapshot.epoch, resumable=snapshot.is_resumable), files)
        sync_folder(aside)
        # One of that name may be there: passed over, or of the same step before an interruption.
        _replace(self.folder / f"checkpoint-{snapshot.step}", aside)

    def _abandon(self, step: int, aside: Path, failure: str) -> None:
        self.failures_in_a_row += 1
        if self.peers.index == 0:
            _forget(aside)
        count = f" ({self.failures_in_a_row} in a row)" if self.failures_in_a_row > 1 else ""
        kept = f"checkpoint-{self.saved_step} is still there" if self.saved_step >= 0 else "there is no older one"
        self.events.emit(
            records.Note(
                text=f"step {step} could not be saved{count}: {failure}; {kept}, and training goes on",
                failed_saves=self.failures_in_a_row,
            )
        )

    def _rotate(self, snapshot: Snapshot) -> None:
        limit = snapshot.save_total_limit
        if limit is None or limit <= 0:
            return
        mine = [(step, path) for step, path in listed(self.folder) if _is_ours(path, step)]
        keep = {step for step, _ in mine[-limit:]} | {self.saved_step} | snapshot.best_steps
        for step, path in mine:
            if step not in keep:
                _remove(path)


def _is_ours(path: Path, step: int) -> bool:
    """Whether a folder is a checkpoint that this launcher wrote, of the step that its name tells, and so may be removed."""
    try:
        manifest = rundir.read_json(path / MANIFEST)
        return not path.is_symlink() and _wrong_seal(path, manifest) is None and bool(manifest["step"] == step)
    except (OSError, *_FOREIGN):
        return False


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


def recipe_hash(plan: Plan) -> str:
    """Of what decides the course of a training: model, data and training, not on what it runs."""
    recipe = plan.recipe.model_dump(mode="json", include={"model", "data", "training", "adapter"})
    recipe["global_batch_size"] = plan.batch.global_size
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _try(do: Callable[[], Any]) -> Any:
    """The result, or what the disk said; a bug of ours is raised."""
    try:
        return do()
    except OSError as error:
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except (SafetensorError, RuntimeError) as error:
        # safetensors and torch's writers turn the system's error into text of their own.
        text = str(error)
        if match := re.search(r"I/O error: (.+?)(?: \(os error \d+\))?$", text):
            return match[1]
        if any(words in text for words in ("No space left", "iostream error", "unexpected pos")):
            return text
        raise


def _not_a_number(weights: dict[str, torch.Tensor]) -> str | None:
    """The first weight that holds a NaN. By parts: a card may have no room for a mask of the largest weight. Not by its
    minimum, which is NaN too in torch, and need not be in every card's operator."""
    for name, weight in weights.items():
        parts = weight.detach().reshape(-1).split(_LOOK_NUMBERS) if weight.is_floating_point() else ()
        if any(torch.stack([torch.isnan(part).any() for part in parts]).tolist() if parts else ()):
            return name
    return None


def _synced(path: Path, root: Path) -> Written:
    disk.sync(path)
    return Written(str(path.relative_to(root)), path.stat().st_size, _sha256(path))


def sync_folder(path: Path) -> None:
    """Wait until the folder's own entries are on the disk."""
    disk.sync(path, os.O_DIRECTORY)


def _remove(path: Path) -> None:
    """Remove a checkpoint: first its name, so that a kill in between leaves no half of it under that."""
    old = path.with_name(_OLD + path.name)
    _forget(old)
    rundir.make_folder(path.parent)  # which refuses one that is a link
    path.replace(old)
    _forget(old)


def _forget(path: Path) -> None:
    """Remove what nothing needs any more; what stays is removed another time."""
    with contextlib.suppress(OSError):
        rundir.remove(path)


def _replace(target: Path, whole: Path) -> None:
    """Give a whole folder its name, which an older one may have. That one is removed last: killed in between, one of the
    two is there, under its name or under one that `_remove_leftovers` gives back."""
    before = target.with_name(_BEFORE + target.name)
    rundir.make_folder(target.parent)  # which refuses one that is a link
    if target.exists() or target.is_symlink():
        _forget(before)
        target.replace(before)
    whole.replace(target)
    sync_folder(target.parent)
    _forget(before)


def _remove_leftovers(folder: Path) -> None:
    """What a killed save left: half a checkpoint, and one that was to be replaced."""
    for path in [*folder.iterdir()] if folder.is_dir() and not folder.is_symlink() else []:
        if not _LEFT.fullmatch(path.name):
            continue
        named = path.with_name(path.name.removeprefix(_BEFORE))
        if path != named and not named.exists():
            path.replace(named)
        else:
            _forget(path)


# -- resuming ------------------------------------------------------------------------------------------------------

IN_ONE_PIECE = not hasattr(Trainer, "_prepare_for_training")
"""transformers 5.2: its loop is one method, without the hooks and the `_tr_loss` that 5.3 and later have."""


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints are a Store's, and whose resumed run is the one that was interrupted.

    Beyond what Trainer 5.23 restores: the running sums that logged and reported losses are made of, the table of epochs,
    an evaluation that an interruption left out, and a run whose last step is done. A save that falls on the last step of
    an epoch waits for the epoch's end, since Trainer would otherwise never run that end (`_run_epoch` starts the next).
    """

    has_best_model = False
    """The weights are the best checkpoint's again, and no more those of the last step."""

    _live: Live | None = None
    _resumed: Saved | None = None
    _random_state: dict[str, Any] | None = None
    _going_on_from: str | None = None
    """IN_ONE_PIECE: the checkpoint that `begin` loads."""
    _carried: torch.Tensor | None = None
    """IN_ONE_PIECE: losses before the interruption that the loop's own sum does not have yet."""

    def __init__(
        self,
        *,
        plan: Plan,
        store: Store,
        schedule: Schedule,
        epochs: list[dict[str, Any]],
        note: dict[str, Any],
        loss_sum: torch.Tensor,
        check_losses: Callable[[], None],
        leave: Callable[[int], NoReturn],
        **options: Any,
    ) -> None:
        """
        Args:
            epochs: metrics.json's `epochs`, the table that `callbacks.Progress` fills; a resumed run's rows are put there.
            note: rundir.MODEL_NOTE's content.
            loss_sum: a number on the device, to which each step's loss is added.
            check_losses: raises where a loss since it was last called is not a number; every rank calls it.
            leave: ends a training that was told to stop, at the step it is given; every rank calls it.
        """
        super().__init__(**options)
        self.plan = plan
        self.store = store
        self.schedule = schedule
        self.epochs = epochs
        self.note = note
        self._loss_sum = loss_sum
        self._loss_steps = 0
        self._loss_total = 0.0
        self._check_losses = check_losses
        self._leave = leave

    # -- saved -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """This step, for a store."""
        best = {self.state.best_global_step}
        if self.state.best_model_checkpoint:  # an older one, where the best step itself was not saved
            best.add(step_of(Path(self.state.best_model_checkpoint)))
        return Snapshot(
            step=self.state.global_step,
            epoch=self.state.epoch,
            is_resumable=not self.args.save_only_model,
            save_total_limit=self.args.save_total_limit,
            best_steps=frozenset(step for step in best if step is not None),
            gathered_weights=self._gathered_weights,
            state_of_rank=self._training_state,
            trainer_state=lambda: asdict(self.state),  # Trainer's own file has NaN, which is not JSON
            write_model=self._write_model,
        )

    def _training_state(self) -> tuple[list[tuple[str, torch.Tensor]], dict[str, Any]]:
        """What this rank puts into its state file."""
        live, is_first = self._live_state(), self.store.peers.index == 0
        tree: dict[str, Any] = {
            "random": self._random_state or state.random_state(self.args.device),
            "sums": self._sums(),
            "optimizer": live.optimizer_values() if is_first or not live.is_replicated else {},
        }
        if is_first:
            tree["job"] = live.job_values()
            tree["epochs"] = self.epochs
            tree["evaluation_is_due"] = self.schedule.evaluation_is_due
            tree["globalstep_last_logged"] = self._globalstep_last_logged
            tree["loss_steps"] = self._loss_steps
        return live.tensors(is_first=is_first), tree

    def _gathered_weights(self) -> Any:
        """See `Snapshot`."""
        if self.plan.sharing.shards_parameters:
            return self.accelerator.get_state_dict(self.model_wrapped)
        if not self.args.should_save:
            return None
        return self.accelerator.get_state_dict(self.model_wrapped if self.is_deepspeed_enabled else self.model)

    def _write_model(self, folder: Path, weights: Any) -> None:
        """Model and tokenizer in Hugging Face format; without training_args.bin, a pickle that nothing of ours reads."""
        self.model.save_pretrained(str(folder), state_dict=weights)
        rundir.write_json(folder / rundir.MODEL_NOTE, self.note)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))
        rundir.open_by_umask(folder)

    def publish_model(self, folder: Path) -> None:
        """Leave the finished model in `folder`, with a manifest as a checkpoint has: all of it, or what was there before.

        Every rank must call it.

        Raises:
            LaunchError: the disk refuses.
        """
        refused = _try(lambda: self._publish_model(folder))
        if isinstance(refused, str):
            raise LaunchError(
                f"{folder}: the model could not be written: {refused}",
                hint=f"correct that; the same command with --run-dir {folder.parent} then goes on from its newest checkpoint",
                exit_code=EXIT_JOB_FAILED,
            )

    def _publish_model(self, folder: Path) -> None:
        aside = folder.with_name(_ASIDE + folder.name)
        try:
            if self.args.should_save:
                rundir.remove(aside)
            self.save_model(str(aside))
            if self.args.should_save:
                rundir.open_by_umask(aside)
                # A model card is there to be edited.
                names = [p for p in sorted(aside.rglob("*")) if p.is_file() and p.name != "README.md"]
                facts = manifest_facts(self.plan, self.state.global_step, self.state.epoch, resumable=False)
                seal(aside, facts, [_synced(path, aside) for path in names])
                sync_folder(aside)
                _replace(folder, aside)
        except BaseException:
            if self.args.should_save:
                _forget(aside)
            raise

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.schedule.save_is_due = self.schedule.epoch_is_over(self.state) and not self._epoch_end_is_done()
        if self.schedule.save_is_due:
            return
        self._check_losses()
        self.store_flos()
        best = self.store.folder / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (best.exists() or self.state.best_global_step == self.state.global_step):
            self.state.best_model_checkpoint = str(best)
        self.store.save(self.snapshot())

    def _epoch_end_is_done(self) -> bool:
        # The table's row is made there.
        return bool(self.epochs) and self.epochs[-1].get("epoch") == round(float(self.state.epoch or 0.0), 4)

    def _live_state(self) -> Live:
        if self._live is None:
            self._live = Live(self)
        return self._live

    # -- taken over ------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        if IN_ONE_PIECE:
            self._going_on_from = resume_from_checkpoint
            transformers.trainer.deepspeed_load_checkpoint = lambda *_, **__: None  # it looks for DeepSpeed's own files
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing yet: `_prepare_for_training` loads everything once the model is wrapped."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Likewise; only a loop in one piece asks for it."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._resume(Path(resume_from_checkpoint))
        return prepared

    def _resume(self, path: Path) -> None:
        manifest = rundir.read_json(path / MANIFEST)
        saved = self._open(path, manifest)
        first = saved.trees[0]
        notes = self._live_state().load(saved, first["job"])
        self.epochs[:] = first["epochs"]
        self._loss_steps = first["loss_steps"]
        self.schedule.evaluation_is_due = first["evaluation_is_due"]
        own = self.store.peers.index
        if manifest["world_size"] == self.plan.world_size:
            self._random_state = saved.trees[own]["random"]
        else:
            notes.append("random states are of ranks that are gone: dropout is drawn anew from seed, step and rank")
        if manifest["recipe"] != recipe_hash(self.plan):
            notes.append("the recipe's model, data or training changed since; steps are counted on")
        self._resumed = saved
        self.store.events.emit(
            records.Resume(
                path=str(path),
                step=self.state.global_step,
                epoch=self.state.epoch,
                world_size=self.plan.world_size,
                saved_world_size=manifest["world_size"],
                saved_strategy=manifest["strategy"],
                notes=notes,
            )
        )
        for text in notes:
            self.store.events.emit(records.Note(text=f"resuming from {path.name}: {text}"))

    def _open(self, path: Path, manifest: dict[str, Any]) -> Saved:
        return Saved([TensorFile(path / state_file(r)) for r in range(manifest["world_size"])], str(path))

    def begin(self) -> None:
        """Go on where the checkpoint was: sums of losses, then an evaluation that was put off. After on_train_begin."""
        if IN_ONE_PIECE:
            self._carried = self._tr_loss = torch.zeros((), device=self.args.device)
            if self._going_on_from is not None:
                self._resume(Path(self._going_on_from))
        saved, self._resumed = self._resumed, None
        if saved is None:
            return
        self._set_sums(saved)
        self._globalstep_last_logged = saved.trees[0]["globalstep_last_logged"]
        if self._random_state is None:
            seed = self.args.seed
            state.derive_random_state(seed, self.state.global_step, self.store.peers.index)
            self._random_state = state.random_state(self.args.device)
        if self.schedule.evaluation_is_due:
            state.set_random_state(self._random_state, self.args.device)
            self.schedule.evaluation_is_due = False
            figures = self._evaluate(None, None)
            self._determine_best_metric(metrics=figures, trial=None)
            self._random_state = state.random_state(self.args.device)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        """An evaluation that is told to stop is put off to the resumed run, and the state before it is saved."""
        before = self._random_state or state.random_state(self.args.device)
        try:
            return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except EvaluationStopped:
            self.schedule.evaluation_is_due, self._random_state = True, before
            self.model.train()
            self._save_checkpoint(self.model, None)
            self._leave(self.state.global_step)

    def stop_after_training(self) -> NoReturn:
        """Told to stop in the evaluation of the finished model: save, unless its weights are no longer the last step's."""
        if not self.args.load_best_model_at_end:
            self._save_checkpoint(self.model, None)
        self._leave(self.state.global_step)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._random_state is not None:
            state.set_random_state(self._random_state, self.args.device)
            self._random_state = None

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **options: Any) -> None:
        if self._carried is not None:
            tr_loss += self._carried
            self._carried = None
        self._tr_loss = tr_loss
        super()._maybe_log_save_evaluate(tr_loss, *args, **options)

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        if IN_ONE_PIECE and self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # as in `_run_epoch`
            return [], None
        return super().get_batch_samples(*args, **options)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # Trainer would take one step more before it looks
            return
        super()._run_epoch(*args, **options)

    def _load_best_model(self) -> None:
        path = Path(str(self.state.best_model_checkpoint))
        found = check(path, step_of(path))
        if isinstance(found, PassedOver):
            raise LaunchError(f"the best checkpoint {path.name} cannot be loaded: it {found.reason}",
                              hint="set training.load_best_model_at_end=false to end with the last weights", exit_code=1)  # fmt: skip
        self._live_state().load_weights(self._open(path, found.manifest))
        self.has_best_model = True
        best = self.best_facts()
        text = f"the model of step {best['step']} is kept, the best by {best['metric']}: {best['value']}"
        self.store.events.emit(records.Note(text=text))

    def best_facts(self) -> dict[str, Any]:
        """Of metrics.json: which step's model was kept, and by which figure."""
        name, step = str(self.args.metric_for_best_model), step_of(Path(str(self.state.best_model_checkpoint)))
        rows = [row for row in self.state.log_history if row.get("step") == step and f"eval_{name}" in row]
        return {"step": step, "metric": name, "value": rows[-1][f"eval_{name}"] if rows else None}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The best of those steps that are saved: of several evaluations between two saves Trainer may take one for the
        best that is nowhere, and then ends with other weights without a word."""
        is_kept = self.control.should_save or self.store.saved_step == self.state.global_step
        if self.args.load_best_model_at_end and self.args.save_strategy == SaveStrategy.STEPS and not is_kept:
            return False
        return super()._determine_best_metric(metrics, trial)

    def _sums(self) -> dict[str, float]:
        """Running sums of this rank's losses."""
        return {
            "logged": self._tr_loss.item(),
            "logged_total": self._total_loss_scalar,
            "epoch": self._loss_sum.item(),
            "total": self._loss_total,
        }

    def _set_sums(self, saved: Saved) -> None:
        rows = [tree["sums"] for tree in saved.trees]
        if len(rows) == self.plan.world_size:
            sums = rows[self.store.peers.index]
        else:  # only the mean over ranks is ever looked at
            sums = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        self._tr_loss.fill_(sums["logged"])
        self._total_loss_scalar = sums["logged_total"]
        self._loss_sum.fill_(sums["epoch"])
        self._loss_total = sums["total"]
