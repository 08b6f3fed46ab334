"""main of one rank. The agent imports this module once and calls `main` in each process that it forks.

Nothing here, or in what it imports, may start a thread or touch a device at import: a fork would inherit it broken.
"""

from __future__ import annotations

import os
from pathlib import Path

from launcher.errors import EXIT_TERMINATED
from launcher.planning.plan import Plan
from launcher.rundir.paths import RunDir
from launcher.worker.engines import device, table
from launcher.worker.engines.device import Rank
from launcher.worker.runtime import failure, flight, heartbeat, stop_signals
from launcher.worker.runtime.heartbeat import Heart
from launcher.worker.runtime.stop_signals import Preempted
from launcher.worker.tasks import table as tasks
from launcher.worker.training import predict
from launcher.worker.training.evaluate import evaluate_on_rank
from launcher.worker.training.train import train_on_rank
from launcher.worker.weights.trained import ADAPTER


def preload(plan: Plan) -> None:
    """Import what ranks of this plan will need, so that forked ones find it loaded. Touches no device."""
    os.environ["DS_ACCELERATOR"] = plan.accelerator.torch_name  # read when deepspeed is imported
    if plan.use is None or plan.use.mode == "eval":
        import datasets
        import evaluate
        import sklearn.metrics

        del datasets, evaluate, sklearn
    table.of(plan).preload()
    tasks.of(plan.recipe)
    if plan.recipe.adapter is not None or _has_adapter(plan):
        import importlib.util

        if importlib.util.find_spec("peft") is not None:
            import peft

            del peft


def _has_adapter(plan: Plan) -> bool:
    return plan.use is not None and (Path(plan.use.weights) / ADAPTER).is_file()


def main(run_dir: Path, attempt: int = 0) -> None:
    """Train as this rank of the run, and leave its part of the run directory.

    Raises:
        SystemExit: on failure, after writing attempt_<n>/error_<r>.json: 2 for what the user must change, else 1; 143
            where all ranks were asked to stop and have saved.
    """
    run = RunDir(run_dir)
    index = 0
    try:
        rank = Rank.from_env(os.environ)
        index = rank.index
        plan = run.plan()
        stop_signals.install(run.error_path(attempt, index), index)
        heartbeat.dump_stacks_on_signal(run.attempt(attempt) / f"stacks_{index}.txt")
        flight.arm(run.attempt(attempt), index)
        heart = Heart(run.attempt(attempt) / f"beat_{index}")
        work = train_on_rank if plan.use is None else evaluate_on_rank if plan.use.mode == "eval" else predict.main
        work(plan, run, rank, heart)
    except Preempted:
        device.leave_process_group()
        raise SystemExit(EXIT_TERMINATED) from None
    except Exception as error:
        raise SystemExit(failure.record(run.error_path(attempt, index), error, index)) from None
    device.leave_process_group()
