"""A Trainer whose checkpoints and finished model are whole, or not there, and hold all that a resumed run needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from transformers import Trainer

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import open_by_umask, write_json
from launcher.rundir import paths
from launcher.rundir.paths import MODEL_NOTE
from launcher.worker.checkpoints.live import Live
from launcher.worker.checkpoints.manifest import manifest_facts, seal, step_of
from launcher.worker.checkpoints.publish import ASIDE, attempted, forget, put_in_place, sync_folder, synced
from launcher.worker.checkpoints.store import Snapshot, Store
from launcher.worker.training import random_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan
    from launcher.worker.training.early_stop import EarlyStop
    from launcher.worker.training.stop import Schedule


class SavingTrainer(Trainer):
    """A Trainer whose checkpoints are a Store's.

    A save that falls on the last step of an epoch, or of a training that ends early, waits for the epoch's end, since Trainer would otherwise never run that
    end in a resumed run (`_run_epoch` starts the next).
    """

    _live: Live | None = None
    _random_state: dict[str, Any] | None = None
    """The random numbers' state that the next step begins with, where it is not the present one."""

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
        early_stop: EarlyStop,
        **options: Any,
    ) -> None:
        """
        Args:
            epochs: metrics.json's `epochs`, the table that `callbacks.Progress` fills; a resumed run's rows are put there.
            note: rundir.MODEL_NOTE's content.
            loss_sum: a number on the device, to which each step's loss is added.
            check_losses: raises where a loss since it was last called is not a number; every rank calls it.
            leave: ends a training that was asked to stop, at the step it is given; every rank calls it.
            early_stop: ends a training that no longer gets better.
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
        self.early_stop = early_stop

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
            tree["early_stop"] = self.early_stop.values()
        return live.tensors(is_first=is_first), tree

    def _gathered_weights(self) -> Any:
        """See `Snapshot`."""
        if self.plan.sharing.shards_parameters:
            return self.accelerator.get_state_dict(self.model_wrapped)
        if not self.args.should_save:
            return None
        return self.accelerator.get_state_dict(self.model_wrapped if self.is_deepspeed_enabled else self.model)

    def _write_model(self, folder: Path, weights: Any) -> None:
        """Model and tokenizer in Hugging Face format; without training_args.bin, a pickle that is never read."""
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
        is_over = self.schedule.epoch_is_over(self.state) or self.early_stop.is_over
        self.schedule.save_is_due = is_over and not self._epoch_end_is_done()
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

    def _sums(self) -> dict[str, float]:
        """Running sums of this rank's losses."""
        return {
            "logged": self._tr_loss.item(),
            "logged_total": self._total_loss_scalar,
            "epoch": self._loss_sum.item(),
            "total": self._loss_total,
        }
