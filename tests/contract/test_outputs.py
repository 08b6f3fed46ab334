"""What is there stays: a command that is told to write over it says so before it begins. And standard streams may be gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import outputs
from launcher.errors import LaunchError

REPO = Path(__file__).resolve().parent.parent.parent
TABLE = {
    "version": "1.0",
    "server_count": "1",
    "status": "completed",
    "server_list": [{"server_id": "n0", "device": [{"device_id": "0", "device_ip": "10.0.0.1", "rank_id": "0"}]}],
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that a report can be made of."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "events.jsonl").write_text('{"event": "note", "text": "a note", "time": 1.0}\n')
    (folder / "metrics.json").write_text('{"final": {"accuracy": 0.5}}')
    return folder


@pytest.fixture
def writing(run_dir: Path, recipe: Callable[..., Path], tmp_path: Path) -> Callable[[str, Path], list[str | Path]]:
    """The words of a command that writes `out`."""
    (tmp_path / "table.json").write_text(json.dumps(TABLE))

    def words(command: str, out: Path) -> list[str | Path]:
        return {
            "report": ["report", run_dir, "--out", out],
            "ranktable": ["ranktable", tmp_path / "table.json", "--out", out],
            "predict": ["predict", "--model", "none/such", "--output", out],
            "recipes copy": ["recipes", "copy", "tiny-cpu", out],
        }[command]

    return words


COMMANDS = ["report", "ranktable", "predict", "recipes copy"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_there_is_not_overwritten(writing: Any, ascend_launch: Any, run_dir: Path, command: str):
    """Not even a run's own."""
    before = (run_dir / "metrics.json").read_text()
    ran = ascend_launch(*writing(command, run_dir / "metrics.json"))

    assert (2, True) == (ran.code, f"{run_dir}/metrics.json: exists already" in ran.err)
    assert before == (run_dir / "metrics.json").read_text()
    assert {"run", "table.json"} == {p.name for p in run_dir.parent.iterdir()} - {"mine.yaml", "cache", "hf"}


@pytest.mark.parametrize("command", ["report", "ranktable"])
def test_force_overwrites_what_a_link_names(writing: Any, ascend_launch: Any, tmp_path: Path, command: str):
    """The link stays one."""
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    ran = ascend_launch(*writing(command, tmp_path / "link"), "--force")

    assert 0 == ran.code, ran.err
    assert (tmp_path / "link").is_symlink()
    assert "old" != (tmp_path / "old").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_goes_into_a_folder_that_is_there(writing: Any, ascend_launch: Any, tmp_path: Path, command: str):
    """No command makes it, and a folder is no file."""
    ran = ascend_launch(*writing(command, tmp_path / "none" / "out"))

    assert (2, True) == (ran.code, f"there is no folder {tmp_path / 'none'}" in ran.err)
    assert not (tmp_path / "none").exists()
    if command != "recipes copy":  # which takes a folder
        ran = ascend_launch(*writing(command, tmp_path))
        assert (2, True) == (ran.code, f"{tmp_path}: is a folder" in ran.err)


@pytest.mark.parametrize(
    "words",
    [
        ("report", "x", "--out"),
        ("recipes", "copy", "tiny-cpu"),
        ("x.yaml", "--run-dir"),
        ("export", "x", "--out"),
        ("export",),
        ("explain",),
        ("predict", "--model"),
        ("predict", "--model", "x", "--output"),
        ("predict", "--model", "x", "--input"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(ascend_launch: Any, words: tuple[str, ...]):
    ran = ascend_launch(*words, "")

    assert (2, True) == (ran.code, "the name is empty" in ran.err)


def test_render_writes_over_its_own_files_when_forced_and_never_into_a_finished_run(
    recipe: Callable[..., Path], ascend_launch: Any, run_dir: Path, tmp_path: Path
):
    words = ("render", "--device", "cpu", recipe())
    ran = [ascend_launch(*words, "--out", tmp_path / "job", *more) for more in ((), (), ("--force",))]
    finished = ascend_launch(*words, "--out", run_dir, "--force")

    assert [0, 2, 0] == [one.code for one in ran], ran[2].err
    assert "holds recipe.yaml, plan.json" in ran[1].err
    assert (2, True) == (finished.code, "is the directory of a finished run" in finished.err)
    assert {"events.jsonl", "metrics.json"} == {p.name for p in run_dir.iterdir()}


def test_a_run_s_own_page_is_made_anew(ascend_launch: Any, run_dir: Path):
    """Comparing pages have no owner."""
    assert [0, 0] == [ascend_launch("report", run_dir).code for _ in range(2)]
    again = [ascend_launch("report", run_dir, run_dir, cwd=run_dir).code for _ in range(2)]
    assert [2, 2] == again


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    outputs.write(pipe, "words", force=False)
    reader.join()

    assert (["words"], True) == (got, pipe.is_fifo())


def test_a_name_that_no_system_takes_is_refused(tmp_path: Path):
    with pytest.raises(LaunchError, match="cannot be written: File name too long"):
        outputs.write(tmp_path / ("x" * 300), "", force=False)


@pytest.mark.parametrize(
    "words", [("report",), ("x.yaml", "--dry-run", "--run-dir"), ("recipes", "import"), ("export",)]
)
def test_a_link_that_leads_to_itself_is_refused(
    ascend_launch: Any, recipe: Callable[..., Path], tmp_path: Path, words: tuple[str, ...]
):
    (tmp_path / "loop").symlink_to("loop")
    ran = ascend_launch(*[recipe() if word == "x.yaml" else word for word in words], tmp_path / "loop")

    assert (2, True) == (ran.code, str(tmp_path / "loop") in ran.err), ran.err


def test_a_name_that_is_not_utf_8_is_refused_where_it_would_be_kept(ascend_launch: Any, run_dir: Path, tmp_path: Path):
    """And shown everywhere else."""
    (run_dir / "plan.json").write_text('{"name": "mine"}')  # the page names the folder beside it
    folder = run_dir.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    page, facts = ascend_launch("report", folder), ascend_launch("report", folder, "--json")

    assert (2, True) == (page.code, "not UTF-8" in page.err)
    assert (0, "caf\udce9") == (facts.code, Path(json.loads(facts.out)["runs"][0]["path"]).name)


@pytest.mark.parametrize(
    "words", [("ranktable",), ("ranktable", "--check"), ("doctor", "--nodes"), ("recipes", "import")]
)
def test_a_huge_file_is_not_read(ascend_launch: Any, tmp_path: Path, words: tuple[str, ...]):
    """64 GB of nothing."""
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(64 << 30)
    ran = ascend_launch(*words, tmp_path / "huge", timeout_s=60)

    assert (2, True) == (ran.code, f"{tmp_path / 'huge'}: " in ran.err)


@pytest.mark.parametrize("facts", [None, "[]", '{"node": {"versions": 3}}', '{"node": {"env": ["x"]}}'])
def test_what_are_no_facts_of_a_node_is_a_mistake(ascend_launch: Any, tmp_path: Path, facts: str | None):
    path = tmp_path / "node.json"
    if facts is not None:
        path.write_text(facts)
    ran = ascend_launch("doctor", "--nodes", path)

    assert (2, True) == (ran.code, "not what `ascend-launch doctor --json` writes" in ran.err)


def test_files_of_one_name_are_several_nodes(ascend_launch: Any, tmp_path: Path):
    """As `node.json` in a folder for each."""
    words: list[str | Path] = ["doctor"]
    for host, version in (("a", "2.12"), ("b", "2.13")):
        (tmp_path / host).mkdir()
        (tmp_path / host / "node.json").write_text(json.dumps({"node": {"versions": {"torch": version}}}))
        words += ["--nodes", tmp_path / host / "node.json"]
    ran = ascend_launch(*words)

    assert (2, True) == (
        ran.code,
        f"{tmp_path / 'b' / 'node.json'} 2.13" in ran.out or f"{tmp_path / 'a' / 'node.json'} 2.12" in ran.out,
    )


# -- standard streams ------------------------------------------------------------------------------------------------


def shell(line: str, *words: str | Path, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(REPO)}
    env |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    argv = ["bash", "-o", "pipefail", "-c", line, "bash", sys.executable, "-m", "launcher.cli", *map(str, words)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    "words", [("recipes", "list"), ("recipes", "show", "yelp"), ("--help",), ("completion", "bash")]
)
def test_output_that_cannot_be_written_is_one_line(words: tuple[str, ...], unbuffered: bool):
    """As on a full disk."""
    ran = shell('"$@" > /dev/full', *words, unbuffered=unbuffered)

    assert (1, True) == (ran.returncode, ran.stderr.startswith("error: standard output: No space left on device\n"))
    assert 2 == len(ran.stderr.splitlines())


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("words", [("recipes", "list"), ("report", "--json")])
def test_a_reader_that_leaves_ends_a_command_quietly(run_dir: Path, words: tuple[str, ...], unbuffered: bool):
    """`| head -1`."""
    ran = shell('"$@" | true', *words, *([run_dir] if words[0] == "report" else []), unbuffered=unbuffered)

    assert (0, "") == (ran.returncode, ran.stderr)


@pytest.mark.parametrize(
    ("line", "words", "said"),
    [
        ('"$@" <&-', ("explain", "-"), "standard input is closed"),
        ('"$@" >&-', ("predict", "--model", "none/such"), "standard output is closed"),
        ('"$@" <&- >&- 2>&-', ("explain", "/none"), ""),
    ],
)
def test_closed_streams_are_no_bug_of_ours(line: str, words: tuple[str, ...], said: str):
    ran = shell(line, *words)

    assert (2, True) == (ran.returncode, said in ran.stderr)


def test_bytes_on_standard_input_are_read_as_a_log():
    """Of no encoding."""
    ran = shell("printf '\\xff\\xfe EI0001' | \"$@\"", "explain", "-")

    assert (0, "") == (ran.returncode, ran.stderr)
