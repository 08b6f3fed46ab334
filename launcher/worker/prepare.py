"""What happens once a node before any rank starts: operators built, data tokenised."""

from __future__ import annotations

import os

from launcher import places
from launcher.planning.plan import Plan
from launcher.recipe import schema
from launcher.rundir import events, records
from launcher.rundir.paths import RunDir
from launcher.worker.data import prepare
from launcher.worker.engines import ops
from launcher.worker.losses.check import check_loss
from launcher.worker.metrics import users
from launcher.worker.training import predict


def main(run: RunDir) -> None:
    """Build DeepSpeed's operators where the plan needs them, then check and tokenise the data.

    Raises:
        LaunchError: whatever the user must change, found while there is one process and no card in use.
    """
    plan = run.plan()
    try:
        _prepare(plan, run)
    except Exception as error:
        explanation = places.explained(error, os.environ)
        if explanation is None:
            raise
        raise explanation from error


def _prepare(plan: Plan, run: RunDir) -> None:
    ops.load(plan, lambda text: events.append_event(run.events_path, records.Note(text=text)))
    if plan.use is not None and plan.use.mode == "predict":
        predict.prepare(plan, run)
    else:
        users.check(plan)
        check_loss(plan, schema.num_labels(plan.recipe))
        prepare.prepare(plan, run)
