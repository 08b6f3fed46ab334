"""What ranks need is imported once; whether they can be forked from the process that has done so, or must be spawned."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.program import Program
from launcher.rundir import records
from launcher.worker import program as program_module
from launcher.worker.agent import ending, gloo, zygote
from launcher.worker.agent.children import Children

PROBE_S = 30.0
HARMLESS_THREADS = frozenset({"jemalloc_bg_thd"})
"""pyarrow's allocator registers fork handlers, and goes on in a forked child without its background thread."""


def import_once(plan: Plan, program: Program | None) -> records.Preload | None:
    """Import what every rank needs, to be forked with it; the event to report of a user's program."""
    gc.disable()  # imports leave hardly any garbage, and looking for it takes a tenth of their time
    preload = None
    if program is None:
        from launcher.worker import prepare, rank

        rank.preload(plan)
        del prepare
    elif program.kind != "executable":
        preload = _import_for_program(plan)
    # A full collection writes to every object that it looks at: each child would get copies of 125 MB.
    gc.freeze()
    gc.enable()
    return preload


def _import_for_program(plan: Plan) -> records.Preload:
    ending.begin()
    gloo.settle()
    modules, reason = program_module.preload(plan)
    # A card's libraries write logs and release the card when they are taken apart.
    if plan.accelerator.survives_exit:
        ending.keep_libraries()
    return records.Preload(modules=modules, reason=reason)


def settle(asked: str, children: Children, trial: zygote.Job, is_stopped: Callable[[], bool]) -> tuple[str, str]:
    """The method, fork or spawn, and the reason: fork, unless the recipe or a trial says that it is not safe.

    Args:
        asked: auto, fork or spawn.
        trial: the job of a child that tries a fork out.
        is_stopped: whether the launcher was asked to stop, so that nothing is waited for.
    """
    if asked != "auto":
        return asked, f"--start-method {asked}"
    threads = sorted(set(_thread_names()) - HARMLESS_THREADS)
    why = (
        Message("a fork would lose the threads {threads}", threads=", ".join(threads))
        if threads
        else _probe(children, trial, is_stopped)
    )
    return ("spawn" if why else "fork"), why or f"--start-method {asked}"


def _probe(children: Children, trial: zygote.Job, is_stopped: Callable[[], bool]) -> str:
    """Why a forked child does not work; '' where it does."""
    children.forget()
    child = children.start(trial)
    deadline = time.monotonic() + PROBE_S
    while child.exit_code is None and not is_stopped():
        children.listen()
        if time.monotonic() > deadline:
            children.signal(signal.SIGKILL)
            deadline = float("inf")
    code = child.exit_code
    return (
        ""
        if not code
        else Message(
            "a forked child {detail}, see {log}",
            detail="hung" if code == -signal.SIGKILL else Message("ended with code {code}", code=code),
            log=trial.log,
        )
    )


def _thread_names() -> list[str]:
    own = str(os.getpid())
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir() if task.name != own]
