"""A command whose torchrun comes to our agent, whichever way it starts one: by that name, by `python -m
torch.distributed.run`, or by calling torch.distributed.run in its own process. Nothing on disk is changed.

What a command finds: this package's `torchrun` and `deepspeed` first on PATH, and `path/sitecustomize.py` first on
PYTHONPATH, which answers for torch.distributed.run alone. Ranks see neither, so nothing comes back to itself.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = "ASCEND_LAUNCH_NESTED"
"""Our own options for every launch of the command, as JSON; its presence switches the rest on."""
BIN = "ASCEND_LAUNCH_NESTED_BIN"
"""The folder with our `torchrun`, to be taken off PATH again."""
HOOK = str(Path(__file__).parent / "path")
START = "import sys; sys.path[:] = [p for p in sys.path if p]; from launcher.cli import main; main()"
"""Our command line, without the working directory on sys.path."""


def prepare(folder: Path, words: list[str], env: Mapping[str, str]) -> dict[str, str]:
    """Put `torchrun` and `deepspeed` into `folder`, and return the environment of the command."""
    for name in ("torchrun", "deepspeed"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", START, *words, name])} "$@"\n')
        script.chmod(0o755)
    return {
        **env,
        WORDS: json.dumps(words),
        BIN: str(folder),
        "PATH": os.pathsep.join([str(folder), env.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [HOOK, env.get("PYTHONPATH", "")])),
    }


def leave(env: dict[str, str]) -> None:
    """Take all of it out of an environment again."""
    env.pop(WORDS, None)
    folder = env.pop(BIN, None)
    for name, ours in (("PATH", folder), ("PYTHONPATH", HOOK)):
        if ours is not None and name in env:
            kept = [place for place in env[name].split(os.pathsep) if place != ours]
            env[name] = os.pathsep.join(kept)
    if env.get("PYTHONPATH") == "":
        del env["PYTHONPATH"]


def words_of(args: Any) -> list[str]:
    """torch.distributed.run's parsed arguments (an argparse.Namespace) as this launcher's options."""
    named = {
        "nnodes": "--nnodes",
        "nproc_per_node": "--nproc-per-node",
        "rdzv_backend": "--rdzv-backend",
        "rdzv_id": "--rdzv-id",
        "rdzv_conf": "--rdzv-conf",
        "max_restarts": "--max-restarts",
        "role": "--role",
        "log_dir": "--log-dir",
        "redirects": "--redirects",
        "tee": "--tee",
        "local_ranks_filter": "--local-ranks-filter",
        "local_addr": "--local-addr",
        "event_log_handler": "--event-log-handler",
        "logs_specs": "--logs-specs",
        "numa_binding": "--numa-binding",
        "shutdown_timeout": "--shutdown-timeout",
    }
    out = []
    for name, option in named.items():
        value = getattr(args, name, None)
        # Its default of nodes says nothing, so that the cluster may.
        if value not in (None, "", "none", "null", "0", 0) and (name, value) != ("nnodes", "1:1"):
            out += [option, str(value)]
    if getattr(args, "standalone", False):
        out.append("--standalone")
    elif str(args.nnodes).partition(":")[0] != "1":
        endpoint = getattr(args, "rdzv_endpoint", "")
        static = ["--master-addr", str(args.master_addr), "--master-port", str(args.master_port or 29500)]
        out += ["--rdzv-endpoint", endpoint] if endpoint else static
        out += ["--node-rank", str(args.node_rank)]
    elif getattr(args, "master_port", None):
        out += ["--master-port", str(args.master_port)]
    flags = {"module": "-m", "no_python": "--no-python", "virtual_local_rank": "--virtual-local-rank"}
    out += [option for name, option in flags.items() if getattr(args, name, False)]
    return [*out, args.training_script, *map(str, args.training_script_args)]


def run(args: Any) -> None:
    """In place of torch.distributed.run.run: the same job under our agent.

    Raises:
        SystemExit: it failed, with its exit code.
    """
    import subprocess

    code = subprocess.call([sys.executable, "-c", START, *json.loads(os.environ[WORDS]), "torchrun", *words_of(args)])
    if code:
        raise SystemExit(code)


def main() -> None:
    """In place of `python -m torch.distributed.run`: become our command line."""
    sys.stdout.flush()
    words = [*json.loads(os.environ[WORDS]), "torchrun", *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, "-c", START, *words])  # noqa: S606
