"""The gradient norm that is logged is of all ranks' gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial
from transformers import TrainerControl

from launcher.worker.training.resumable import ResumableTrainer
from launcher.worker.training.trainer import RecipeTrainer


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("is_logged", [True, False])
def test_a_sharded_norm_is_made_whole_where_it_is_logged(
    mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, is_logged: bool
):
    """FSDP2's is a DTensor of this rank's part, and torch 2.7 to 2.9 read the part as the whole; elsewhere nothing is gathered."""
    given: list[Any] = []
    monkeypatch.setattr(ResumableTrainer, "_maybe_log_save_evaluate", lambda self, loss, norm: given.append(norm))
    trainer = RecipeTrainer.__new__(RecipeTrainer)
    trainer.control = TrainerControl(should_log=is_logged)

    trainer._maybe_log_save_evaluate(torch.zeros(()), DTensor.from_local(torch.tensor(5.0), mesh, [Partial()]))

    assert is_logged != isinstance(given[0], DTensor)
    assert 5.0 == given[0].item()


def test_a_norm_that_is_a_number_stays_one(monkeypatch: pytest.MonkeyPatch):
    """DeepSpeed's, and none at all."""
    given: list[Any] = []
    monkeypatch.setattr(ResumableTrainer, "_maybe_log_save_evaluate", lambda self, loss, norm: given.append(norm))
    trainer = RecipeTrainer.__new__(RecipeTrainer)
    trainer.control = TrainerControl(should_log=True)

    for norm in (1.5, None):
        trainer._maybe_log_save_evaluate(torch.zeros(()), norm)

    assert [1.5, None] == given
