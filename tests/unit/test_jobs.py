"""The one way of a job: its steps in their order, with any screen, and nothing left of what was never started."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.jobs import by_ssh, claim, launch
from launcher.jobs.options import Hosts
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe.load import Loaded
from launcher.recipe.program import Program
from launcher.recipe.schema import RecipeSpec
from launcher.rundir import lifecycle, records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A job changes what a closed window does to its process."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


class Screen:
    """Keeps the order in which a job calls it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.outcome = Outcome(-1)
        self.again = ""

    def __enter__(self) -> Screen:
        self.calls.append("enter")
        return self

    def __exit__(self, *error: object) -> None:
        self.calls.append("exit")

    def plan(self, plan: plan.Plan, run: RunDir, loaded: Loaded) -> None:
        self.calls.append("plan")

    def output(self, plan: plan.Plan, run: RunDir) -> None:
        self.calls.append("output")

    def event(self, event: records.Event) -> None:
        if self.calls[-1] != "event":
            self.calls.append("event")

    def words(self, host: str, line: str) -> None:
        self.calls.append("words")

    def end(
        self, outcome: Outcome, run: RunDir, explained: Any, report_path: Path | None = None, again: str = ""
    ) -> None:
        self.calls.append("end")
        self.outcome, self.again = outcome, again


def work(folder: Path, *words: str, **more: Any) -> launch.Work:
    """An executable on one rank."""
    program = Program(kind="executable", target=sys.executable, args=("-c", *words))
    loaded = Loaded(RecipeSpec(output_dir=str(folder), report=False), program.name, folder, {})
    made = decide.of_program(program, loaded, Cluster("cpu"), plan.Options(nproc=1))
    return launch.Work(loaded, Cluster("cpu"), made.model_copy(update=more))


@pytest.mark.process
@pytest.mark.parametrize(("said", "code", "again"), [("pass", 0, ""), ("raise SystemExit(7)", 1, "go on")])
def test_a_job_needs_no_more_of_a_screen(tmp_path: Path, said: str, code: int, again: str):
    """Shown, started, followed and ended with a screen that is none of launcher.show's."""
    screen = Screen()
    given = work(tmp_path, said)
    ended = launch.launch(given, screen, lambda run: "go on")

    assert code == ended
    assert ["plan", "output", "enter", "event", "exit", "end"] == screen.calls
    assert (code, again) == (screen.outcome.exit_code, screen.again)
    assert (tmp_path / given.plan.name / "latest" / "plan.json").is_file()


def test_nothing_is_left_of_a_launch_that_was_refused(tmp_path: Path):
    """Neither a folder nor a word on the screen."""
    screen = Screen()
    table = tmp_path / "table.json"
    table.write_text("{}")
    with pytest.raises(LaunchError, match="--rank-table"):
        launch.launch(work(tmp_path / "runs", "pass", rank_table=str(table)), screen, lambda run: "go on")

    assert [] == screen.calls
    assert [] == list((tmp_path / "runs").iterdir())


def test_a_folder_of_the_users_stays_after_a_launch_that_was_refused(tmp_path: Path):
    given = work(tmp_path / "runs", "pass", rank_table=str(tmp_path / "table.json"))
    (tmp_path / "table.json").write_text("{}")
    named = launch.Work(given.loaded, given.cluster, given.plan, run_dir=tmp_path / "mine")
    with pytest.raises(LaunchError, match="--rank-table"):
        launch.launch(named, Screen(), lambda run: "")

    assert (tmp_path / "mine").is_dir()


def test_a_new_folder_becomes_latest_with_the_first_ranks_alone(tmp_path: Path):
    """Another run may be the latest by the time that ranks are started again."""
    first = claim.Claim(lifecycle.new(tmp_path, "x"), is_new=True)
    first.see(records.Note(text="not yet"))
    before = (tmp_path / "x" / "latest").exists()
    first.see(records.Ranks(attempt=0, pids=[1]))
    second = claim.Claim(lifecycle.new(tmp_path, "x"), is_new=True)
    second.begin()
    first.see(records.Ranks(attempt=1, pids=[2]))

    assert not before
    assert second.run.path == (tmp_path / "x" / "latest").resolve()


def test_a_wrong_hostfile_leaves_nothing(tmp_path: Path):
    loaded = Loaded(RecipeSpec(output_dir=str(tmp_path / "runs")), "x", tmp_path, {})
    asked = by_ssh.Work(loaded, options=(), file=None, words=("x",), nproc=1, endpoint=None, grace_s=1.0)
    with pytest.raises(LaunchError, match=r"hosts\.txt"):
        by_ssh.launch(asked, Hosts(tmp_path / "hosts.txt"), None, Screen(), lambda run: "")

    assert [] == list(tmp_path.iterdir())
