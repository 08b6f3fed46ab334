"""Run ranks of rendered run directories, one job after the other, from one process that imported everything once.

Reads a JSON list from stdin, a job each: {"run": folder, "attempt": n, "fault": {...} or null}; writes a JSON list of
the exit codes of each job's ranks. A fault is {"rank": r (null: all), "step": s, "at": callback's name, "do": what},
where `do` is a signal's name (sent to itself), "nan" or "zero" (what the loss becomes from then on), or "small files"
(no file may grow past 100 KB until the step "until": the kernel stops a write in the middle, as on a full disk).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from launcher.rundir.paths import RunDir
from launcher.worker import rank
from launcher.worker.training import stop_poll, trainer
from launcher.worker.training.beats import Beats

DEADLINE_S = 240


def main() -> None:
    jobs = json.load(sys.stdin)
    rank.preload(RunDir(Path(jobs[0]["run"])).plan())
    answer = os.dup(1)
    os.dup2(2, 1)
    os.write(answer, json.dumps([run(job) for job in jobs]).encode())


def run(job: dict[str, Any]) -> list[int]:
    directory = RunDir(Path(job["run"]))
    world_size = directory.plan().world_size
    directory.attempt(job["attempt"]).mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pids = []
    for index in range(world_size):
        pid = os.fork()
        if pid == 0:
            child(directory, job, index, world_size, port)
        pids.append(pid)
    codes: dict[int, int] = {}
    deadline = time.monotonic() + DEADLINE_S
    while len(codes) < world_size:
        for pid in set(pids) - codes.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def child(directory: RunDir, job: dict[str, Any], index: int, world_size: int, port: int) -> NoReturn:
    code = 1
    try:
        out = os.open(directory.rank_log(job["attempt"], index), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.update(
            RANK=str(index),
            LOCAL_RANK=str(index),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        stop_poll.ASK_EVERY_S = 0.0  # at every step, so that a test knows where a run stops
        fault = job.get("fault")
        if fault and fault["rank"] in (None, index):
            inject(fault)
        rank.main(directory.path, job["attempt"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def inject(fault: dict[str, Any]) -> None:
    """Have it happen in this process."""
    step, do = fault["step"], fault["do"]
    if do in ("nan", "zero"):
        plain = trainer.RecipeTrainer.compute_loss

        def loss(self: Any, *args: Any, **options: Any) -> Any:
            value = plain(self, *args, **options)
            return value * (float("nan") if do == "nan" else 0.0) if self.state.global_step >= step else value

        trainer.RecipeTrainer.compute_loss = loss
        return
    at = fault.get("at", "on_step_end")
    usual = getattr(Beats, at)

    def strike(self: Any, args: Any, state: Any, control: Any, **options: Any) -> None:
        usual(self, args, state, control, **options)
        if do == "small files":
            if state.global_step in (step, fault["until"]):
                limit = 100_000 if state.global_step == step else resource.RLIM_INFINITY
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        elif state.global_step == step:
            os.kill(os.getpid(), getattr(signal, do))

    setattr(Beats, at, strike)


if __name__ == "__main__":
    main()
