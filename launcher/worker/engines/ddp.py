"""DDP in a rank."""

from __future__ import annotations

from typing import Any

from launcher.planning.plan import Plan
from launcher.worker.engines.base import Base, wrong_engine


class Ddp(Base):
    """torch's DistributedDataParallel, where there are others to average with."""

    def before_trainer(self, plan: Plan) -> None:
        """Keep accelerate from wrapping the model of a single rank in DDP, which would copy every gradient for nobody.

        A process group of one exists all the same (a backend in TrainingArguments wants it), and that is what it looks at.
        """
        if plan.world_size == 1:
            from accelerate.state import DistributedType, PartialState

            PartialState._shared_state["distributed_type"] = DistributedType.NO

    def check(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        from torch.nn.parallel import DistributedDataParallel

        if plan.world_size > 1 and not isinstance(trainer.model_wrapped, DistributedDataParallel):
            raise wrong_engine(plan, trainer.model_wrapped)
        return super().check(plan, trainer)
