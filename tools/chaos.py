"""Injects faults into real ranks again and again, and prints what came of it: ascend-launch beside torchrun.

    python tools/chaos.py [--repeats 1] [--only slow_teardown] [--no-torchrun] [--restarts]
    python tools/chaos.py --random 60 [--seed 0]

ascend-launch trains recipes/tiny-cpu.yaml; torchrun trains tools/chaos_stock.py, the Trainer with its own checkpoints
and resume. Both have two CPU ranks, a toy Llama and a checkpoint every five steps; the fault strikes rank 1 at the
beginning of step 33, or the launcher or the disk at that moment. Printed are the rank that is blamed, the seconds until
the launcher has ended, what is left alive, and what the same command does when it is given once more: whether it
finishes, and how many steps are done twice. With --restarts the launcher itself starts the ranks again, and the seconds
are those from the fault to the next step. The two run one after the other in each round.

With --random, ascend-launch alone: each time a strategy, a fault, the rank and the step that it strikes are drawn, and the
model, the figures of each epoch and the predictions are compared, bit by bit, with those of a run that nothing befell.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pty
import random
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).resolve().parent.parent
INJECT = REPO / "tests/ranks/faults/inject"
STEP, RANK = 33, 1
IN_RANK = ("raise", "slow_teardown", "kill", "exit", "memory", "orphan", "kill_loader", "stop", "sleep")
SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "kill_launcher": signal.SIGKILL}
DISK = ("disk_full", "read_only")
DAMAGE = ("truncated", "bit_flipped", "incomplete")
"""Of the newest checkpoint, after a kill and before the second command."""
STREAMS = {
    "head": '"$@" 2>&1 | head -3; exit ${PIPESTATUS[0]}',
    "head_term": '"$@" 2>&1 | head -3; exit ${PIPESTATUS[0]}',
    "full_stdout": 'exec "$@" >/dev/full 2>&1',
    "full_stdout_json": 'exec "$@" --json >/dev/full',
    "closed_streams": 'exec "$@" <&- >&- 2>&-',
    "tee_int": '"$@" 2>&1 | tee /dev/null; exit ${PIPESTATUS[0]}',
    "window": 'exec "$@"',
    "disown": 'set -m; ("$@"; echo $? >"$CODE.part"; mv "$CODE.part" "$CODE") & disown; sleep 600',
}
"""Standard output that cannot be written, each as a shell's line. tee_int: ^C at a terminal, which the reader gets too;
window, disown: the terminal is closed, under a command in the foreground and in the background; head_term: SIGTERM after the
reader left."""
TERMINAL = ("tee_int", "window", "disown")
TRAINS_ON = ("head", "full_stdout", "full_stdout_json", "closed_streams", "window", "disown")
FAULTS = (*IN_RANK, *SIGNALS, *DISK, *DAMAGE)
DRAWN = ("raise", "kill", "exit", "stop", "sleep", *SIGNALS, "disk_full", *DAMAGE)
STRATEGIES = ("ddp", "zero2", "fsdp2")
RESTARTED = ("raise", "kill", "exit", "kill_loader", "stop", "sleep")
HANG_S = 8
PATIENCE_S = 90
"""A launcher that has not ended by then is said to hang, and is ended."""
MEMORY_BYTES = 6 << 30


@dataclass
class Result:
    blamed: int | None = None
    seconds: float | None = None
    """From the fault to the launcher's end, or with restarts to the next step. None: it hung, or never went on."""
    left: int = 0
    """Processes alive five seconds after the launcher's end."""
    code: int | None = None
    """Of the launcher; None where it had to be killed."""
    again: int | None = None
    """Exit code of the same command, given once more."""
    lost: int | None = None
    """Steps that were done before the fault and had to be done again."""
    traces: dict[str, str] = field(default_factory=dict)
    """Of what there is at the end, for comparison."""


class Job:
    """One launcher in one folder."""

    def __init__(
        self,
        launcher: str,
        folder: Path,
        fault: str,
        restarts: int,
        *,
        rank: int = RANK,
        step: int = STEP,
        strategy: str = "ddp",
    ) -> None:
        self.out, self.stamp, self.code = folder / "run", folder / "stamp", folder / "code"
        self.launcher, self.fault, self.restarts = launcher, fault, restarts
        self.rank, self.step, self.strategy = rank, step, strategy
        self.tag = folder.name
        self.terminal: Terminal | None = None

    def argv(self) -> list[str]:
        if self.launcher == "torchrun":
            program = str(Path(sys.executable).parent / "torchrun")
            options = ["--standalone", "--nproc-per-node", "2", f"--max-restarts={self.restarts}"]
            return [program, *options, str(REPO / "tools/chaos_stock.py"), str(self.out)]
        options = ["--device", "cpu", "--nproc", "2", "--hang-timeout", str(HANG_S), "--run-dir", str(self.out)]
        words = ["training.save_strategy=steps", "training.save_steps=5", f"parallel.strategy={self.strategy}"]
        words += ["training.dataloader_num_workers=1"] if self.fault == "kill_loader" else []
        restarts = ["--max-restarts", str(self.restarts)] if self.restarts else []
        return [sys.executable, "-m", "launcher.cli", *options, *restarts, "recipes/tiny-cpu.yaml", *words]

    def env(self, fault: str) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "TORCHELASTIC"))}
        env |= {"PYTHONPATH": f"{INJECT}:{REPO}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        env |= {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "GLOO_SOCKET_IFNAME": "lo", "CHAOS": self.tag}
        if self.fault == "kill_loader":
            env["LOADER_WORKERS"] = "1"
        in_rank = fault if fault in IN_RANK else "kill" if fault in DAMAGE else "none"
        strikes = f"{in_rank} {self.rank} {self.step if fault else -1}"
        return env | {"FAULT": strikes, "FAULT_STAMP": str(self.stamp), "CODE": str(self.code)}

    def start(self, fault: str, log: Path) -> psutil.Popen:
        limit = ["prlimit", f"--as={MEMORY_BYTES}"] if fault == "memory" else []
        if self.fault == "read_only":  # for root too
            limit = ["setpriv", "--bounding-set=-dac_override"]
        if fault in TERMINAL:
            self.terminal = Terminal()
            argv = ["setsid", "--ctty", "bash", "-c", STREAMS[fault], "bash", *self.argv()]
            return self.terminal.start(argv, self.env(fault))
        if fault in STREAMS:
            limit = ["bash", "-c", STREAMS[fault], "bash"]
        with log.open("w") as out:
            return psutil.Popen(
                [*limit, *self.argv()],
                cwd=REPO,
                env=self.env(fault),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def events(self) -> list[dict[str, Any]]:
        """As far as they were written."""
        events = []
        with contextlib.suppress(OSError):
            for line in (self.out / "events.jsonl").read_text().splitlines():
                with contextlib.suppress(ValueError):  # a full disk takes half a line
                    events.append(json.loads(line))
        return events

    def has_struck(self) -> bool:
        """Whether the fault happened; the file is made a moment before the time is in it."""
        return self.stamp.exists() and bool(self.stamp.read_text())

    def steps(self) -> list[tuple[float, int]]:
        """Time and number of each step that was done."""
        return [(e["time"], e["step"]) for e in self.events() if e["event"] in ("step", "log")]

    def processes(self) -> list[psutil.Process]:
        """What carries this job's mark in its environment, wherever it went."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("CHAOS") == self.tag and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def blamed(self, log: Path) -> int | None:
        if self.launcher == "torchrun":
            root = re.search(r"Root Cause.*?rank\s*:\s*(\d+)", log.read_text(errors="replace"), re.DOTALL)
            return int(root[1]) if root else None
        with contextlib.suppress(OSError, ValueError):
            rank: int | None = json.loads((self.out / "failure.json").read_text())["rank"]
            return rank
        return None

    def newest(self) -> Path | None:
        found = list((self.out / "checkpoints").glob("checkpoint-*"))
        return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


class Terminal:
    """A terminal that is read until somebody types, or its window is closed."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.is_closed = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)

    def start(self, argv: list[str], env: dict[str, str]) -> psutil.Popen:
        slave = self.slave
        env = env | {"TERM": "xterm-256color"}
        process = psutil.Popen(argv, cwd=REPO, env=env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.reader.start()
        return process

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        self.is_closed.set()
        self.reader.join()
        os.close(self.master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # everybody on the other side has left
            while not self.is_closed.is_set():
                if select.select([self.master], [], [], 0.1)[0]:
                    os.read(self.master, 1 << 16)


def one(launcher: str, fault: str, restarts: int, **where: Any) -> Result:
    """Have the fault in one job; `where`: its rank, step and strategy."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as parent, _disk(Path(parent) / "run", fault in DISK) as disk:
        job = Job(launcher, Path(parent), fault, restarts, **where)
        log = Path(parent) / "log"
        process = job.start(fault, log)
        try:
            result = _observed(job, process, log, disk)
            result.traces = _traces(job.out)
            return result
        finally:
            for left in job.processes():
                with contextlib.suppress(psutil.Error):
                    left.kill()
            process.wait()


def _observed(job: Job, process: psutil.Popen, log: Path, disk: Callable[[str], None]) -> Result:
    result = Result()
    _wait(lambda: job.has_struck() or process.poll() is not None, 4 * PATIENCE_S)
    if not job.has_struck():
        sys.exit(f"{job.launcher}: no fault happened:\n{log.read_text()}")
    struck = float(job.stamp.read_text())
    if job.fault in SIGNALS:
        process.send_signal(SIGNALS[job.fault])
    if job.fault == "head_term":
        _launcher(process).send_signal(signal.SIGTERM)
    if job.terminal is not None:
        if job.fault == "tee_int":
            job.terminal.type(b"\x03")
        else:
            job.terminal.close()
    disk(job.fault)
    if job.restarts:
        after: list[tuple[float, int]] = []
        _wait(lambda: after.extend(_next(job, struck)) or bool(after) or process.poll() is not None, PATIENCE_S)
        result.seconds, result.lost = (after[0][0] - struck, max(0, STEP - after[0][1] + 1)) if after else (None, None)
        _wait(lambda: process.poll() is not None, PATIENCE_S)
        result.code = process.poll()
        return result
    if job.fault == "disown":  # the shell has gone with the window, and leaves the command's code
        if _wait(job.code.exists, PATIENCE_S):
            result.code, result.seconds = int(job.code.read_text()), time.time() - struck
    elif _wait(lambda: process.poll() is not None, PATIENCE_S):
        result.code, result.seconds = process.returncode, time.time() - struck
        _wait(lambda: not job.processes(), 5)
    result.left, result.blamed = len(job.processes()), job.blamed(log)
    for left in job.processes():
        with contextlib.suppress(psutil.Error):
            left.kill()
    if result.code == 0:
        return result  # it trained on to the end
    disk("mend")
    if job.fault in DAMAGE:
        damage(job, job.fault)
    began = time.time()
    again = job.start("", log.with_name("again"))
    _wait(lambda: again.poll() is not None, PATIENCE_S)
    result.again = again.poll()
    after = [step for step in job.steps() if step[0] > began]
    result.lost = max(0, job.step - after[0][1] + 1) if after else None
    return result


def _launcher(shell: psutil.Popen) -> psutil.Process:
    """The command among what a shell has started."""
    return next(p for p in shell.children() if "launcher.cli" in p.cmdline())


def _next(job: Job, struck: float) -> list[tuple[float, int]]:
    """The next attempt's first step. torchrun tells no attempts: there it is one that had been done before."""
    restarts = [e["time"] for e in job.events() if e["event"] == "restart"]
    if job.launcher == "torchrun":
        return [(at, step) for at, step in job.steps() if at > struck and step <= STEP][:1]
    return [(at, step) for at, step in job.steps() if restarts and at > restarts[0]][:1]


def damage(job: Job, how: str) -> None:
    """Damage the weights of the newest checkpoint."""
    newest = job.newest()
    if newest is None:
        sys.exit("there is no checkpoint to damage")
    weights = max((p for p in newest.rglob("*.safetensors")), key=lambda p: p.stat().st_size)
    if how == "incomplete":
        (newest / "trainer_state.json").unlink()
    elif how == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        with weights.open("r+b") as file:
            for offset in (weights.stat().st_size // 2, weights.stat().st_size * 3 // 4):
                file.seek(offset + 3 - offset % 4)  # the exponent of a float32
                value = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([value ^ 0x40]))


@contextlib.contextmanager
def _disk(folder: Path, is_own: bool) -> Iterator[Callable[[str], None]]:
    """A small file system at `folder` that can be filled, and whose folders can be made read-only; and mended."""
    folder.mkdir()
    if not is_own:
        yield lambda fault: None
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "chaos", str(folder)], check=True)

    def change(fault: str) -> None:
        if fault == "disk_full":
            with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        elif fault in ("read_only", "mend"):
            (folder / "filler").unlink(missing_ok=True)
            for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
                path.chmod(0o555 if fault == "read_only" else 0o755)

    try:
        yield change
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _wait(done: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def show(fault: str, name: str, results: list[Result], restarts: int) -> None:
    """One line: medians, and counts of runs."""
    count = len(results)
    seconds = [r.seconds for r in results if r.seconds is not None]
    median = f"{statistics.median(seconds):.1f} s" if seconds else "-"
    lost = ", ".join(map(str, sorted({r.lost for r in results if r.lost is not None}))) or "-"
    if restarts:
        done = sum(r.code == 0 for r in results)
        print(f"| {fault} | {name} | {median} to the next step | finished {done}/{count} | {lost} steps again |")
        return
    blamed = f"right rank {sum(r.blamed == RANK for r in results)}/{count}" if fault in IN_RANK else "-"
    hung = sum(r.code is None for r in results)
    end = (
        f"hangs after {PATIENCE_S} s"
        if hung == count
        else f"{median}, exit {sorted({r.code for r in results}, key=str)}"
    )
    left = max(r.left for r in results)
    again = (
        "trained on" if all(r.code == 0 for r in results) else f"{sum(r.again == 0 for r in results)}/{count} finish"
    )
    print(f"| {fault} | {name} | {blamed} | {end} | {left} left | {again} | {lost} steps again |", flush=True)


def drawn(count: int, seed: int) -> None:
    """That many faults by chance, each in a job of its own, and whether the job ended as if nothing had happened."""
    draw = random.Random(seed)
    whole = {strategy: _whole(strategy) for strategy in STRATEGIES}
    kinds = [*DRAWN, *STREAMS]
    equal = 0
    for number in range(count):
        strategy, fault = STRATEGIES[number % len(STRATEGIES)], draw.choice(kinds)
        rank, step = draw.randrange(2), draw.randrange(6, 55)
        result = one("ascend-launch", fault, 0, rank=rank, step=step, strategy=strategy)
        differ = [name for name in whole[strategy] if result.traces.get(name) != whole[strategy][name]]
        is_right = not differ and not result.left and (fault not in TRAINS_ON or result.code == 0)
        equal += is_right
        verdict = "bit-equal" if is_right else f"DIFFERENT: {', '.join(differ) or result}"
        print(
            f"{number + 1:>3}  {strategy:<6} {fault:<17} rank {rank} step {step:>2}  exit {result.code}, then {result.again}  {verdict}",
            flush=True,
        )
    print(f"{equal} of {count} bit-equal (seed {seed})")


def _whole(strategy: str) -> dict[str, str]:
    """What a job leaves that nothing befell."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as parent:
        job, log = Job("ascend-launch", Path(parent), "", 0, strategy=strategy), Path(parent) / "log"
        if job.start("", log).wait():
            sys.exit(f"{strategy}: a job without a fault failed:\n{log.read_text()}")
        return _traces(job.out)


def _traces(out: Path) -> dict[str, str]:
    """Digests of what a training is for, as far as it is there."""
    traces = {}
    for name in ("model/model.safetensors", "predictions.jsonl"):
        with contextlib.suppress(OSError):
            traces[name] = hashlib.sha256((out / name).read_bytes()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        traces["epochs"] = json.dumps(json.loads((out / "metrics.json").read_text())["epochs"])
    return traces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=(*FAULTS, *STREAMS), action="append")
    parser.add_argument("--no-torchrun", action="store_true")
    parser.add_argument("--restarts", action="store_true")
    parser.add_argument("--random", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.random:
        drawn(args.random, args.seed)
        return
    launchers = ("ascend-launch",) if args.no_torchrun else ("ascend-launch", "torchrun")
    # torchrun often needs two: its second attempt finds the first one's addresses in the store, and fails.
    restarts = {"ascend-launch": 1, "torchrun": 3} if args.restarts else dict.fromkeys(launchers, 0)
    for fault in args.only or (RESTARTED if args.restarts else (*FAULTS, *STREAMS)):
        # The Trainer under torchrun is not asked what it does without a terminal.
        names = launchers if fault in FAULTS else launchers[:1]
        results: dict[str, list[Result]] = {name: [] for name in names}
        for _ in range(args.repeats):
            for name in names:
                results[name].append(one(name, fault, restarts[name]))
        for name, found in results.items():
            show(fault, name, found, restarts[name])


if __name__ == "__main__":
    main()
