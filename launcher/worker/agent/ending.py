"""The end of a forked rank of a program: Python's own, without taking apart the libraries that were imported before the fork.

Taking torch apart costs each rank 0.3 s of CPU and a copy of 80 MB of memory that it shared until then, and nobody sees the
result. What a program leaves for its end happens all the same: threads are joined, atexit functions run, child processes are
joined, the program's objects and modules are destroyed, and files of it that are still open are flushed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import os
import stat
import sys
import weakref
from types import ModuleType
from typing import Any, NoReturn

_kept: dict[str, ModuleType] = {}
_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def begin() -> None:
    """Called before any library is imported: what is registered with atexit first runs last."""
    atexit.register(_spare)


def keep_libraries() -> None:
    """Called before the ranks are forked: what is imported by now is not taken apart when one of them ends.

    Nor is what C and C++ libraries registered by now for the end of the process; what a program loads itself is. Where
    something is preloaded into every process, its report at the end is most likely what it is there for, so all of it runs.
    """
    ours = {n: m for n, m in sys.modules.items() if isinstance(m, ModuleType) and _is_foreign(n)}
    _kept.update(ours)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(list(ours.values())))  # outlives this module's own end
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        about = finalizer.peek()  # torch has one for each library of operators
        if about is not None and _is_foreign(getattr(about[1], "__module__", None) or ""):
            finalizer.atexit = False
    libc = ctypes.CDLL(None)
    if not os.environ.get("LD_PRELOAD") and hasattr(libc, "on_exit"):
        libc.on_exit(libc["_exit"], None)  # called with the exit code; handlers that are registered later run before it
        libc["__cxa_atexit"](libc.fflush, None, None)  # and so does this


def end(code: int) -> NoReturn:
    """End as Python ends. A forked rank cannot return to the interpreter's own end, since the agent's code lies in between;
    Py_Exit is what the interpreter calls there."""
    ctypes.pythonapi.Py_Exit(ctypes.c_int(code))
    raise AssertionError("Py_Exit does not return")


class _Stand:
    """Stands for a module that is kept: Python empties every module in sys.modules at its end, and leaves other objects."""

    __slots__ = ("_module",)

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _spare() -> None:
    if not _kept or _has_process_group():
        return
    _flush_files()
    for name, module in _kept.items():
        if sys.modules.get(name) is module:
            sys.modules[name] = _Stand(module)  # type: ignore[assignment]


def _is_foreign(module: str) -> bool:
    """Whether a module is a library's, and neither Python's own nor what was started."""
    top = module.partition(".")[0]
    return top not in ("", "__main__") and top not in sys.stdlib_module_names


def _has_process_group() -> bool:
    """One that the program left open is in torch's hands, and sends what is on its way when it is destroyed."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def _flush_files() -> None:
    """A library that is kept may hold a file of the program's. A pipe is left alone: a flush could wait for its reader."""
    for thing in gc.get_objects():
        if issubclass(type(thing), _WRITERS):
            with contextlib.suppress(OSError, ValueError):
                if stat.S_ISREG(os.fstat(thing.fileno()).st_mode):
                    thing.flush()
