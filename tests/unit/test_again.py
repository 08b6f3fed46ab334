"""Every stop prints the command that goes on, and that command works."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher import again
from launcher.cli import cli, options
from launcher.errors import LaunchError
from launcher.files import write_text
from launcher.jobs import inputs
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.recipe.load import Loaded
from launcher.recipe.schema import RecipeSpec
from launcher.rundir import events, lifecycle, records
from launcher.rundir.paths import RunDir

REPO = Path(__file__).resolve().parents[2]
TINY = str(REPO / "recipes/tiny-cpu.yaml")


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        (["/venv/bin/python", "-m", "launcher.cli"], "/venv/bin/python -m launcher.cli"),
        (["/usr/bin/python3", "-X", "dev", "-m", "launcher.cli"], "/usr/bin/python3 -X dev -m launcher.cli"),
        (["/venv/bin/python", "{venv}/ascend-launch"], "{venv}/ascend-launch"),
        (["/venv/bin/python", "{path}/ascend-launch"], "ascend-launch"),
        ([], "ascend-launch"),
    ],
    ids=["module", "options of Python", "not on PATH", "on PATH", "unknown"],
)
def test_the_program_is_named_as_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str], expected: str
):
    for name in ("venv", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ascend-launch").touch(0o755)
    places = {name: str(tmp_path / name) for name in ("venv", "path")}
    words = ["--nproc", "2", "my recipe.yaml"]
    monkeypatch.setattr(sys, "orig_argv", [w.format(**places) for w in started] + words if started else ["python"])
    monkeypatch.setattr(sys, "argv", ["program", *words])
    monkeypatch.setenv("PATH", places["path"])

    assert f"{expected.format(**places)} run 'a b'" == again.command(["run", "a b"])


def test_options_are_given_again_as_they_were_given(monkeypatch: pytest.MonkeyPatch):
    """Those of variables too: the next shell may not have them. What was left to the default is left to it again."""
    monkeypatch.setenv("ASCEND_LAUNCH_DEVICE", "cpu")
    argv = ["--nproc", "auto", "--json", "--grace", "5", "--pass-env", "A", "--pass-env", "B", TINY]
    with cli.commands["run"].make_context("run", argv):
        words = options.given({"json"}, {"grace": "7"})

    assert [
        "--nproc",
        "auto",
        "--device",
        "cpu",
        "--grace",
        "7",
        "--json",
        "--pass-env",
        "A",
        "--pass-env",
        "B",
    ] == words
    with cli.commands["submit"].make_context("submit", ["--slurm", "--no-requeue", "--shared", TINY]):
        assert ["--slurm", "--shared", "--no-requeue"] == options.given(())


@pytest.fixture
def unfinished(recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., RunDir]:
    """A run directory as a launch leaves it that was stopped."""

    def make(folder: Path, *overrides: str, num_nodes: int = 1, **asked: Any) -> RunDir:
        from launcher.render import files

        loaded = inputs.load(recipe(), overrides)
        cluster = Cluster("cpu", num_nodes=num_nodes, rdzv_endpoint="n0:29400" if num_nodes > 1 else None)
        made = decide.make(loaded, cluster, plan.Options(**asked))
        run = RunDir(folder)
        run.create()
        files.write(files.texts(loaded, made, run, {}), run)
        return run

    return make


def replanned(words: list[str]) -> tuple[Path, plan.Plan]:
    """What a pasted command plans, and in which folder."""
    with cli.commands["run"].make_context("run", words[words.index("run") + 1 :]) as context:
        given = context.params
        machine, supervision = options.machine_of(given), options.supervision_of(given)
        asked = inputs.gather(given["recipe"], given["overrides"], machine, supervision)
        return given["run_dir"], asked.plan()


def test_the_fix_for_an_unfinished_run_finishes_it(
    unfinished: Callable[..., RunDir], awkward_dir: Path, recipe: Callable[..., Path]
):
    """Pasted, it is the same run again: the same recipe, name, ranks and supervision, whatever was asked for now."""
    asked = plan.Supervision(max_restarts=2, grace_s=7.5)
    run = unfinished(awkward_dir / "run", "training.learning_rate=0.5", nproc=2, supervision=asked)
    other = decide.make(load.load(recipe(), (), {}), Cluster("cpu"), plan.Options())
    with pytest.raises(LaunchError, match=r"another recipe \(training differ\)") as refused:
        lifecycle.take(run.path, other, 0)
    hint = refused.value.hint
    words = shlex.split(hint[hint.index("finish that run: ") + len("finish that run: ") :])
    folder, made = replanned(words)

    assert run.path == folder
    assert run.plan().model_dump(exclude={"device_reason"}) == made.model_dump(exclude={"device_reason"})
    assert run.path == lifecycle.take(folder, made, 0).path


def test_a_corrected_recipe_takes_the_place_of_one_that_never_started(
    unfinished: Callable[..., RunDir], tmp_path: Path, recipe: Callable[..., Path]
):
    """Its finishing would find the same mistake again. Where ranks have worked, nothing is mixed."""
    run = unfinished(tmp_path / "run", "data.text=txet")
    corrected = decide.make(load.load(recipe(), (), {}), Cluster("cpu"), plan.Options())
    events.append_event(run.events_path, records.Machine())

    assert run.path == lifecycle.take(run.path, corrected, 0).path
    run.attempt(0).mkdir()
    run.rank_log(0, 0).touch()
    with pytest.raises(LaunchError, match=r"another recipe \(data differ\)"):
        lifecycle.take(run.path, corrected, 0)


@pytest.mark.parametrize("name", ["..", "../../elsewhere", "/tmp/elsewhere", ""])
def test_a_received_plan_does_not_name_a_new_run(unfinished: Callable[..., RunDir], tmp_path: Path, name: str):
    """Its name would become a folder below output_dir."""
    run = unfinished(tmp_path / "run")
    write_text(run.plan_path, run.plan().model_copy(update={"name": name}).model_dump_json())

    assert "recipe" == inputs.load(run.recipe_path, ()).name


def test_each_node_of_a_job_gets_its_own_fix(
    unfinished: Callable[..., RunDir], tmp_path: Path, recipe: Callable[..., Path]
):
    run = unfinished(tmp_path / "run" / "node_1", "training.learning_rate=0.5", num_nodes=2)
    other = decide.make(load.load(recipe(), (), {}), Cluster("cpu", num_nodes=2, rdzv_endpoint="n0:1"), plan.Options())
    with pytest.raises(LaunchError) as refused:
        lifecycle.take(tmp_path / "run", other, 1)

    said = f"--nnodes 2 --node-rank 1 --rdzv-endpoint n0:29400 --run-dir {tmp_path / 'run'} {run.recipe_path}"
    assert said in refused.value.hint


def test_a_script_is_found_again(unfinished: Callable[..., RunDir], tmp_path: Path):
    """It lies beside the recipe that was given, and not beside the run directory's copy of it."""
    (tmp_path / "mine.py").write_text("")
    run = unfinished(tmp_path / "run", "script=mine.py")
    loaded = inputs.load(run.recipe_path, ())

    assert (tmp_path, "mine") == (loaded.recipe_dir, loaded.name)


def test_links_are_followed_when_a_job_is_planned(ascend_launch: Callable[..., Any], tmp_path: Path):
    """`latest` leads to this very job once its ranks start; and a job that goes on must not take another model."""
    folder = tmp_path / "runs/tiny/20260101T000000Z-aaaa/model"
    folder.mkdir(parents=True)
    for file in (REPO / "recipes/tiny").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    lifecycle.point_latest(folder.parent)
    words = ["--device", "cpu", TINY, "model.name=runs/tiny/latest/model"]
    data = [f"data.data_files.{s}={REPO}/recipes/tiny/{s}.jsonl" for s in ("train", "test")]
    ran = ascend_launch("--dry-run", "--json", *words, *data, cwd=tmp_path)

    assert 0 == ran.code, ran.err
    shown = json.loads(ran.out)
    named = shown["plan"]["recipe"]["model"]["name"]
    assert f"runs/tiny/{folder.parent.name}/model" == named
    assert f"name: {named}\n" in shown["files"]["recipe.yaml"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("runs/latest/model", "runs/one/model"),
        ("./runs/latest/model", "runs/one/model"),
        ("mine", "{root}/runs/one/model"),
        ("far/model", "far/model"),
        ("runs/one/model", "runs/one/model"),
        ("./runs/one/model", "./runs/one/model"),
        ("runs/latest/*.jsonl", "runs/one/*.jsonl"),
        ("hub/rows.jsonl", "hub/rows.jsonl"),
        ("org/model", "org/model"),
        ("hf://datasets/x//y", "hf://datasets/x//y"),
        (["runs/latest/a", "b"], ["runs/one/a", "b"]),
        ({"train": "runs/latest/a"}, {"train": "runs/one/a"}),
        (None, None),
    ],
)
def test_which_links_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, expected: Any):
    """Those to a folder beside them, also on the way of an absolute one. An absolute link alone may be an automounter's, of
    another target on each node; and a file is known by its name."""
    (tmp_path / "runs/one/model").mkdir(parents=True)
    (tmp_path / "runs/latest").symlink_to("one")
    (tmp_path / "mine").symlink_to(tmp_path / "runs/latest/model")
    (tmp_path / "far").symlink_to(tmp_path / "runs/one")
    (tmp_path / "hub").mkdir()
    (tmp_path / "blob").touch()
    (tmp_path / "hub/rows.jsonl").symlink_to("../blob")
    monkeypatch.chdir(tmp_path)
    name = given if isinstance(given, str) else "m"
    value = {"model": {"name": name, "num_labels": 2}, "data": {"path": "json", "data_files": given}}
    loaded = Loaded(RecipeSpec.model_validate_json(json.dumps(value)), "r", Path("r.yaml"), {})
    found = load.pinned(loaded)
    filled = expected.format(root=tmp_path) if isinstance(expected, str) else expected

    assert filled == found.spec.data.data_files
    assert (filled if isinstance(filled, str) else "m") == found.spec.model.name
    assert (given != filled) == any(word.startswith("data.data_files=") for word in found.pins)
    assert found.spec.data == load.pinned(found).spec.data


CANCELLED = "#!/bin/bash\necho 'CANCELLED|None|15|0|n1|'\n"


@pytest.mark.parametrize("to", ["&1", "/dev/full", "&-"])
def test_a_followed_job_that_stops_tells_how_it_is_submitted_again(tmp_path: Path, to: str):
    """And ends with the job's exit code where nothing can be shown."""
    for name, text in (("sbatch", "#!/bin/bash\ncat >/dev/null\necho 7\n"), ("squeue", CANCELLED)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PYTHONPATH": str(REPO), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["submit", "--slurm", "--follow", "--device", "cpu", "--nproc", "2", TINY, f"output_dir={tmp_path}/my runs"]
    argv = ["bash", "-c", f'"$@" >{to}', "bash", sys.executable, "-m", "launcher.cli", *words]
    ran = subprocess.run(argv, env=env, cwd=REPO, capture_output=True, text=True, check=False)

    assert 143 == ran.returncode, ran.stderr
    if to == "&1":
        options = "submit --slurm --nproc 2 --device cpu --follow"
        run_dir = f"--run-dir '{tmp_path}/my runs/tiny-cpu/slurm-7'"
        said = f"  {sys.executable} -m launcher.cli {options} {run_dir} {TINY} 'output_dir={tmp_path}/my runs'"
        assert said in ran.stdout.splitlines()
