"""A run directory is written whole or not at all, and read without trust."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from launcher import rundir
from launcher.errors import LaunchError


def test_latest_points_to_the_newest_run(tmp_path: Path):
    """`latest` is a relative link that moves to each new run."""
    first, second = rundir.new(tmp_path, "yelp"), rundir.new(tmp_path, "yelp")
    link = tmp_path / "yelp" / "latest"

    assert first.path != second.path
    assert second.path.name == str(link.readlink())


def test_two_runs_in_one_second_are_two(tmp_path: Path):
    """The id keeps apart what the clock does not."""
    assert 20 == len({rundir.new(tmp_path, "r").path for _ in range(20)})


def test_an_unwritable_output_directory_is_said(tmp_path: Path):
    """Also for root, who may write wherever a file system allows it."""
    with pytest.raises(LaunchError, match="cannot be written to"):
        rundir.new(Path("/proc/self"), "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="cannot be written to"):
        rundir.new(tmp_path / "file", "r")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    """What cannot be made into JSON leaves neither half a file nor a temporary one."""
    path = tmp_path / "m.json"
    rundir.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        rundir.write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        rundir.write_text(path, "\udc80")

    assert {"a": 1} == json.loads(path.read_text())
    assert [path] == list(tmp_path.iterdir())


def test_events_of_many_writers_never_mix(tmp_path: Path):
    """Each event is one write to a file opened for appending."""
    path = tmp_path / "events.jsonl"
    writers = [
        threading.Thread(
            target=lambda w=w: [rundir.append_event(path, {"w": w, "text": "x" * 3000}) for _ in range(50)]
        )
        for w in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert 400 == len(list(rundir.events(path)))


def test_half_an_event_waits_for_its_other_half(tmp_path: Path):
    """A reader takes whole lines only and goes on where it stopped."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"n": 1}\n{"n"')
    ((offset, first),) = rundir.events(path)
    with path.open("a") as file:
        file.write(': 2}\nnot json\n{"n": 3}\n')

    assert {"n": 1} == first
    assert [{"n": 2}, {"n": 3}] == [event for _, event in rundir.events(path, offset)]


def test_a_plan_of_another_version_is_said(tmp_path: Path):
    """A run directory of a newer launcher ends in one sentence, not in a traceback."""
    run = rundir.RunDir(tmp_path)
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

    assert "line 99998\nline 99999" == rundir.tail(log, 2)
    assert "" == rundir.tail(tmp_path / "no.log")
