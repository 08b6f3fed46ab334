"""DeepSpeed's ZeRO in a rank.

Its buffers are reached through the attributes that its own loaders use (runtime/zero/stage3.py, `_rigid_load_state_dict`;
stage_1_and_2.py, `_link_all_hp_params` and `update_lp_params`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.worker.engines import ops
from launcher.worker.engines.base import Base, wrong_engine
from launcher.worker.engines.checks import same
from launcher.worker.engines.pieces import Held, Parts, Piece
from launcher.worker.tasks.base import base_model

_ENGINE_COUNTS = ("global_steps", "global_samples", "skipped_steps")


class Zero(Base):
    """Every stage; the optimizer and the parameters say which it is."""

    def preload(self) -> None:
        ops.build_nothing_unasked()  # which imports DeepSpeed

    def join(self, plan: Plan, *, timeout_s: float) -> None:
        """Join before the model is loaded: `zero.Init` reads its world size before it would initialise the group itself,
        and then shards over a world of one (DeepSpeed issue 3228)."""
        import deepspeed

        ops.build_nothing_unasked()
        deepspeed.init_distributed(dist_backend=plan.backend, timeout=timedelta(seconds=timeout_s), verbose=False)

    def world_sizes(self) -> Mapping[str, int]:
        from deepspeed import comm

        return {"DeepSpeed's world size": comm.get_world_size()}

    def check(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        found = self.check_evaluation(plan, trainer)
        if plan.sharing.shards_parameters:
            forget_passes_before_training(trainer.model_wrapped)
        return found

    def check_evaluation(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        from deepspeed import DeepSpeedEngine

        model = trainer.model_wrapped
        if not isinstance(model, DeepSpeedEngine):
            raise wrong_engine(plan, model)
        stage = plan.zero_stage
        same("DeepSpeed's ZeRO stage", model.zero_optimization_stage(), f"{plan.strategy}'s", stage)
        precision = "bf16" if model.bfloat16_enabled() else "fp16" if model.fp16_enabled() else "fp32"
        same("DeepSpeed's precision", precision, Message("the plan's"), plan.precision)
        total = sum(getattr(p, "ds_numel", p.numel()) for p in model.module.parameters())
        if not plan.sharing.shards_parameters:
            partitions = {int(count) for count in model.optimizer.partition_count}
            same(
                Message("the number of DeepSpeed's optimizer partitions"),
                partitions,
                Message("the plan's"),
                {plan.world_size},
            )
            return {"zero_stage": stage, "parameters": total, "local_parameters": total}
        whole = [n for n, p in model.module.named_parameters() if not hasattr(p, "ds_tensor")]
        if whole:
            raise LaunchError(
                "{num_whole} parameters are whole on every rank under ZeRO-3, the first is {whole}",
                hint="report this with the run directory",
                exit_code=1,
                num_whole=len(whole),
                whole=whole[0],
            )
        local = sum(p.ds_tensor.numel() for p in model.module.parameters())
        return {"zero_stage": stage, "parameters": total, "local_parameters": local}

    def wrapped_for_evaluation(self, trainer: Any) -> Any:
        """In shards: only weights that are sharded are evaluated under DeepSpeed."""
        from transformers.integrations.deepspeed import deepspeed_init

        deepspeed_init(trainer, num_training_steps=0, inference=True)
        return trainer.accelerator.prepare(trainer.model)

    @contextlib.contextmanager
    def gathered(self, trainer: Any, *, whole: bool) -> Iterator[None]:
        """Of stage 3. Its hooks, which would free each weight after its use, are off while all of them are here."""
        if not trainer.plan.sharing.shards_parameters:
            yield
            return
        import deepspeed

        engine = trainer.model_wrapped
        offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
        if not whole:
            with _reset_at_each_call(base_model(engine.module), engine.module, offload):
                yield
            return
        offload.partition_all_parameters()
        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())), _without_hooks(offload):
            yield
        if offload.persistent_parameters:
            offload.persistent_parameters[0].all_gather(offload.persistent_parameters)

    def parts(self, trainer: Any) -> Parts:
        return Zero3Parts(trainer) if trainer.plan.sharing.shards_parameters else ZeroParts(trainer)


def forget_passes_before_training(engine: Any) -> None:
    """Have stage 3 learn the order of its modules from the first training pass.

    It takes the first pass that it sees, and keeps for good which weights each module lets go after its use: after a pass that
    had no backward pass all of them, which are then gathered twice in every step.
    """
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()

    def forget(module: torch.nn.Module, args: Any) -> None:
        if module.training:
            handle.remove()
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()

    handle = engine.module.register_forward_pre_hook(forget, prepend=True)


@contextlib.contextmanager
def _without_hooks(offload: Any) -> Iterator[None]:
    kept: dict[int, tuple[Any, list[tuple[int, Any]]]] = {}
    for handle in (*offload.forward_hooks, *offload.backward_hooks, offload.fwd_pre_hook):
        hooks = handle.hooks_dict_ref()
        if hooks is not None and handle.id in hooks:
            kept.setdefault(id(hooks), (hooks, list(hooks.items())))
            hooks.pop(handle.id)
    try:
        yield
    finally:
        for hooks, items in kept.values():
            hooks.clear()
            hooks.update(items)  # in their order


@contextlib.contextmanager
def _reset_at_each_call(model: Any, whole: Any, offload: Any) -> Iterator[None]:
    """What DeepSpeed's hook of the outermost module does there, where an adapter's model is called without it."""
    if model is whole:
        yield
        return
    handle = model.register_forward_pre_hook(lambda *_: offload.get_param_coordinator().reset_step())
    try:
        yield
    finally:
        handle.remove()


class ZeroParts:
    """Slices of the flat fp32 buffers of stages 1 and 2."""

    is_replicated = False

    def __init__(self, trainer: Any) -> None:
        self._engine: Any = trainer.model_wrapped
        self.model = self._engine.module
        optimizer = self._engine.optimizer
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self._names = {id(p): name for name, p in self.model.named_parameters()}

    def held(self) -> Iterator[Held]:
        optimizer = self._engine.optimizer
        for flat, group in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
            mapped = [(p, p._hp_mapping) for p in group if p._hp_mapping is not None]
            yield Held(
                flat,
                tuple(
                    Piece(
                        self._names[id(p)],
                        m.lp_fragment_address.start,
                        m.hp_fragment_address.start,
                        m.hp_fragment_address.numel,
                    )
                    for p, m in mapped
                ),
            )

    def values(self) -> dict[str, Any] | None:
        counts = {name: getattr(self._engine, name) for name in _ENGINE_COUNTS}
        return counts | {"loss_scaler": _plain_attributes(self._engine.optimizer.loss_scaler)}

    def set_values(self, saved: dict[str, Any]) -> None:
        for name in _ENGINE_COUNTS:
            setattr(self._engine, name, saved[name])
        for name, value in saved["loss_scaler"].items():
            setattr(self._engine.optimizer.loss_scaler, name, value)

    def before_weights(self) -> None:
        pass

    def after_weights(self) -> None:
        self._engine.optimizer.update_lp_params()


class Zero3Parts(ZeroParts):
    """Each parameter's share of stage 3, in flat fp32 buffers."""

    def held(self) -> Iterator[Held]:
        optimizer = self._engine.optimizer
        rank = torch.distributed.get_rank(group=optimizer.dp_process_group)
        for flat, group in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
            pieces = []
            for parameter in group:
                _, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                # The last rank's part is filled up, so that all are of one size.
                numel = min(size, max(parameter.ds_numel - rank * size, 0))
                if numel:
                    pieces.append(Piece(self._names[id(parameter)], rank * size, offset, numel))
            yield Held(flat, tuple(pieces))

    def before_weights(self) -> None:
        self._engine.optimizer.checkpoint_event_prologue()

    def after_weights(self) -> None:
        optimizer = self._engine.optimizer
        for i, fp32 in enumerate(optimizer.fp32_partitioned_groups_flat):
            half = optimizer.fp16_partitioned_groups_flat[i]
            half.data.copy_(fp32.data)
            parts = optimizer.unflatten(half, optimizer.fp16_partitioned_groups[i])
            for partition, part in zip(optimizer.fp16_partitioned_groups[i], parts, strict=True):
                partition.data = part.data
        optimizer.checkpoint_event_epilogue()


def _plain_attributes(value: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(value).items() if v is None or isinstance(v, bool | int | float)}
