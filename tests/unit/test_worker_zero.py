"""What ZeRO's engine does beside DeepSpeed."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from launcher.worker.engines.zero import forget_passes_before_training


class Coordinator:
    """Of DeepSpeed's: records a pass that begins where nothing is recorded."""

    def __init__(self) -> None:
        self.recorded: list[str] = []

    def is_invalid_trace(self) -> bool:
        return not self.recorded

    def _invalidate_trace(self) -> None:
        assert self.recorded, "DeepSpeed raises here"
        self.recorded = []

    def begin(self, module: torch.nn.Module, args: object) -> None:
        self.recorded.append("training" if module.training else "evaluation")


def test_stage_3_learns_the_order_of_modules_from_a_training_pass():
    """Not from those before; and evaluations after it leave what it learnt."""
    coordinator, module = Coordinator(), torch.nn.Linear(2, 2)
    module.register_forward_pre_hook(coordinator.begin)
    offload = SimpleNamespace(get_param_coordinator=lambda: coordinator)
    forget_passes_before_training(SimpleNamespace(module=module, optimizer=SimpleNamespace(parameter_offload=offload)))
    for is_training in (False, False, True, False, True):
        module.train(is_training)(torch.zeros(1, 2))

    assert ["training", "evaluation", "training"] == coordinator.recorded
