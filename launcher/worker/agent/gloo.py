"""Gloo's threads come to rest before what they belong to is taken apart.

A `pt_gloo_runloop` thread may still be letting go of the last collective's tensors after that collective's result is known, and
needs the GIL for it. Whoever ends the process group meanwhile with the GIL held, as DDP's Reducer does, waits for the thread
for ever; and once Python is ending, a thread that asks for the GIL ends the process with SIGABRT. Both are torch's (2.13).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "torch.distributed.distributed_c10d"
_THREAD = "pt_gloo_runloop"
_PAUSE_S = 0.02
"""Several times what a thread waits for the GIL at a time, sys.getswitchinterval()."""
_LONGEST_S = 5.0
"""A thread that is at work for longer has work that nobody waited for."""


def settle() -> None:
    """Called before torch is imported: wait for them where a program ends its process group, and at its end."""
    atexit.register(rest)
    sys.meta_path.insert(0, _Finder)


def rest() -> None:
    """Wait until each of them sleeps, and not for the GIL: who waits for that wakes at every switch interval."""
    deadline = time.monotonic() + _LONGEST_S
    last = None
    while time.monotonic() < deadline:
        now = _threads()
        if not now or (now == last and all(is_asleep for _, is_asleep, _ in now)):
            return
        last = now
        time.sleep(_PAUSE_S)  # without the GIL


def _threads() -> list[tuple[str, bool, str]]:
    """Of each its id, whether it sleeps, and how often it has fallen asleep so far."""
    found = []
    for task in os.scandir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has just ended
            lines = Path(task.path, "status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if status["Name"] == _THREAD:
                found.append((task.name, status["State"].startswith("S"), status["voluntary_ctxt_switches"]))
    return sorted(found)


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """torch's own, and then the change."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        module.destroy_process_group = _then_rest(module.destroy_process_group)  # type: ignore[attr-defined]


def _then_rest(destroy: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(destroy)
    def destroy_process_group(*args: Any, **options: Any) -> Any:
        try:
            return destroy(*args, **options)
        finally:
            rest()

    return destroy_process_group
