"""The libraries that are watched, each in a file, which is imported when the program has imported its library."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import signal
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from launcher.rundir.paths import RunDir
from launcher.worker.hooks.base import Watched
from launcher.worker.runtime import heartbeat

TABLE = {
    "torch.optim.optimizer": "launcher.worker.hooks.torch_optimizer",
    "torch.distributed.distributed_c10d": "launcher.worker.hooks.torch_distributed",
    "torch.utils.data.dataloader": "launcher.worker.hooks.torch_dataloader",
    "accelerate.accelerator": "launcher.worker.hooks.accelerate_loop",
    "deepspeed.runtime.engine": "launcher.worker.hooks.deepspeed_engine",
    "transformers.trainer": "launcher.worker.hooks.transformers_trainer",
}
"""Module of a library → ours, whose `attach(module, watched)` is called once the library's has been run."""


def install(run: RunDir, attempt: int, rank: int) -> Watched:
    """Watch this process from now on, as that rank. Libraries that were imported before the fork are watched at once."""
    if signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL:
        heartbeat.dump_stacks_on_signal(run.attempt(attempt) / f"stacks_{rank}.txt")
    watched = Watched(run, attempt, rank)
    for name in TABLE:
        if name in sys.modules:
            _attach(name, sys.modules[name], watched)
    sys.meta_path.insert(0, _Finder(watched))
    return watched


def of_this_rank(run: RunDir, attempt: int, rank: int) -> Watched | None:
    """As `install`; None where that failed, which must not end a program."""
    try:
        return install(run, attempt, rank)
    except Exception as error:
        print(
            f"ascend-launch: the program is not watched: {type(error).__name__}: {error}", file=sys.stderr, flush=True
        )
        return None


def _attach(name: str, module: ModuleType, watched: Watched) -> None:
    watched.guarded(name, lambda: importlib.import_module(TABLE[name]).attach(module, watched))()


class _Finder:
    """Finds what all others find, and has a module of the table looked at once it has been run."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._looking: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name not in TABLE or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.discard(name)
        if spec is not None and spec.loader is not None:
            self._follow(name, spec.loader)
        return spec

    def _follow(self, name: str, loader: Any) -> None:
        """The loader is of this one module, and stays what it is for all who look at it."""
        run, watched = loader.exec_module, self._watched

        def run_and_attach(module: ModuleType) -> None:
            run(module)
            _attach(name, module, watched)

        with contextlib.suppress(AttributeError):  # one that takes no attribute: not watched, and imported all the same
            loader.exec_module = run_and_attach
