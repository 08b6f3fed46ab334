"""A Trainer that resumes exactly, at any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from transformers import Trainer, TrainerControl
from transformers.trainer_utils import SaveStrategy

from launcher.errors import LaunchError
from launcher.files import read_json
from launcher.messages import Message
from launcher.rundir import records
from launcher.worker.checkpoints.manifest import MANIFEST, PassedOver, check, recipe_hash, state_file, step_of
from launcher.worker.checkpoints.saved import Saved
from launcher.worker.checkpoints.tensorfile import TensorFile
from launcher.worker.runtime.stop_signals import EvaluationStopped
from launcher.worker.training import random_state
from launcher.worker.training.saving import SavingTrainer

IN_ONE_PIECE = not hasattr(Trainer, "_prepare_for_training")
"""transformers 5.2: its loop is one method, without the hooks and the `_tr_loss` that 5.3 and later have."""


class ResumableTrainer(SavingTrainer):
    """A Trainer whose resumed run is the one that was interrupted.

    Beyond what Trainer 5.23 restores: the running sums that logged and reported losses are made of, the table of epochs,
    an evaluation that an interruption left out, and a run whose last step is done.
    """

    control: TrainerControl
    has_best_model = False
    """The weights are the best checkpoint's again, and no more those of the last step."""

    _resumed: Saved | None = None
    _going_on_from: str | None = None
    """IN_ONE_PIECE: the checkpoint that `begin` loads."""
    _carried: torch.Tensor | None = None
    """IN_ONE_PIECE: losses before the interruption that the loop's own sum does not have yet."""

    def train(self, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        if IN_ONE_PIECE:
            self._going_on_from = resume_from_checkpoint
            transformers.trainer.deepspeed_load_checkpoint = lambda *_, **__: None  # it looks for DeepSpeed's own files
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing yet: `_prepare_for_training` loads everything once the model is wrapped."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Nothing yet either; only a loop in one piece asks for it."""

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
        self.early_stop.set_values(first.get("early_stop"))
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
        """An evaluation that is asked to stop is put off to the resumed run, and the state before it is saved."""
        before = self._random_state or random_state.random_state(self.args.device)
        try:
            return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except EvaluationStopped:
            self.schedule.evaluation_is_due, self._random_state = True, before
            self.model.train()
            self._save_checkpoint(self.model, None)
            self._leave(self.state.global_step)

    def stop_after_training(self) -> NoReturn:
        """Stopped in the evaluation of the finished model: save, unless its weights are no longer the last step's."""
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
        if IN_ONE_PIECE and self._is_over:
            self.control.should_training_stop = True  # as in `_run_epoch`
            return [], None
        return super().get_batch_samples(*args, **options)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        if self._is_over:
            self.control.should_training_stop = True  # Trainer would take one step more before it looks
            self._end_epoch()
            return
        super()._run_epoch(*args, **options)

    @property
    def _is_over(self) -> bool:
        """Whether the last step is done."""
        return self.state.global_step >= self.state.max_steps or self.early_stop.is_over

    def _end_epoch(self) -> None:
        """The end of an epoch that an evaluation ended early, where that evaluation was put off to this launch."""
        if self.early_stop.is_over and not self._epoch_end_is_done():
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._save_checkpoint(self.model, None)

    def _load_best_model(self) -> None:
        path = Path(str(self.state.best_model_checkpoint))
        checkpoint = check(path, step_of(path))
        if isinstance(checkpoint, PassedOver):
            raise LaunchError(
                "the best checkpoint {path} cannot be loaded: it {reason}",
                hint="set training.load_best_model_at_end=false to end with the last weights",
                exit_code=1,
                path=path.name,
                reason=checkpoint.reason,
            )
        self._live_state().load_weights(self._open(path, checkpoint.manifest))
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
        best that is nowhere, and then ends with other weights silently."""
        is_kept = self.control.should_save or self.store.saved_step == self.state.global_step
        if self.args.load_best_model_at_end and self.args.save_strategy == SaveStrategy.STEPS and not is_kept:
            return False
        if self.args.metric_for_best_model and f"eval_{self.args.metric_for_best_model}" not in metrics:
            return False  # of generated texts, which not every evaluation has
        return super()._determine_best_metric(metrics, trial)

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
