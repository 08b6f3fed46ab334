"""How a job ended is told when it has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from launcher import files
from launcher.jobs import follow
from launcher.jobs.afterwards import explained
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.recipe.program import Program
from launcher.rundir import events, lifecycle
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Failure
from launcher.worker.agent import zygote
from launcher.worker.agent.children import Child
from launcher.worker.agent.failures import Judge
from launcher.worker.runtime import failure

LINGERING = """
import os, sys, time
from pathlib import Path
from launcher.rundir.paths import RunDir

with RunDir(Path(sys.argv[1])).hold():
    if os.fork() == 0:
        time.sleep(0.5)
    os._exit(0)
"""


def test_a_job_is_over_when_nothing_holds_its_directory(recipe: Callable[..., Path], tmp_path: Path):
    """What the agent forked ends a moment after it; a report must not call the run running, nor a new launch be refused."""
    made = decide.make(load.load(recipe(), (), {}), Cluster("cpu"), plan.Options())
    run = lifecycle.new(tmp_path, "r")
    files.write_text(run.plan_path, made.model_dump_json())
    argv = [sys.executable, "-c", LINGERING, str(run.path)]
    left_early = subprocess.run(argv, check=True)
    was_held = run.is_held()
    while run.is_held():
        pass
    outcome = follow.run(argv, run, os.environ, lambda event: None)

    assert (0, True) == (left_early.returncode, was_held)
    assert 0 == outcome.exit_code
    assert not run.is_held()


def test_an_explanation_that_cannot_be_kept_is_shown_all_the_same(tmp_path: Path):
    """The disk that ended the job may take no file any more."""
    run = RunDir(tmp_path)
    run.attempt(0).mkdir()
    run.rank_log(0, 0).write_text(
        "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total)\n"
    )
    run.failure_path.mkdir()  # no file can be put in its place
    report = explained(Outcome(1, Failure.of(what="it failed", exit_code=1)), run)

    assert report is not None
    assert report.verdict is not None


def test_a_rank_that_came_to_its_end_while_another_waited_for_it_is_the_first_to_fail(tmp_path: Path):
    """One with an error of its own comes before it."""
    run, asked = RunDir(tmp_path), SimpleNamespace(nproc_per_node=2)
    ended = [Child(1, 0, tmp_path / "0.log", 1, ended_ns=9), Child(2, 1, tmp_path / "1.log", 0, ended_ns=5)]
    files.write_text(zygote.done_path(run, 0, 1), "")
    judge = Judge(run, asked, 0, 0, Program(kind="script", target="train.py"), ended)

    named = []
    for weight in (failure.FOLLOWED, failure.CAUSE):
        of_rank_0 = failure.of_exit(1, tmp_path / "0.log").but(rank=0, weight=weight)
        events.write_failure(zygote.error_path(run, 0, 0), of_rank_0)
        named.append(judge.first_failure().rank)

    assert [1, 0] == named
