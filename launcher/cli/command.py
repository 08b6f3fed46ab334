"""command: any command, once; every torchrun that it starts is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from launcher.cli.options import supervision_options
from launcher.errors import LaunchError


@click.command(name="command", context_settings={"allow_interspersed_args": False})
@supervision_options
@click.option(
    "--run-dir", metavar="FOLDER", help="Directory of the run that the command starts [default: a new one below runs]."
)
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND [ARGS]...", type=click.UNPROCESSED)
@click.pass_context
def command_command(context: click.Context, words: tuple[str, ...], **given: object) -> None:
    """Run COMMAND once, as it is; every torchrun that it starts runs under our agent.

    \b
      ascend-launch --max-restarts 1 -- llamafactory-cli train sft.yaml
      ascend-launch -- bash train.sh

    The options are given to each such launch, beside those that the command itself gives.
    """
    from launcher import nested

    ours: list[str] = []
    for name, value in given.items():
        source = context.get_parameter_source(name)
        if value is not None and source is not None and source.name == "COMMANDLINE":
            ours += [f"--{name.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory(prefix="ascend-launch-") as folder:
        env = nested.prepare(Path(folder), ours, os.environ)
        try:
            child = subprocess.Popen(words, env=env)
        except OSError as error:
            raise LaunchError(
                f"{words[0]}: {error.strerror}", hint="what follows -- is a command on PATH, or its path"
            ) from None
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends ^C to the command as well
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, lambda number, frame: child.send_signal(number))
        code = child.wait()
    sys.exit(128 - code if code < 0 else code)
