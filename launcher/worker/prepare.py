"""What happens once a node before any rank starts: operators built, data tokenised; and the trial of a fork."""

from __future__ import annotations

from launcher import rundir
from launcher.errors import LaunchError
from launcher.plan import Plan
from launcher.rundir import RunDir
from launcher.worker import data, ops, predict


def main(run: RunDir) -> None:
    """Build DeepSpeed's operators where the plan needs them, then check and tokenise the data.

    Raises:
        LaunchError: whatever the user must change, found while there is one process and no card in use.
    """
    plan = run.plan()
    ops.load(plan, lambda text: rundir.append_event(run.events_path, {"event": "note", "text": text}))
    if plan.use is not None and plan.use.mode == "predict":
        predict.prepare(plan, run)
    elif plan.recipe.script is None:
        data.prepare(plan, run)


def probe(plan: Plan) -> None:
    """In a forked child: use what ranks will use. A hang or a crash here means that forking is not safe.

    Raises:
        LaunchError: the device does not work in a forked process.
    """
    import torch

    torch.ones(64, 64).matmul(torch.ones(64, 64))
    if plan.device == "npu" and not torch.npu.is_available():
        raise LaunchError("no NPU is usable in a forked process", exit_code=1)
