"""One rank of a planned run, under torchrun's environment variables: `python -m launcher.worker --run-dir DIR`.

For accelerate launch, torchrun, deepspeed and a debugger; our own agent forks its ranks instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from launcher import streams
from launcher.errors import LaunchError
from launcher.rundir.paths import RunDir
from launcher.worker import start
from launcher.worker.agent import gloo


def main() -> None:
    """Settle the environment before anything imports torch, then train."""
    streams.settle(may_be_lost=True)
    parser = argparse.ArgumentParser(prog="python -m launcher.worker", description=__doc__.partition(":")[0])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, default=0)
    # deepspeed's launcher adds it; the variable LOCAL_RANK, which it also sets, is what counts.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        start.settle(RunDir(options.run_dir))
    except LaunchError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    gloo.settle()  # this process ends as Python does

    from launcher.worker import rank

    rank.main(options.run_dir, options.attempt)


if __name__ == "__main__":
    main()
