"""FSDP2 in a rank: parameters are DTensors, of which it holds a run of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from launcher.errors import LaunchError
from launcher.planning.plan import Plan
from launcher.worker.engines.base import Base, WholeParts, same_precision, wrong_engine
from launcher.worker.engines.pieces import Parts, Piece


class Fsdp2(Base):
    """torch's fully_shard, as accelerate applies it."""

    def before_trainer(self, plan: Plan) -> None:
        """Let accelerate take its FSDP2 path on CPU ranks.

        accelerate 1.15 looks at `fsdp=True` only where the world is of cards (state.py: MULTI_GPU, MULTI_NPU, …) and
        trains with DDP on MULTI_CPU without a word. Its FSDP2 code itself runs on gloo: parameters become DTensors on a
        CPU mesh. So the world is labelled as one of cards until AcceleratorState has read it; `check` then looks at the
        parameters.
        """
        if not plan.accelerator.has_cards:
            from accelerate.state import DistributedType, PartialState

            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_NPU

    def after_trainer(self, trainer: Any) -> None:
        shard_layers_that_exist(getattr(trainer.accelerator.state, "fsdp_plugin", None), trainer.model)

    def adapt_model(self, model: Any) -> None:
        """Leave FSDP2 the layer classes that it can wrap. accelerate raises for one that this model has no layer of, such
        as the encoder's of a decoder alone; and torch for one around the input embedding, such as BertEmbeddings, since
        accelerate 1.15 shards the embedding by itself too."""
        embedding = model.get_input_embeddings()
        wrappable = {
            type(module).__name__
            for module in model.modules()
            if all(part is not embedding for part in module.modules())
        }
        model._no_split_modules = {name for name in model._no_split_modules or () if name in wrappable}

    def check(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        from torch.distributed.fsdp import FSDPModule
        from torch.distributed.tensor import DTensor

        model = trainer.model_wrapped
        if not isinstance(model, FSDPModule):
            raise wrong_engine(plan, model)
        same_precision(plan, trainer)
        parameters = dict(model.named_parameters())
        whole = [n for n, p in parameters.items() if not isinstance(p, DTensor)]
        if whole:
            raise LaunchError(
                "{num_whole} parameters are not DTensors under FSDP2, the first is {whole}",
                hint="report this with the run directory",
                exit_code=1,
                num_whole=len(whole),
                whole=whole[0],
            )
        total = sum(p.numel() for p in parameters.values())
        local = sum(p.to_local().numel() for p in parameters.values())
        # Rows are dealt out whole, so a rank can hold more than its share of a small parameter, or nothing of it.
        if local >= total and plan.world_size > 1:
            raise LaunchError(
                "this rank holds all {total} parameters under FSDP2",
                hint="report this with the run directory",
                exit_code=1,
                total=total,
            )
        return {"parameters": total, "local_parameters": local}

    @contextlib.contextmanager
    def gathered(self, trainer: Any, *, whole: bool) -> Iterator[None]:
        """All shards, or those of the outermost module alone, which a call of a part of it does not gather."""
        from torch.distributed.fsdp import FSDPModule

        root = trainer.model_wrapped
        parts = [module for module in root.modules() if isinstance(module, FSDPModule)] if whole else [root]
        for part in parts:
            part.unshard()
        root.set_reshard_after_forward(False, recurse=whole)
        try:
            yield
        finally:
            root.set_reshard_after_forward(trainer.accelerator.state.fsdp_plugin.reshard_after_forward, recurse=whole)
            for part in parts:
                part.reshard()

    def parts(self, trainer: Any) -> Parts:
        return RowParts(trainer)


class RowParts(WholeParts):
    """Runs of rows of DTensors."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self.is_replicated = all(type(held.key).__name__ != "DTensor" for held in self.held())

    def _pieces(self, name: str, parameter: Any) -> tuple[Piece, ...]:
        if type(parameter).__name__ != "DTensor":
            return super()._pieces(name, parameter)
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, offset = compute_local_shape_and_global_offset(
            parameter.shape,
            parameter.device_mesh,
            parameter.placements,
        )
        numel = int(np.prod(shape))
        row = parameter.numel() // max(parameter.shape[0], 1) if parameter.dim() else 1
        assert parameter.dim() == 0 or tuple(shape[1:]) == tuple(parameter.shape[1:]), "FSDP2 shards rows"
        return (Piece(name, offset[0] * row, 0, numel),) if numel else ()


def shard_layers_that_exist(plugin: Any, model: Any) -> None:
    """Have FSDP2 shard by those layer classes of `_no_split_modules` that this model has.

    transformers names them for a whole family, and accelerate 1.15 refuses a class that is not there: the vision blocks
    of a text-only Qwen3.5, the encoder layers of BartForCausalLM.

    Args:
        plugin: accelerate's FullyShardedDataParallelPlugin; None without FSDP.
        model: what is trained, not yet wrapped.
    """
    if plugin is None:
        return
    present = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = sorted(set(getattr(model, "_no_split_modules", None) or ()) & present)
