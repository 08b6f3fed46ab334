"""A Trainer that saves and resumes exactly, at any number of ranks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import transformers
from transformers import Trainer
from transformers.trainer_utils import SaveStrategy

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import open_by_umask, read_json, write_json
from launcher.messages import Message
from launcher.rundir import paths, records
from launcher.rundir.paths import MODEL_NOTE
from launcher.worker.checkpoints.live import Live
from launcher.worker.checkpoints.manifest import (
    MANIFEST,
    PassedOver,
    check,
    manifest_facts,
    recipe_hash,
    seal,
    state_file,
    step_of,
)
from launcher.worker.checkpoints.publish import ASIDE, attempted, forget, put_in_place, sync_folder, synced
from launcher.worker.checkpoints.saved import Saved
from launcher.worker.checkpoints.snapshot import Snapshot
from launcher.worker.checkpoints.store import Store
from launcher.worker.checkpoints.tensorfile import TensorFile
from launcher.worker.runtime.stop_signals import EvaluationStopped
from launcher.worker.training import random_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan
    from launcher.worker.training.schedule import Schedule


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
            "random": self._random_state or random_state.random_state(self.args.device),
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
        write_json(folder / MODEL_NOTE, self.note)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))
        open_by_umask(folder)

    def publish_model(self, folder: Path) -> None:
        """Leave the finished model in `folder`, with a manifest as a checkpoint has: all of it, or what was there before.

        Every rank must call it.

        Raises:
            LaunchError: the disk refuses.
        """
        refused = attempted(lambda: self._publish_model(folder))
        if isinstance(refused, str):
            raise LaunchError(
                "{folder}: the model could not be written: {refused}",
                hint="correct that; the same command with --run-dir {parent} then goes on from its newest checkpoint",
                exit_code=EXIT_JOB_FAILED,
                folder=folder,
                refused=refused,
                parent=folder.parent,
            )

    def _publish_model(self, folder: Path) -> None:
        aside = folder.with_name(ASIDE + folder.name)
        try:
            if self.args.should_save:
                paths.remove(aside)
            self.save_model(str(aside))
            if self.args.should_save:
                open_by_umask(aside)
                # A model card is there to be edited.
                names = [p for p in sorted(aside.rglob("*")) if p.is_file() and p.name != "README.md"]
                facts = manifest_facts(self.plan, self.state.global_step, self.state.epoch, resumable=False)
                seal(aside, facts, [synced(path, aside) for path in names])
                sync_folder(aside)
                put_in_place(folder, aside)
        except BaseException:
            if self.args.should_save:
                forget(aside)
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
        manifest = read_json(path / MANIFEST)
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
            notes.append(
                Message("random states are of ranks that are gone: dropout is drawn anew from seed, step and rank")
            )
        if manifest["recipe"] != recipe_hash(self.plan):
            notes.append(Message("the recipe's model, data or training changed since; steps are counted on"))
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
            self.store.events.emit(
                records.Note(text=Message("resuming from {path}: {text}", path=path.name, text=text))
            )

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
            random_state.derive_random_state(seed, self.state.global_step, self.store.peers.index)
            self._random_state = random_state.random_state(self.args.device)
        if self.schedule.evaluation_is_due:
            random_state.set_random_state(self._random_state, self.args.device)
            self.schedule.evaluation_is_due = False
            figures = self._evaluate(None, None)
            self._determine_best_metric(metrics=figures, trial=None)
            self._random_state = random_state.random_state(self.args.device)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        """An evaluation that is told to stop is put off to the resumed run, and the state before it is saved."""
        before = self._random_state or random_state.random_state(self.args.device)
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
            random_state.set_random_state(self._random_state, self.args.device)
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
            raise LaunchError(
                "the best checkpoint {path} cannot be loaded: it {reason}",
                hint="set training.load_best_model_at_end=false to end with the last weights",
                exit_code=1,
                path=path.name,
                reason=found.reason,
            )
        self._live_state().load_weights(self._open(path, found.manifest))
        self.has_best_model = True
        best = self.best_facts()
        text = Message(
            "the model of step {step} is kept, the best by {metric}: {value}",
            step=best["step"],
            metric=best["metric"],
            value=best["value"],
        )
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
