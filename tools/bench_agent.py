"""The agent beside torchrun: a plain script, and start, memory, restart and step of one that trains.

    python tools/bench_agent.py [--repeats 3] [--ranks 2 8] [--steps 2500] [--only plain]

Runs of the two are interleaved, and the one that goes first changes from round to round, so that a busy machine slows both
alike. A time is a median; a ratio is the median over neighbouring runs (of the step: turns), with its interval. A launcher
that fails or hangs is reported as such, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
JOB = Path(__file__).with_name("bench_agent_job.py")
PLAIN = Path(__file__).with_name("bench_agent_plain.py")
RECIPE = f"""\
extends: {REPO}/recipes/tiny-cpu.yaml
script: {JOB.name}
parallel: {{precision: fp32, global_batch_size: 8}}
"""
KILL_AT = 5
LAUNCHERS = ("ascend-launch", "torchrun")
TURN_S = 0.5
SETTLE_S = 0.1
"""Of a turn: a job that was stopped comes back with cold caches."""
TIMEOUT_S = 90.0
"""What takes longer counts as a hang."""
RESTARTS = 3
"""torchrun often needs two: its second attempt finds the first one's addresses in the store, and fails."""
KINDS = ("plain", "start", "restart", "step")
ROWS = {
    "plain_joined": ("plain script: command to its first collective, s", 1, "–"),
    "plain_end": ("plain script: command to its end, s", 1, "0.2 with 8"),
    "start": ("command to all ranks in the loop, s", 1, "0.25 with 8"),
    "memory": ("unique memory of a rank before the model, MB", 1e-6, "0.1"),
    "restart": ("killed rank to the next step of all ranks, s", 1, "0.25"),
    "step": ("one step, ms", 1e3, "1.01"),
}
"""What was measured → its title, the factor to its unit, and the ratio that is aimed at."""

Figures = dict[str, float]
Pair = dict[str, float]
"""A value for each launcher, measured next to each other."""


class RunError(Exception):
    """A job that did not do what it was started for: what it did instead."""


# -- jobs --------------------------------------------------------------------------------------------------------------


def argv(launcher: str, num_ranks: int, restarts: int, folder: Path) -> list[str]:
    if launcher == "torchrun":
        options = ["--standalone", "--nproc-per-node", str(num_ranks), "--max-restarts", str(restarts)]
        return [str(BIN / "torchrun"), *options, str(JOB)]
    recipe = folder.parent / "bench.yaml"
    (folder.parent / JOB.name).write_text(JOB.read_text())
    recipe.write_text(RECIPE)
    return [*_ours(num_ranks, folder), "--max-restarts", str(restarts), str(recipe)]


def plain_argv(launcher: str, num_ranks: int, folder: Path) -> list[str]:
    if launcher == "torchrun":
        return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(num_ranks), str(PLAIN)]
    return [*_ours(num_ranks, folder), str(PLAIN)]


def _ours(num_ranks: int, folder: Path) -> list[str]:
    options = ["--device", "cpu", "--nproc", str(num_ranks), "--run-dir", str(folder / "run")]
    return [sys.executable, "-m", "launcher.cli", *options]


def plain(launcher: str, num_ranks: int) -> Figures:
    """Seconds from the command to the first collective of all ranks, and to the command's end.

    Raises:
        RunError: it failed or hung.
    """
    with _folder() as folder:
        started = time.time()
        finish(plain_argv(launcher, num_ranks, folder), _environment(folder), folder.parent / "out.log")
        ended = time.time()
        joined = [float(path.read_text()) for path in folder.glob("joined_*")]
        if len(joined) != num_ranks:
            raise RunError(f"ended with 0 and {len(joined)} of {num_ranks} ranks did their work")
        return {"plain_joined": max(joined) - started, "plain_end": ended - started}


def run(launcher: str, num_ranks: int, num_steps: int, *, kill: bool = False) -> Figures:
    """One job that trains; what its ranks noted, in seconds and bytes.

    Raises:
        RunError: it failed or hung.
    """
    with _folder() as folder:
        started = time.time()
        command = argv(launcher, num_ranks, RESTARTS if kill else 0, folder)
        finish(command, _environment(folder, num_steps, kill=kill), folder.parent / "out.log")
        last = max((int(p.stem.rpartition("_")[2]) for p in folder.glob("rank_*.json")), default=0)
        paths = [folder / f"rank_{r}_{last}.json" for r in range(num_ranks)]
        if not all(path.exists() for path in paths):
            raise RunError(f"ended with 0 and not all of {num_ranks} ranks did their work")
        noted = [json.loads(path.read_text()) for path in paths]
        if kill:
            killed = float((folder / "killed").read_text())
            return {"restart": max(n["first_step"] for n in noted) - killed, "restarts": last}
        return {
            "start": max(n["loop"] for n in noted) - started,
            "memory": statistics.median(n["unique_bytes"] for n in noted),
        }


def finish(command: list[str], env: dict[str, str], log: Path, timeout_s: float = TIMEOUT_S) -> None:
    """Run a job to its end.

    Raises:
        RunError: it ended with another code than 0, or was ended for taking too long.
    """
    with log.open("w") as out:
        job = psutil.Popen(command, env=env, cwd=REPO, stdout=out, stderr=out, start_new_session=True)
        try:
            code = job.wait(timeout_s)
        except psutil.TimeoutExpired:
            raise RunError(f"hung: ended after {timeout_s:g} s") from None
        finally:
            _end(job)
    if code != 0:
        words = log.read_text(errors="replace").strip().splitlines()
        raise RunError(f"failed with exit code {code}: {' | '.join(words[-3:])}")


def steps(num_ranks: int, num_steps: int) -> list[Pair]:
    """Seconds of a step under each launcher: the median of a turn, in pairs of neighbouring turns.

    Both jobs live at once and take turns of TURN_S: one runs while every process of the other, launcher and all, is
    stopped. So a machine that grows busy slows both alike, and what a launcher does beside its ranks counts for it alone.

    Raises:
        RunError: one did not come to its loop, or to its end; its launcher is named.
    """
    turns: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as parent, contextlib.ExitStack() as stack:
        jobs: dict[str, psutil.Popen] = {}
        folders = {launcher: Path(parent) / launcher / "out" for launcher in LAUNCHERS}
        for launcher, folder in folders.items():
            folder.mkdir(parents=True)
            log = stack.enter_context((folder.parent / "out.log").open("w"))
            env = _environment(folder, num_steps)
            jobs[launcher] = psutil.Popen(
                argv(launcher, num_ranks, 0, folder), env=env, cwd=REPO, stdout=log, stderr=log
            )
            stack.callback(_end, jobs[launcher])
        _await_loop(jobs, folders, num_ranks)
        for job in jobs.values():
            _all(job, "suspend")
        for order in itertools.cycle((LAUNCHERS, LAUNCHERS[::-1])):
            if any(job.poll() is not None for job in jobs.values()):
                break
            turns += [_turn(launcher, jobs[launcher]) for launcher in order]
        for launcher, job in jobs.items():
            _all(job, "resume")
            _require_end(launcher, job)
        ends = {name: json.loads((folders[name] / "rank_0_0.json").read_text())["ends"] for name in jobs}
    return pairs_of_turns(turns, ends)


def _await_loop(jobs: dict[str, psutil.Popen], folders: dict[str, Path], num_ranks: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while late := [name for name in jobs if len(list(folders[name].glob("loop_*"))) < num_ranks]:
        ended = [name for name in late if jobs[name].poll() is not None]
        if ended:
            raise RunError(f"{ended[0]} failed before its loop, with exit code {jobs[ended[0]].poll()}")
        if time.monotonic() > deadline:
            raise RunError(f"{late[0]} hung: not in its loop after {TIMEOUT_S:g} s")
        time.sleep(0.1)


def _turn(launcher: str, job: psutil.Popen) -> tuple[str, float, float]:
    _all(job, "resume")
    began = time.monotonic()
    time.sleep(TURN_S)
    ended = time.monotonic()
    _all(job, "suspend")
    return launcher, began, ended


def _require_end(launcher: str, job: psutil.Popen) -> None:
    try:
        code = job.wait(TIMEOUT_S)
    except psutil.TimeoutExpired:
        raise RunError(f"{launcher} hung: not at its end after {TIMEOUT_S:g} s") from None
    if code != 0:
        raise RunError(f"{launcher} failed with exit code {code}")


def pairs_of_turns(turns: Sequence[tuple[str, float, float]], ends: dict[str, list[float]]) -> list[Pair]:
    """Of each two neighbouring turns the median step of both; none of a pair with a turn of too few steps."""
    found = []
    for pair in zip(turns[::2], turns[1::2], strict=False):
        medians = {launcher: _median_step(ends[launcher], began, ended) for launcher, began, ended in pair}
        whole = {launcher: value for launcher, value in medians.items() if value is not None}
        if len(whole) == len(LAUNCHERS):
            found.append(whole)
    return found


def _median_step(ends: list[float], began: float, ended: float) -> float | None:
    """Of the steps that ended within a turn; None for a turn of too few."""
    inside = [t for t in ends if began + SETTLE_S < t < ended]
    return statistics.median(b - a for a, b in itertools.pairwise(inside)) if len(inside) > 10 else None


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        folder.mkdir()
        yield folder


def _all(job: psutil.Popen, what: str) -> None:
    """Suspend or resume a job, its launcher first or last, so that no launcher sees its ranks stopped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [job, *job.children(recursive=True)]
        for process in family if what == "suspend" else reversed(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, what)()


def _end(job: psutil.Popen) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*job.children(recursive=True), job]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        job.wait()


def _environment(folder: Path, num_steps: int = 0, *, kill: bool = False) -> dict[str, str]:
    env = {**os.environ, "BENCH_OUT": str(folder), "BENCH_STEPS": str(num_steps), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(REPO), "GLOO_SOCKET_IFNAME": "lo"}
    # What pip installs has its bytecode, torch's launcher as well as ours; a checkout writes it in the first run.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env | ({"BENCH_KILL_AT": str(KILL_AT)} if kill else {})


# -- figures -----------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Bounds of the median at this confidence, by order statistics: whatever the values' distribution. None where they are
    too few for it."""
    ordered, count = sorted(values), len(values)
    outside, cut = 0.0, -1
    while cut + 1 < count / 2:
        outside += 2 * math.comb(count, cut + 1) / 2**count
        if outside > 1 - level:
            break
        cut += 1
    return None if cut < 0 else (ordered[cut], ordered[count - 1 - cut])


def row(what: str, num_ranks: int, pairs: Sequence[Pair]) -> str:
    """A line of the table."""
    title, scale, target = ROWS[what]
    ours, theirs = (statistics.median(pair[name] for pair in pairs) * scale for name in LAUNCHERS)
    ratios = [pair[LAUNCHERS[0]] / pair[LAUNCHERS[1]] for pair in pairs]
    bounds = interval(ratios)
    spread = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else f"– ({min(ratios):.3f} to {max(ratios):.3f} seen)"
    return (
        f"| {title} | {num_ranks} | {ours:.2f} | {theirs:.2f} | {statistics.median(ratios):.3f} | {spread} "
        f"| {len(pairs)} | {target} |"
    )


def lone_row(what: str, num_ranks: int, values: dict[str, list[float]]) -> str:
    """A line of what one launcher alone came to the end of."""
    title, scale, target = ROWS[what]
    cells = [f"{statistics.median(values[name]) * scale:.2f}" if values.get(name) else "none" for name in LAUNCHERS]
    return f"| {title} | {num_ranks} | {cells[0]} | {cells[1]} | – | – | 0 | {target} |"


class Results:
    """Pairs of figures, and what went wrong instead."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[str, int], list[Pair]] = defaultdict(list)
        self.single: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.restarts: dict[str, list[int]] = defaultdict(list)
        self.wrong: list[str] = []

    def measure(self, what: str, num_ranks: int, order: Sequence[str], one: Callable[[str], Figures]) -> None:
        """Each launcher once; a pair counts where both came to their end."""
        found: dict[str, Figures] = {}
        for launcher in order:
            try:
                found[launcher] = one(launcher)
            except RunError as error:
                self.note(f"{launcher} x {num_ranks}, {what}: {error}")
                continue
            print(f"{launcher} x {num_ranks}, {what}: {found[launcher]}", file=sys.stderr, flush=True)
            if "restarts" in found[launcher]:
                self.restarts[launcher].append(int(found[launcher].pop("restarts")))
        for launcher, figures in found.items():
            for figure, value in figures.items():
                self.single[figure, num_ranks][launcher].append(value)
        if len(found) == len(LAUNCHERS):
            for figure in found[LAUNCHERS[0]]:
                self.pairs[figure, num_ranks].append({name: found[name][figure] for name in LAUNCHERS})

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self.wrong.append(text)

    def table(self) -> list[str]:
        """Lines of Markdown."""
        lines = [
            "| what | ranks | ascend-launch | torchrun | ratio | 95 % interval | pairs | target |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for what, n in itertools.product(ROWS, sorted({n for _, n in {*self.pairs, *self.single}})):
            if self.pairs.get((what, n)):
                lines.append(row(what, n, self.pairs[what, n]))
            elif (what, n) in self.single:
                lines.append(lone_row(what, n, self.single[what, n]))
        lines += [f"\nrestarts that {launcher} took: {took}" for launcher, took in self.restarts.items()]
        lines += [f"\nfailed or hung: {len(self.wrong)}", *(f"- {text}" for text in self.wrong)] if self.wrong else []
        return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS)
    args = parser.parse_args()
    results, few = Results(), min(args.ranks)
    for number in range(args.repeats):
        order = LAUNCHERS if number % 2 == 0 else LAUNCHERS[::-1]
        for n in args.ranks:
            if "plain" in args.only:
                results.measure("plain", n, order, lambda launcher, n=n: plain(launcher, n))
            if "start" in args.only:
                results.measure("start", n, order, lambda launcher, n=n: run(launcher, n, 3))
        if "restart" in args.only:
            results.measure("restart", few, order, lambda launcher: run(launcher, few, 2 * KILL_AT, kill=True))
        if "step" in args.only:  # as many ranks as cores: more would time the scheduler
            try:
                results.pairs["step", few] += steps(few, args.steps)
            except RunError as error:
                results.note(f"step x {few}: {error}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {args.repeats} rounds\n")
    print("\n".join(results.table()))


if __name__ == "__main__":
    main()
