"""Functions of the user's own in ranks: from the text that the plan carries, without a file, and nothing added to sys.path."""

from __future__ import annotations

import functools
import hashlib
import linecache
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.user_code import Reference


@dataclass(frozen=True)
class UserFunction:
    """A function of a recipe's `FILE.py:FUNCTION`, whose errors are the user's to read."""

    reference: Reference
    path: str
    """Of the file it came from, which need not be on this node."""
    function: Callable[..., Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a metric: those that it asks for besides."""
        return tuple(getattr(self.function, "columns", ()))

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """What it returns. Raises LaunchError, with the line of the user's file, for any exception in it, and for an exit: of the
        rank it would look like the end of a job that is done."""
        try:
            return self.function(*args, **keywords)
        except (Exception, SystemExit) as error:
            raise problem(error, self.reference, self.path) from _without_ours(error, self.path)


def load(plan: Plan, reference: Reference) -> UserFunction:
    """The function. Its file is run once a process.

    Raises:
        LaunchError: the file cannot be run, with its line.
    """
    path = str(reference.path(plan.recipe_dir))
    try:
        module = _module(path, plan.recipe.code[reference.file])
    except (Exception, SystemExit) as error:
        raise problem(error, reference, path) from _without_ours(error, path)
    return UserFunction(reference, path, getattr(module, reference.function))


@functools.cache
def _module(path: str, text: str) -> types.ModuleType:
    # Under a name that no import finds by chance; pickles, dataclasses and typing look for a class's module by its name.
    name = f"user_code_{hashlib.sha256(f'{path} {text}'.encode()).hexdigest()[:12]}"
    module = types.ModuleType(name)
    module.__file__ = path
    linecache.cache[path] = (
        len(text),
        None,
        text.splitlines(keepends=True),
        path,
    )  # of tracebacks, wherever the file is
    sys.modules[name] = module
    try:
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102 - what the recipe names is what is to be run
    except BaseException:
        del sys.modules[name]
        raise
    return module


def problem(error: Exception | SystemExit, reference: Reference, path: str) -> LaunchError:
    """An exception in the user's code, by its line there: the innermost one, with what it says."""
    if isinstance(error, LaunchError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == path]
    line = own[-1].lineno if own else getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    source = (own[-1].line or "").strip() if own else ""
    last = frames[-1] if frames else None
    raised = (
        Message(" (raised in {file}:{line})", file=last.filename, line=last.lineno)
        if own and last is not None and last.filename != path
        else ""
    )
    return LaunchError(
        "{path}:{line}: {kind}: {error}{raised}{source}",
        hint="correct {function} in that file",
        path=path,
        line=line or 1,
        kind=type(error).__name__,
        error=error,
        raised=raised,
        source=f"\n    {source}" if source else "",
        function=reference.function,
    )


def _without_ours(error: Exception | SystemExit, path: str) -> Exception | SystemExit:
    """The error with a traceback that begins in the user's file."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename != path:
        at = at.tb_next
    return error.with_traceback(at) if at is not None else error
