"""A job that is the user's own program: what every rank runs, as it was typed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import MutableMapping
from pathlib import Path
from typing import Literal

from launcher.errors import LaunchError
from launcher.recipe.schema import Section

Kind = Literal["script", "module", "executable"]


class Program(Section):
    """What every rank runs, as torchrun's arguments: a script, `-m` a module, or `--no-python` an executable."""

    kind: Kind
    target: str
    """A script's path as typed, a module's dotted name, or an executable's path or name."""
    args: tuple[str, ...] = ()
    """Its arguments. A run directory's plan.json holds them with secrets hidden, see `ARGS`."""
    role: str = "default"
    """ROLE_NAME of the ranks."""
    local_rank_option: bool = False
    """Whether `--local-rank=N` comes before the arguments, as torch.distributed.launch puts it."""
    separate_logs: tuple[int, ...] = ()
    """Local ranks whose standard output and standard error have a log each."""

    @property
    def name(self) -> str:
        """A name for the run: the script's without its ending, the module's last part."""
        return self.target.rpartition(".")[2] if self.kind == "module" else Path(self.target).stem

    def argv(self, local_rank: int) -> list[str]:
        """sys.argv of a rank; a module's first argument is replaced by its file's path where it starts."""
        own = [f"--local-rank={local_rank}"] if self.local_rank_option else []
        return [self.target, *own, *self.args]

    @property
    def command(self) -> str:
        """The command of a rank, ready to paste."""
        start = {"script": ["python"], "module": ["python", "-m"], "executable": []}[self.kind]
        return shlex.join([*start, self.target, *self.args])


ARGS = "ASCEND_LAUNCH_PROGRAM_ARGS"
"""The arguments as typed, in the agent's environment, where plan.json must not hold them: JSON."""


def as_typed(program: Program, env: MutableMapping[str, str]) -> Program:
    """The program with the arguments that the user typed, which leave the environment with this."""
    text = env.pop(ARGS, None)
    return program if text is None else program.model_copy(update={"args": tuple(json.loads(text))})


def check(program: Program) -> None:
    """Refuse what no rank could start.

    Raises:
        LaunchError: there is no such script, or nothing executable of that name.
    """
    import shutil

    if program.kind == "script":
        path = Path(program.target)
        if not path.exists():
            raise LaunchError("{path}: no such file", hint="name a program (.py), or a recipe (.yaml)", path=path)
        if path.is_dir() and not (path / "__main__.py").is_file():
            raise LaunchError("{path}: a folder without __main__.py", hint="name the program's file", path=path)
        if not os.access(path, os.R_OK):
            raise LaunchError("{path}: cannot be read", hint="have its permissions changed", path=path)
        if path.is_file() and not _may_be_python(path):
            raise LaunchError(
                "{path}: is no Python program",
                hint="with --no-python before it, every rank runs it as it is",
                path=path,
            )
    elif program.kind == "executable" and shutil.which(program.target) is None:
        if os.sep in program.target and Path(program.target).is_file():
            raise LaunchError("{path}: is not executable", hint="chmod +x {path}", path=shlex.quote(program.target))
        raise LaunchError(
            "{target}: no such executable on PATH",
            hint="give its path; a Python file needs no --no-python",
            target=program.target,
        )


def _may_be_python(path: Path) -> bool:
    """Whether Python could run a file: one that names another interpreter may still be written so that both take it."""
    with path.open("rb") as file:
        head = file.readline(4096)
        if head.startswith(b"\x7fELF"):
            return False
        if not head.startswith(b"#!") or b"python" in head:
            return True
        try:
            compile(head + file.read(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
    return True
