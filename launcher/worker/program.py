"""A rank that is the user's own program: `__main__` as Python itself would run it, and an end as Python's own.

Imports nothing but what the agent has anyway; torch and what the program needs are preloaded by name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import runpy
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any, NoReturn

from launcher import files
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.program import Program
from launcher.rundir.paths import RunDir
from launcher.worker.agent import preload as analysis
from launcher.worker.hooks import table as hooks
from launcher.worker.runtime import failure


def preload(plan: Plan) -> tuple[list[str], str]:
    """Import what the program's source shows to be safe; the modules, and why there are no more of them ('' where the
    program imports no others)."""
    assert plan.program is not None
    if not plan.supervision.preload:
        return [], "--no-preload"
    imports = analysis.of(plan.program, Path.cwd())
    wanted = list(imports.modules)
    if imports.may_import_torch and "torch" not in wanted and importlib.util.find_spec("torch") is not None:
        wanted.append("torch")
    extension = plan.accelerator.torch_extension
    if extension is not None and imports.may_import_torch and importlib.util.find_spec(extension) is not None:
        wanted.append(extension)
    done: list[str] = []
    for name in wanted:
        try:
            importlib.import_module(name)
            done.append(name)
            __import__(name, fromlist=imports.names.get(name, ()))
        except BaseException as error:  # the rank meets it again, and says so where the program would
            return done, Message(
                "importing {name} failed: {kind}: {error}", name=name, kind=type(error).__name__, error=error
            )
    return done, imports.reason


def execute(program: Program, local_rank: int) -> NoReturn:
    """Become the executable.

    Raises:
        LaunchError: it cannot be started.
    """
    try:
        os.execvp(program.target, program.argv(local_rank))  # noqa: S606
    except OSError as error:
        raise LaunchError(
            "{target}: {problem}", exit_code=EXIT_JOB_FAILED, target=program.target, problem=error.strerror
        ) from None


def main(program: Program, run: RunDir, attempt: int, rank: int, *, has_hooks: bool) -> int:
    """Run the program as this rank; the exit code that Python would end with.

    Its traceback goes to stderr as Python prints it; error_<r>.json says the same to the agent.

    Args:
        has_hooks: whether the libraries that the program imports are watched.
    """
    error_path = run.error_path(attempt, rank)
    watched = hooks.of_this_rank(run, attempt, rank) if has_hooks else None
    try:
        _run(program, int(os.environ["LOCAL_RANK"]))
    except SystemExit as stop:
        if watched is not None and watched.is_preempted:
            return EXIT_TERMINATED
        if stop.code is None or stop.code == 0:
            return EXIT_OK
        code = stop.code & 0xFF if isinstance(stop.code, int) else EXIT_JOB_FAILED
        how = code if isinstance(stop.code, int) else f"1: {stop.code}"
        if not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        flush()
        problem = LaunchError(
            "{target} ended with exit code {how}", exit_code=EXIT_JOB_FAILED, target=program.target, how=how
        )
        # argparse says what is wrong on stderr; the first rank's is on the screen already, unless it is kept off.
        local_rank = int(os.environ["LOCAL_RANK"])
        is_shown = local_rank == 0 and local_rank not in program.separate_logs
        log_tail = "" if is_shown else files.tail(run.last_words(attempt, rank))
        failure.leave(error_path, problem, rank, traceback_text=log_tail)
        return code
    except KeyboardInterrupt as error:
        _print(error)
        return EXIT_INTERRUPTED
    except BaseException as error:
        error.__traceback__ = _own(error)
        failure.leave(error_path, error, rank)
        _print(error)
        return EXIT_JOB_FAILED
    finally:
        if watched is not None:
            watched.end()
    return EXIT_OK


def flush() -> None:
    """Write out what the program has printed; it may have closed its streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _run(program: Program, local_rank: int) -> None:
    main_module = types.ModuleType("__main__")
    main_module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main_module
    sys.argv = program.argv(local_rank)
    if program.kind == "module":
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as Python itself spells it
        runpy._run_module_as_main(program.target)  # type: ignore[attr-defined]
        return
    path = Path(program.target)
    if path.is_dir() or not _is_source(path):
        sys.path.insert(0, str(path.resolve()))
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    # The folder of what a link leads to comes first, and __file__ is absolute: as Python does.
    sys.path.insert(0, str(path.resolve().parent))
    absolute = str(Path.cwd() / path)
    loader = importlib.machinery.SourceFileLoader("__main__", absolute)
    main_module.__dict__.update(__file__=absolute, __loader__=loader, __spec__=None, __package__=None, __cached__=None)
    exec(compile(path.read_bytes(), absolute, "exec", dont_inherit=True), main_module.__dict__)  # noqa: S102


def _is_source(path: Path) -> bool:
    import zipfile

    return not zipfile.is_zipfile(path)


def _print(error: BaseException) -> None:
    tb = error.__traceback__ = _own(error)
    try:
        sys.excepthook(type(error), error, tb)
    except BaseException:
        traceback.print_exception(type(error), error, tb)


def _own(error: BaseException) -> types.TracebackType | None:
    """The traceback from the program's own first frame on; of a file that does not parse there is none."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    tb: Any = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename in ours:
        tb = tb.tb_next
    return tb if tb is not None or isinstance(error, SyntaxError) else error.__traceback__


def reset_signals() -> None:
    """As a fresh interpreter has them: ^C raises KeyboardInterrupt, the others end the process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
