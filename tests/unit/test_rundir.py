"""A run directory is written whole or not at all, and read without trust."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher import files
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.rundir import events, lifecycle, records
from launcher.rundir.paths import RunDir


def test_latest_points_to_the_newest_run(tmp_path: Path):
    """`latest` is a relative link that moves to each run whose ranks start."""
    first, second = lifecycle.new(tmp_path, "yelp"), lifecycle.new(tmp_path, "yelp")
    link = tmp_path / "yelp" / "latest"
    assert not link.exists()
    lifecycle.point_latest(first.path)
    lifecycle.point_latest(second.path)

    assert first.path != second.path
    assert second.path.name == str(link.readlink())


def test_two_runs_in_one_second_are_two(tmp_path: Path):
    """The id keeps apart what the clock does not."""
    assert 20 == len({lifecycle.new(tmp_path, "r").path for _ in range(20)})


def test_an_unwritable_output_directory_is_said(tmp_path: Path):
    """Also for root, who may write wherever a file system allows it."""
    with pytest.raises(LaunchError, match="cannot be written to"):
        lifecycle.new(Path("/proc/self"), "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="cannot be written to"):
        lifecycle.new(tmp_path / "file", "r")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    """What cannot be made into JSON leaves neither half a file nor a temporary one."""
    path = tmp_path / "m.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\udc80")

    assert {"a": 1} == json.loads(path.read_text())
    assert [path] == list(tmp_path.iterdir())


def test_events_of_many_writers_never_mix(tmp_path: Path):
    """Each event is one write to a file opened for appending."""
    path = tmp_path / "events.jsonl"
    writers = [
        threading.Thread(
            target=lambda w=w: [
                events.append_event(path, records.Note(text="x" * 3000, more={"w": w})) for _ in range(50)
            ]
        )
        for w in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert 400 == len(list(events.events(path)))


def test_half_an_event_waits_for_its_other_half(tmp_path: Path):
    """A reader takes whole lines only and goes on where it stopped."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"n": 1}\n{"n"')
    ((offset, first),) = events.events(path)
    with path.open("a") as file:
        file.write(': 2}\nnot json\n{"n": 3}\n')

    assert {"n": 1} == first.to_json()
    assert [{"n": 2}, {"n": 3}] == [event.to_json() for _, event in events.events(path, offset)]


def test_a_plan_of_another_version_is_said(tmp_path: Path):
    """A run directory of a newer launcher ends in one sentence, not in a traceback."""
    run = RunDir(tmp_path)
    with pytest.raises(LaunchError, match="no such file"):
        run.plan()
    run.plan_path.write_text('{"version": 99}')
    with pytest.raises(LaunchError, match=r"plan\.json"):
        run.plan()
    run.plan_path.write_text("not json")
    with pytest.raises(LaunchError, match=r"plan\.json"):
        run.plan()


def test_the_end_of_a_log_is_its_last_lines(tmp_path: Path):
    """Long logs are read from the end, and a missing one is empty."""
    log = tmp_path / "rank_0.log"
    log.write_text("\n".join(f"line {i}" for i in range(100_000)))

    assert "line 99998\nline 99999" == files.tail(log, 2)
    assert "" == files.tail(tmp_path / "no.log")


def test_a_jobs_directory_is_the_same_after_a_requeue(recipe: Callable[..., Path], tmp_path: Path):
    """And on every node; `latest` points at it."""
    made = decide.make(
        load.load(recipe(), (), {}), Cluster("cpu", num_nodes=2, rdzv_endpoint="a:1"), plan.Options(nproc=1)
    )
    first, second = (lifecycle.of_job(tmp_path, made, "slurm-7", node) for node in (0, 1))
    files.write_text(first.plan_path, made.model_dump_json())
    files.write_text(second.plan_path, made.model_dump_json())
    again = lifecycle.of_job(tmp_path, made, "slurm-7", 1)

    assert tmp_path / "mine" / "slurm-7" == first.path
    assert second.path == again.path == first.path / "node_1"
    assert first.path == (tmp_path / "mine" / "latest").resolve()


def test_an_unfinished_run_goes_on_under_another_strategy(recipe: Callable[..., Path], tmp_path: Path):
    """Checkpoints are read under any. What would change the training is another recipe."""

    def planned(*words: str) -> plan.Plan:
        return decide.make(load.load(recipe(), words, {}), Cluster("cpu"), plan.Options(nproc=2))

    run = lifecycle.take(tmp_path / "run", planned("parallel.strategy=ddp"), 0)
    files.write_text(run.plan_path, planned("parallel.strategy=ddp").model_dump_json())

    assert run.is_open_to(planned("parallel.strategy=zero3", "parallel.micro_batch_size=2"))
    with pytest.raises(LaunchError, match=r"another recipe \(parallel differ\)"):
        run.claim(planned("parallel.global_batch_size=16"))


def test_every_node_hears_that_a_run_is_finished(recipe: Callable[..., Path], tmp_path: Path):
    """Only the first writes metrics; the others would wait for it until they give up."""
    made = decide.make(
        load.load(recipe(), (), {}), Cluster("cpu", num_nodes=2, rdzv_endpoint="a:1"), plan.Options(nproc=1)
    )
    first = lifecycle.of_job(tmp_path, made, "slurm-7", 0)
    files.write_text(first.plan_path, made.model_dump_json())
    files.write_text(first.metrics_path, "{}")

    for node in (0, 1):
        with pytest.raises(LaunchError, match="this run is finished"):
            lifecycle.of_job(tmp_path, made, "slurm-7", node)


def test_a_second_run_within_a_job_of_one_node_has_a_folder_of_its_own(recipe: Callable[..., Path], tmp_path: Path):
    """A batch script may launch a sweep. What is unfinished of the same recipe is gone on with."""
    path = recipe()
    plans = [decide.make(load.load(path, (f"training.seed={n}",), {}), Cluster("cpu"), plan.Options()) for n in (1, 2)]
    runs = []
    for made in plans:
        runs.append(lifecycle.of_job(tmp_path, made, "slurm-7", 0))
        files.write_text(runs[-1].plan_path, made.model_dump_json())

    assert ["slurm-7", "slurm-7-2"] == [run.path.name for run in runs]
    assert runs[1].path == lifecycle.of_job(tmp_path, plans[1], "slurm-7", 0).path


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "plan.json: Input"), ("{", "plan.json: Invalid JSON"), ('{"name": 3}', "plan.json: name: ")],
)
def test_a_damaged_plan_is_named(tmp_path: Path, content: str, said: str):
    """With the key, where there is one."""
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(LaunchError, match=said):
        RunDir(tmp_path).plan()


def test_a_plan_with_a_name_of_a_package_that_is_gone_says_which(recipe: Callable[..., Path], tmp_path: Path):
    made = decide.make(load.load(recipe(), (), {}), Cluster("cpu"), plan.Options())
    content = made.model_dump(mode="json")
    content["recipe"]["model"]["task"] = "writing"
    (tmp_path / "plan.json").write_text(json.dumps(content))

    with pytest.raises(LaunchError, match=r"recipe.model.task: nothing is called 'writing' here") as refused:
        RunDir(tmp_path).plan()
    assert refused.value.hint.startswith("install the package that has it")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path):
    """As what stands in its place; nothing is left beside it."""
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="Is a directory") as caught:
        files.write_text(tmp_path / "x", "")

    assert str(tmp_path / "x") == caught.value.filename
    assert ["x"] == [p.name for p in tmp_path.iterdir()]


def test_no_file_of_ours_holds_a_number_that_json_does_not_know(tmp_path: Path):
    """NaN and infinities are null in files and events, at any depth; every other value is as it was."""
    value = {"a": [1.5, math.nan, {"b": (math.inf, "NaN", True)}], "c": -math.inf}
    files.write_json(tmp_path / "x.json", value)
    events.append_event(tmp_path / "events.jsonl", records.Log(step=1, loss=math.nan))

    assert {"a": [1.5, None, {"b": [None, "NaN", True]}], "c": None} == _strict((tmp_path / "x.json").read_text())
    assert _strict((tmp_path / "events.jsonl").read_text())["loss"] is None


def test_files_of_older_versions_are_read_with_null_for_nan(tmp_path: Path):
    (tmp_path / "x.json").write_text('{"loss": NaN}')

    assert {"loss": None} == files.read_json(tmp_path / "x.json")


def _strict(text: str) -> Any:
    return json.loads(text, parse_constant=pytest.fail)


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path):
    """As a rank that another launcher starts: `accelerate launch -m launcher.worker --run-dir DIR`."""
    ran = subprocess.run(
        [sys.executable, "-m", "launcher.worker", "--run-dir", tmp_path / "{x}"], capture_output=True, text=True
    )

    said = f"error: {tmp_path}/{{x}}/plan.json: no such file\n  fix: name a run directory\n"
    assert (2, said) == (ran.returncode, ran.stderr)
