"""training.report_to, with forked ranks."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ranks


def test_tensorboard_gets_the_losses_from_rank_0(job):
    """One event file, below the run directory, with the losses that events.jsonl has."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ran = job(2, "training.num_train_epochs=1", "training.report_to=tensorboard")
    assert 0 == ran.code, ran.err

    (file,) = (ran.dir / "tensorboard").glob("events.out.tfevents.*")
    found = EventAccumulator(str(file))
    found.Reload()
    assert [pytest.approx(loss, rel=1e-6) for loss in ran.losses] == [s.value for s in found.Scalars("train/loss")]
    assert ran.metrics["final"]["accuracy"] == pytest.approx(found.Scalars("eval/accuracy")[-1].value)
    assert not (ran.dir / "checkpoints" / "runs").exists()
