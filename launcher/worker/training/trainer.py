"""transformers' Trainer with three things made exact: the loss of a step, the order of rows, and the evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import TrainerControl
from transformers.trainer import TRAINING_ARGS_NAME

from launcher import files
from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.planning.plan import Plan
from launcher.rundir import records
from launcher.rundir.paths import MODEL_NOTE
from launcher.worker.batching.batches import Order, RankBatches, eval_batches
from launcher.worker.batching.splits import lengths
from launcher.worker.engines import checks, table
from launcher.worker.metrics import users
from launcher.worker.tasks import metrics
from launcher.worker.tasks.base import base_model
from launcher.worker.tasks.predictions import Part, Predictions, joined
from launcher.worker.training.neftune import Noise
from launcher.worker.training.progress import EvalProgress
from launcher.worker.training.random_state import random_state, set_random_state
from launcher.worker.training.rates import Meter
from launcher.worker.training.resumable import ResumableTrainer
from launcher.worker.training.writing import TEXT, Writing

if TYPE_CHECKING:
    from datasets import Dataset

    from launcher.worker.engines.device import Rank
    from launcher.worker.runtime.peers import Peers
    from launcher.worker.tasks.base import Evaluated, Task


_UNITS = 1 << 32
"""To a weight of 1."""


class RecipeTrainer(ResumableTrainer):
    """Trainer of a planned recipe.

    Loss: a step's loss is the mean over the rows of its global batch, or over what a task counts in them. Trainer 5.23 leaves the mean of a micro batch of
    a classification head undivided by accumulation and multiplies it by the number of ranks (its forward takes
    `num_items_in_batch` and drops it), so loss and gradients come out accumulation x ranks times too large, and
    clipping bites at another norm for each split. Ours is summed and divided by a rank's share of
    what counts in one step; DDP, DeepSpeed and FSDP2 all then average over ranks.

    Evaluation: what a task leaves of each row, as its label and prediction, is gathered with the row's index, loss and count.
    """

    loss_is_scaled_for_ga = True
    control: TrainerControl

    def __init__(
        self,
        *,
        plan: Plan,
        rank: Rank,
        task: Task,
        num_labels: int,
        peers: Peers,
        label_names: Sequence[str],
        train_dataset: Dataset | None,
        eval_dataset: Dataset | None,
        eval_sets: Mapping[str, slice] | None = None,
        writing: Writing | None = None,
        **options: Any,
    ) -> None:
        engine = table.of(plan)
        engine.before_trainer(plan)
        super().__init__(
            plan=plan,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=task.collate,
            **options,
        )
        engine.after_trainer(self)
        # Older releases of transformers have accelerate divide the loss of DDP and FSDP2 by accumulation.
        self.accelerator.gradient_accumulation_steps = 1
        # Counting labels over ranks is for losses that are divided by the count; ours are not.
        self.model_accepts_loss_kwargs = False
        self._order = _order(
            str(getattr(self.args.train_sampling_strategy, "value", self.args.train_sampling_strategy))
        )
        self.rank = rank
        self._counts_rows = plan.counts_rows(rank.index)
        self._shares = plan.data_parallel_size
        self._peers = peers
        self.task = task
        self.num_labels = num_labels
        self.metric_names = plan.recipe.metrics
        self.label_names = tuple(label_names)
        self._functions = users.functions(plan) if rank.is_first else {}
        self.failures: list[LaunchError] = []
        """Of functions of the user's, in the latest evaluation."""
        self.eval_sets = eval_sets or {}
        """Which rows of eval_dataset each set has that is evaluated for itself, too."""
        self.predictions: Predictions | None = None
        """Of the latest evaluation."""
        self.figures: dict[str, Any] = {}
        """Of the latest evaluation, with their eval_ prefix."""
        self.figures_step = -1
        self.eval_progress = EvalProgress(0, 0)
        self._writing = writing
        self._is_last_evaluation = False
        """Set before the evaluation that ends a training early."""
        self.has_texts = False
        """Whether the model has written in the latest evaluation."""
        self.meter = Meter(self.args.device)
        self._noise = self._own_noise()
        self._num_parameters = _num_parameters(self.model)
        self._has_stepped = False

    def _own_noise(self) -> Noise | None:
        """Ours, in the place of Trainer's, which depends on ranks and padding."""
        alpha, self.neftune_noise_alpha = self.args.neftune_noise_alpha, None
        if not alpha:
            return None
        embedding = base_model(self.model).get_input_embeddings()
        return Noise(embedding, alpha, self.args.seed, lambda: self.state.global_step)

    def check_engine(self) -> dict[str, Any]:
        """See `checks.check_engine`; called on every rank before the first step. Asks the task about the model, too."""
        found = checks.check_engine(self.plan, self)
        self.task.check(self._wrapped, self.args.device)
        return found

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 x parameters x tokens, as Trainer counts, but of the whole model where this rank holds a shard."""
        return 6 * int(inputs["input_ids"].numel()) * self._num_parameters

    # -- training --------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        args, data_seed = self.args, self.args.data_seed
        return self._loader(
            self.train_dataset,
            RankBatches(
                lengths(self.train_dataset),
                self.plan.batch,
                rank=self.plan.data_parallel_rank(self.rank.index),
                world_size=self.plan.data_parallel_size,
                seed=args.seed if data_seed is None else data_seed,
                order=self._order,
                drop_last=args.dataloader_drop_last,
            ),
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with self.meter.forward():
            losses = self.task.losses(model, inputs)
        batch = self.plan.batch
        # Of all ranks, of which each has an equal share when their gradients are averaged.
        share = (
            batch.micro_size * batch.accumulation if num_items_in_batch is None else num_items_in_batch / self._shares
        )
        loss = losses.sum() / share
        return (loss, {"losses": losses}) if return_outputs else loss

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """A step's batches, and over how much of all ranks' the task sums its loss; None where that is the rows."""
        batches, _ = super().get_batch_samples(*args, **options)
        return batches, self._count(batches)

    def _count(self, batches: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor | None:
        counts = [self.task.count(batch) for batch in batches]
        own = [count for count in counts if count is not None]
        if not own:
            return None
        total = sum(own) if self._counts_rows else 0
        if all(isinstance(count, int) for count in own):
            return self._gathered_count(int(total))
        # Weights are summed in whole numbers of a small unit, in which the order of ranks changes nothing; collective
        # libraries for cards take no float64 either.
        return self._gathered_count(round(total * _UNITS)) / _UNITS

    def _gathered_count(self, count: int) -> torch.Tensor:
        """Of all ranks together, and at least 1."""
        own = torch.tensor([count], device=self.args.device)
        return self.accelerator.gather(own).sum().clamp(min=1)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self._noise is not None:
            self._noise.take(inputs)
        if not self._has_stepped and self.state.global_step and isinstance(model, DistributedDataParallel):
            self._settle_buckets(model, inputs)
        self._has_stepped = True
        if self._counts_rows:
            self.meter.count(inputs)
        # And those that know no `loss_is_scaled_for_ga` divide it by this.
        self.current_gradient_accumulation_steps = 1
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._loss_sum += loss.float()
        if self.accelerator.sync_gradients:
            self._loss_steps += 1
        return loss

    def _wrap_model(self, *args: Any, **options: Any) -> Any:
        wrapped = super()._wrap_model(*args, **options)
        if self.accelerator.ddp_handler is not None:
            # Gradients live in DDP's buckets, instead of being copied there and back: a fourth less memory for a model's state.
            self.accelerator.ddp_handler.gradient_as_bucket_view = True
        return wrapped

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **options: Any) -> None:
        """Logs the norm of all ranks' gradients: FSDP2's is a DTensor, and `.item()` of torch 2.7 to 2.9 reads this rank's part."""
        if self.control.should_log and isinstance(grad_norm, DTensor):
            grad_norm = grad_norm.full_tensor()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **options)

    def _settle_buckets(self, model: DistributedDataParallel, inputs: dict[str, Any]) -> None:
        """Bring DDP's buckets into the order they had before the interruption, by a backward pass that changes nothing.

        DDP orders them anew after its first backward, by when gradients came. A sum over more than two ranks is taken
        in another order at another place of a bucket, so without this the first step after a resume differs in its
        last bits from that of a run that was never interrupted.
        """
        syncs, model.require_backward_grad_sync = model.require_backward_grad_sync, True
        before = random_state(self.args.device)
        with self.compute_loss_context_manager():
            loss = self.task.losses(model, self._prepare_inputs(inputs)).sum()
        loss.backward()
        set_random_state(before, self.args.device)
        model.require_backward_grad_sync = syncs
        model.zero_grad()

    def take_epoch_loss(self) -> float | None:
        """Mean over the steps since the last call, of all ranks; every rank must call it."""
        total = self.accelerator.gather(self._loss_sum.reshape(1)).mean().item()
        steps, self._loss_steps = self._loss_steps, 0
        self._loss_sum.zero_()
        self._loss_total += total
        return total / steps if steps else None

    @property
    def mean_train_loss(self) -> float:
        """Mean over all steps, those before an interruption too."""
        return self._loss_total / max(self.state.global_step, 1)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        # Trainer leaves a pickle of its arguments there; plan.json says the same, and a model folder should run no code.
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            files.write_json(folder / MODEL_NOTE, self.note)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def wrap_for_evaluation(self) -> dict[str, Any]:
        """Place the model where evaluation runs without a training before it: whole, or in shards.

        Returns:
            What was found, as `check_engine`.
        """
        if (wrapped := table.of(self.plan).wrapped_for_evaluation(self)) is not None:
            self.model_wrapped = self.deepspeed = wrapped
        found = checks.check_evaluation_engine(self.plan, self)
        self.task.check(self._wrapped, self.args.device)
        return found

    @property
    def _wrapped(self) -> Any:
        """What an evaluation calls: sharded weights are only gathered inside the wrapper's forward; DDP's would broadcast
        buffers every batch."""
        return self.model_wrapped if self.is_deepspeed_enabled or self.is_fsdp_enabled else self.model

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, Any]:
        """Loss and figures over every row that is evaluated, each counted once: of all of them, and of each set.

        The rows are those of `eval_dataset` of the constructor; the argument is Trainer's and must be left out.
        """
        assert eval_dataset is None, "a recipe has one evaluation split"
        start_s = time.monotonic()
        parts = self._evaluate_rows()
        texts = self._texts_if_due()
        payload = [None]
        self.failures = []
        if parts is not None:
            self.predictions = Predictions.from_parts(parts, num_rows=len(self.eval_dataset))
            columns = {**self.predictions.columns, **(texts or {})}
            self.predictions = replace(self.predictions, columns=columns, sets=self.eval_sets)
            payload = [self._figures(self.predictions)]  # type: ignore[list-item]
            for name in self.eval_sets:
                of_set = self._figures(self.predictions.part(name))
                payload[0] |= {f"{name}_{figure}": value for figure, value in of_set.items()}  # type: ignore[operator]
            if self.predictions.unscored:
                self.store.events.emit(records.Note(text=self.predictions.unscored_text()))
        broadcast_object_list(payload)
        seconds = time.monotonic() - start_s
        assert payload[0] is not None
        figures = {
            **payload[0],
            "samples": len(self.eval_dataset),
            "runtime": round(seconds, 4),
            "samples_per_second": round(len(self.eval_dataset) / seconds, 3),
        }
        result = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.figures, self.figures_step = result, self.state.global_step
        self.log({name: value for name, value in result.items() if isinstance(value, int | float)})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result

    def expect_last_evaluation(self) -> None:
        """The next evaluation is the last one, in which the model writes whatever `generation.every` says."""
        self._is_last_evaluation = True

    def _texts_if_due(self) -> dict[str, list[str | None]] | None:
        """Further columns of all rows, on the first rank, where texts are due; None on others."""
        if self._writing is None:
            return None
        earlier = sum("eval_loss" in row for row in self.state.log_history)
        is_last = self._is_last_evaluation or self.state.global_step >= self.state.max_steps
        self.has_texts = is_last or self._writing.is_due(earlier)
        return self.write_texts() if self.has_texts else None

    def write_texts(self) -> dict[str, list[str | None]] | None:
        """Have the model write, of a recipe that says so. Every rank must call it; the columns are the first rank's."""
        assert self._writing is not None
        return self._writing.write(self, self._wrote)

    def _wrote(self, done: int, total: int) -> None:
        self.eval_progress = EvalProgress(done, total, of_texts=True)
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _figures(self, predictions: Predictions) -> dict[str, Any]:
        remarks = metrics.Remarks()
        figures = metrics.compute(
            self.metric_names,
            predictions,
            num_labels=self.num_labels,
            label_names=self.label_names,
            functions=self._functions,
            remarks=remarks,
        )
        for note in remarks.notes:
            self.store.events.emit(records.Note(text=note))
        self.failures += remarks.failures
        texts = predictions.columns.get(TEXT)
        generated = {} if texts is None else {"generated": sum(text is not None for text in texts)}
        return {"loss": predictions.loss, **figures, **generated}

    def require_figures(self, kept: Path) -> None:
        """Fail where a function of the user's did, in the latest evaluation; the results are in `kept` by then.

        Raises:
            LaunchError: what it said, with its line.
        """
        if self.failures:
            raise LaunchError(
                "{what}",
                what=self.failures[0].what,
                hint="{kept} has null for it; correct the function, and `ascend-launch eval` computes it from the weights",
                kept=kept,
                exit_code=EXIT_JOB_FAILED,
            )

    def _evaluate_rows(self) -> list[Part] | None:
        """What is left of every row, in no order, on the first rank; None on the others."""
        size, plan = self.args.per_device_eval_batch_size, self.plan
        share = plan.data_parallel_rank(self.rank.index)
        batches = eval_batches(lengths(self.eval_dataset), size=size, rank=share, world_size=plan.data_parallel_size)
        model = self._wrapped
        was_training = model.training
        model.eval()
        left = []
        loader = self._loader(self.eval_dataset, [rows for rows, _ in batches])
        with torch.no_grad():
            for i, (batch, (rows, counts)) in enumerate(zip(loader, batches, strict=True)):
                inputs = self._prepare_inputs(batch)
                evaluated = self.task.evaluate(model, inputs)
                if counts and self._counts_rows:
                    left.append((rows, evaluated))
                self.eval_progress = EvalProgress(i + 1, len(batches))
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        model.train(was_training)
        # Over the host's network: not one of the collective libraries for cards takes float64, or texts.
        gathered = self._peers.gather_to_first(joined([_part(rows, evaluated) for rows, evaluated in left]))
        return None if gathered is None else [part for part in gathered if part is not None]

    def _loader(self, rows: Dataset, batches: Any) -> DataLoader:
        # Not `accelerator.prepare`d: the batches are this rank's own already, and Trainer moves them to the device.
        workers = self.args.dataloader_num_workers
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
        )


def _part(rows: Sequence[int], evaluated: Evaluated) -> Part:
    columns = {
        name: _array(column) if isinstance(column, torch.Tensor) else list(column)
        for name, column in evaluated.columns.items()
    }
    return Part(np.array(rows, np.int64), columns, evaluated.losses.cpu().double().numpy(), _array(evaluated.counts))


def _array(column: torch.Tensor) -> np.ndarray:
    """The same numbers, to the last bit; fractions as float64, which cards may not have."""
    on_host = column.cpu()
    array: np.ndarray = (on_host.double() if on_host.is_floating_point() else on_host).numpy()
    return array


def _order(strategy: str) -> Order:
    if strategy not in get_args(Order):
        raise LaunchError(
            "training.train_sampling_strategy {strategy!r} depends on the number of ranks",
            hint="use one of {get_args}; group_by_length balances ranks too",
            strategy=strategy,
            get_args=", ".join(get_args(Order)),
        )
    return cast(Order, strategy)


def _num_parameters(model: torch.nn.Module) -> int:
    """Parameters outside embeddings, counted whole under ZeRO-3 too."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if id(p) not in embeddings)
