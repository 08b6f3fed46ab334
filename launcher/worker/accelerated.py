"""The environment that `accelerate launch ARGS` of this Python would give its ranks, as JSON on standard output.

accelerate itself decides: its command runs as far as the place where it would start the ranks, which only looks at the
environment here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from launcher.messages import Message


def main() -> NoReturn:
    """`{"version": …, "set": {name: value}}`, or `{"error": …}` where accelerate refuses the arguments."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not part of the answer
    before = dict(os.environ)
    try:
        answer = _asked(sys.argv[1:], before)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(out, json.dumps(answer).encode())
    sys.exit(0)


def _asked(argv: list[str], before: Mapping[str, str]) -> dict[str, object]:
    import accelerate
    import torch.distributed.run as torchrun
    from accelerate.commands import launch

    seen: dict[str, str] = {}

    def look(args: argparse.Namespace) -> None:
        seen.update(os.environ)

    def look_at_one(args: argparse.Namespace) -> None:
        seen.update(launch.prepare_simple_launcher_cmd_env(args)[1])

    torchrun.run = look
    launch.simple_launcher = look_at_one
    args = launch.launch_command_parser().parse_args(argv)
    if args.training_script_args:
        raise ValueError(Message("{training_script}: no option", training_script=args.training_script))
    launch.launch_command(args)
    if not seen:
        raise ValueError(Message("these arguments start no ranks on this machine"))
    changed = {name: value for name, value in sorted(seen.items()) if before.get(name) != value}
    return {"version": accelerate.__version__, "set": changed}
