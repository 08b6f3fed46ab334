"""Run directories and models that came from somebody else: nothing of them leads out, and nothing is waited for."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import confined, files
from launcher.cli import outputs, predict
from launcher.clusters.ssh.far_side import FarSide
from launcher.clusters.ssh.fleet import Fleet
from launcher.clusters.ssh.node import Node
from launcher.confined import NotPlainError
from launcher.errors import LaunchError
from launcher.jobs import trained
from launcher.models import config
from launcher.report import read
from launcher.report.read import _Files
from launcher.rundir import events as rundir_events
from launcher.rundir import paths, records
from launcher.rundir.events import append_event, forward_events
from launcher.rundir.paths import RunDir
from launcher.worker.checkpoints import publish
from launcher.worker.checkpoints.manifest import PassedOver, _digest, check, listed, sha256
from launcher.worker.runtime.heartbeat import Heart


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside of the run directory, and what must stay in it."""
    folder = tmp_path / "victim"
    (folder / "checkpoint-5").mkdir(parents=True)
    (folder / "keep").write_text("mine")
    (folder / "checkpoint-5" / "keep").write_text("mine")
    return folder


def untouched(victim: Path) -> bool:
    there = {str(p.relative_to(victim)): p.read_text() for p in victim.rglob("*") if p.is_file()}
    return there == {"keep": "mine", "checkpoint-5/keep": "mine"}


WRITES: dict[str, Callable[[Path], object]] = {
    "write": lambda path: files.write_json(path / "keep", {}),
    "append": lambda path: append_event(path / "keep", records.Note()),
    "touch": lambda path: paths.touch(path / "done_0"),
    "log": lambda path: os.close(paths.open_append(path / "keep")),
    "beat": lambda path: Heart(path / "keep"),
    "remove": lambda path: paths.remove(path / "keep"),
    "folder": lambda path: paths.make_folder(path / "checkpoint-7"),
}


@pytest.mark.parametrize("inner", ["attempt_0", "checkpoints", "model", "node_1", "nodes", "chunks"])
@pytest.mark.parametrize("write", WRITES)
def test_a_folder_that_is_a_link_is_not_entered(tmp_path: Path, victim: Path, inner: str, write: str, capfd: Any):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / inner).symlink_to(victim)

    try:
        WRITES[write](tmp_path / "run" / inner)
        refused = "is a link, not a folder" if write == "append" else ""  # an event that is not written ends nothing
    except NotPlainError as error:
        refused = str(error.strerror)

    assert "is a link, not a folder" in refused + capfd.readouterr().err
    assert untouched(victim)


@pytest.mark.parametrize("write", WRITES)
def test_a_file_that_is_a_link_is_not_followed(tmp_path: Path, victim: Path, write: str):
    """It is replaced or removed itself, or refused."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "keep").symlink_to(victim / "keep")

    try:
        WRITES[write](run)
    except NotPlainError as error:
        assert "is a link, not a file" == error.strerror

    assert untouched(victim)


@pytest.mark.parametrize(
    "name", ["events.jsonl", "metrics.json", "failure.json", "agent.log", "report.html", ".lock", "plan.json"]
)
def test_a_launch_refuses_a_run_directory_that_leads_elsewhere(tmp_path: Path, victim: Path, name: str):
    """Before anything is written; libraries know nothing of how we write."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    (run.path / name).symlink_to(victim / "keep")

    with pytest.raises(LaunchError, match=f"run/{name}: is a link, not a file"):
        run.create()
    assert untouched(victim)


@pytest.mark.parametrize("name", ["checkpoints", "model", "attempt_3", "node_1", "tensorboard", "wandb", "plog"])
def test_a_launch_refuses_folders_that_lead_elsewhere(tmp_path: Path, victim: Path, name: str):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    (run.path / name).symlink_to(victim)

    with pytest.raises(LaunchError, match=f"run/{name}: is a link, not a folder"):
        run.create()


@pytest.mark.parametrize("name", ["events.jsonl", "plan.json", "agent.log"])
def test_a_pipe_in_a_run_directory_is_refused_and_not_waited_for(tmp_path: Path, name: str):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    os.mkfifo(run.path / name)
    events: list[records.Event] = []

    assert None is files.read_json(run.path / name)
    assert 7 == forward_events(run.path / name, 7, events.append)
    assert [] == events
    assert "" == files.tail(run.path / name)
    with pytest.raises(LaunchError, match=f"run/{name}: is a named pipe, not a file"):
        run.create()


def test_a_hard_link_to_a_file_elsewhere_is_not_written_to(tmp_path: Path, victim: Path):
    """It is a plain file, and the same as one outside of the run directory."""
    run = RunDir(tmp_path / "run")
    run.create()
    run.events_path.hardlink_to(victim / "keep")

    with pytest.raises(LaunchError, match="is a hard link"):
        run.create()
    with pytest.raises(NotPlainError, match="is a hard link"):
        os.close(confined.open_write(run.events_path, run.path))
    append_event(run.events_path, records.Note())
    files.write_json(run.events_path, {})

    assert untouched(victim)


def test_the_users_own_links_stay_his(tmp_path: Path):
    """A run directory may be reached by links, and hold others than a launch writes to."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    run = RunDir(tmp_path / "runs" / "model")
    run.create()
    (run.path / "my-notes").symlink_to(tmp_path)
    run.create()
    files.write_json(run.attempt(0) / "error_0.json", {"what": "x"})

    assert {"what": "x"} == files.read_json(tmp_path / "disk" / "model" / "attempt_0" / "error_0.json")


def test_files_follow_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "metrics.json", {})
    finally:
        os.umask(before)

    assert 0o640 == stat.S_IMODE((tmp_path / "metrics.json").stat().st_mode)


def sealed(folder: Path, **changes: Any) -> Path:
    """A folder with a manifest whose digest is right, as whoever can write one can make it."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"format": 1, "launcher": "0", "step": 5, "world_size": 1, "resumable": False, "files": [], **changes}
    if isinstance(manifest["files"], list) and len(manifest["files"]) < 9:
        manifest["files"] += [file_row("trainer_state.json")]
    files.write_json(folder / "manifest.json", manifest | {"digest": _digest(manifest)})
    return folder


def file_row(name: str, size: int = 0) -> dict[str, Any]:
    return {"name": name, "size": size, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"files": [file_row("/dev/zero")]}, "names '/dev/zero', which is not a file of this folder"),
        ({"files": [file_row("../secret")]}, "names '../secret'"),
        ({"files": [file_row("a/../../secret")]}, "which is not a file of this folder"),
        ({"files": [file_row("pipe")]}, "pipe is a named pipe, not a file"),
        ({"files": [file_row("link")]}, "link is a link"),
        ({"files": [file_row("inner/keep")]}, "inner/keep is a link"),
        ({"files": [file_row("x", -1)]}, "x is missing"),
        ({"resumable": True, "world_size": 10**12}, "was written by something else"),
        ({"resumable": True, "world_size": -1}, "was written by something else"),
        ({"files": [0] * 100_001}, "was written by something else"),
        ({"files": {"name": "x"}}, "was written by something else"),
        ({"files": [{"name": 7}]}, "was written by something else"),
        ({"step": 10**30}, "its manifest is of step 1000"),
    ],
    ids=[
        "device",
        "parent",
        "inner-parent",
        "pipe",
        "link",
        "inner-link",
        "negative-size",
        "world",
        "negative-world",
        "many-files",
        "mapping",
        "number",
        "step",
    ],
)
def test_absurd_manifests_are_passed_over(tmp_path: Path, victim: Path, changes: dict[str, Any], reason: str):
    path = tmp_path / "checkpoint-5"
    path.mkdir()
    os.mkfifo(path / "pipe")
    (path / "link").symlink_to(victim / "keep")
    (path / "inner").symlink_to(victim)
    found = check(sealed(path, **changes), 5, for_resuming=False)

    assert isinstance(found, PassedOver)
    assert reason in found.reason


@pytest.mark.parametrize("text", ["[" * 100_000, '{"files":' * 50_000, "1" * 100_000, '{"format": NaN}', "\0"])
def test_a_manifest_that_is_no_json_is_passed_over(tmp_path: Path, text: str):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "manifest.json").write_text(text)

    assert isinstance(check(tmp_path / "checkpoint-5", 5), PassedOver)


def test_a_giant_manifest_is_passed_over(tmp_path: Path):
    """A sparse file of a tebibyte, and one with more values than memory should be spent on."""
    (tmp_path / "checkpoint-5").mkdir()
    os.truncate(os.open(tmp_path / "checkpoint-5" / "manifest.json", os.O_CREAT | os.O_WRONLY), 1 << 40)
    assert isinstance(check(tmp_path / "checkpoint-5", 5), PassedOver)

    with pytest.raises(ValueError, match="more than 4,000,000 values"):
        confined.loads(b"[" + b"[]," * 2_000_001 + b"[]]")


@pytest.mark.parametrize("name", ["checkpoint-05", "checkpoint-old", "checkpoint-٥", "checkpoint-5.bak", "checkpoint-"])
def test_only_our_names_are_checkpoints(tmp_path: Path, name: str):
    sealed(tmp_path / name)

    assert [] == listed(tmp_path)


def test_only_our_own_checkpoints_may_be_removed(tmp_path: Path):
    """Of our format, of the step that its name tells, and a folder."""
    sealed(tmp_path / "checkpoint-5")
    sealed(tmp_path / "checkpoint-6")  # a copy that somebody kept, of step 5
    sealed(tmp_path / "checkpoint-7", step=7, format=99)
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-9").symlink_to(sealed(tmp_path / "elsewhere", step=9))

    assert [5] == [step for step, path in listed(tmp_path) if publish.is_ours(path, step)]


def test_only_our_own_leftovers_are_removed(tmp_path: Path, victim: Path):
    for name in (".tmp-checkpoint-5", ".old-checkpoint-4", ".tmp-notes", ".old-stuff", "checkpoint-old"):
        (tmp_path / "c" / name).mkdir(parents=True)
    (tmp_path / "c" / ".tmp-checkpoint-6").symlink_to(victim)
    publish.remove_leftovers(tmp_path / "c")

    assert {".tmp-notes", ".old-stuff", "checkpoint-old"} == {p.name for p in (tmp_path / "c").iterdir()}
    assert untouched(victim)


def test_a_linked_checkpoint_is_replaced_itself(tmp_path: Path, victim: Path):
    whole, target = tmp_path / ".tmp-checkpoint-5", tmp_path / "checkpoint-5"
    whole.mkdir()
    target.symlink_to(victim / "checkpoint-5")
    publish.put_in_place(target, whole)

    assert target.is_dir()
    assert not target.is_symlink()
    assert untouched(victim)


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    return folder


def test_a_model_whose_files_lead_to_others_is_refused(tmp_path: Path):
    """Its vocabulary would be copied into every model that is made of it."""
    (tmp_path / "id_ed25519").write_text("a private key")
    folder = model(tmp_path / "model")
    (folder / "vocab.txt").symlink_to(tmp_path / "id_ed25519")

    with pytest.raises(LaunchError, match=r"--model .*: vocab.txt is a link to .*id_ed25519, outside of the folder"):
        trained.find(str(folder), "--model")
    with pytest.raises(LaunchError, match=r"vocab\.txt is a link"):
        config.model_config(str(folder))


def test_a_model_with_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(model(tmp_path / "model") / "model.safetensors")

    with pytest.raises(LaunchError, match=r"model\.safetensors is a named pipe"):
        trained.find(str(tmp_path / "model"), "--model")


def test_models_made_of_links_are_read(tmp_path: Path):
    """The hub's cache is made of them, and so are many shared folders."""
    blob = tmp_path / "hub" / "blobs" / "0a1b"
    blob.parent.mkdir(parents=True)
    blob.write_text('{"architectures": []}')
    snapshot = tmp_path / "hub" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(blob)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").symlink_to(snapshot / "config.json")
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "config.json").symlink_to(model(tmp_path / "model") / "config.json")

    for folder in (snapshot, tmp_path / "mine", tmp_path / "same"):
        assert str(folder) == trained.find(str(folder), "--model").name


def test_links_beside_a_runs_weights_are_the_users(tmp_path: Path):
    folder = model(tmp_path / "run" / "model").parent
    (folder / "plan.json").write_text("{}")
    (folder / "notes").symlink_to(tmp_path)

    assert str(folder) == trained.find(str(folder), "").name


def test_a_checkpoint_with_more_than_its_manifest_names_is_passed_over(tmp_path: Path, victim: Path):
    """A vocabulary that is a link would be read, and copied by an export."""
    text = tmp_path / "checkpoint-5" / "trainer_state.json"
    text.parent.mkdir()
    text.touch()
    named = {**file_row("trainer_state.json"), "sha256": sha256(text)}
    path = sealed(text.parent, files=[named, *[named] * 8])
    (path / "vocab.txt").symlink_to(victim / "keep")
    found = check(path, 5, for_resuming=False)

    assert isinstance(found, PassedOver)
    assert "holds vocab.txt, which is a link; ascend-launch writes files" == found.reason


def test_a_run_whose_model_is_a_link_is_refused(tmp_path: Path, victim: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    (tmp_path / "run" / "model").symlink_to(victim)

    with pytest.raises(LaunchError, match="run/model: is a link to"):
        trained.find(str(tmp_path / "run"), "")


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_a_report_passes_over_what_no_run_wrote(tmp_path: Path):
    """Nested aliases, pipes, devices, depth and sizes: each is named, and costs neither time nor memory."""
    (tmp_path / "plan.json").write_text("[" * 100_000)
    (tmp_path / "recipe.yaml").write_text(ALIASES)
    os.mkfifo(tmp_path / "events.jsonl")
    (tmp_path / "metrics.json").symlink_to("/dev/zero")
    (tmp_path / "env.json").mkdir()
    row = {"label": 10**9, "prediction": 0}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    run = read.load(tmp_path)

    assert [] == run.confusion
    assert {
        "plan.json": "not JSON: nested too deeply",
        "recipe.yaml": "more than 20000 values once aliases are followed",
        "events.jsonl": "is a named pipe, not a file",
        "metrics.json": "is a device, not a file",
        "env.json": "cannot be read: Is a directory",
    } == dict(text.split(": ", 1) for text in run.unread)


def test_an_event_without_an_end_is_not_read_into_memory(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    append_event(path, records.Train(max_steps=1, num_train_epochs=1))
    os.truncate(path, 1 << 40)

    assert ["train"] == [event.kind for _, event in rundir_events.events(path)]
    assert ["train"] == [event.kind for event in _Files(tmp_path).events(path)]


def test_a_runs_own_page_replaces_a_link_and_one_that_was_named_follows_it(tmp_path: Path, victim: Path):
    for name in ("own", "named"):
        (tmp_path / name).symlink_to(victim / "keep")
    outputs.write(tmp_path / "own", "page", force=True, through_links=False)
    assert ("page", False) == ((tmp_path / "own").read_text(), (tmp_path / "own").is_symlink())
    assert untouched(victim)

    outputs.write(tmp_path / "named", "page", force=True)
    assert "page" == (victim / "keep").read_text()


def test_answers_are_not_written_through_a_planted_link(tmp_path: Path, victim: Path):
    """Under the name that a file has until it is whole."""
    (tmp_path / "answers.jsonl.partial").symlink_to(victim / "keep")

    with (
        pytest.raises(LaunchError, match="cannot be written: is a link, not a file"),
        predict._target(str(tmp_path / "answers.jsonl")),
    ):
        pass
    assert untouched(victim)


def test_a_host_is_not_asked_for_what_lies_elsewhere_on_it(tmp_path: Path, victim: Path):
    """Links and pipes in its run directory are passed over, also where a file is asked for by name."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    (tmp_path / "run" / "data.json").symlink_to(victim / "keep")
    os.mkfifo(tmp_path / "run" / "failure.json")
    far = FarSide()
    far.drain = lambda: None  # type: ignore[method-assign]
    far.do_fetch(str(tmp_path / "run"), None)
    far.do_fetch(str(tmp_path / "run"), ["data.json", "failure.json"])

    assert b'"file": "metrics.json"' in far.out
    assert b"mine" not in far.out
    assert 1 == far.out.count(b'"file"')


def test_a_hosts_file_is_not_kept_through_a_link(tmp_path: Path, victim: Path):
    """A run directory that is here already may hold one."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "attempt_0").symlink_to(victim)
    (run / "metrics.json").symlink_to(victim / "keep")
    fleet, words = Fleet.__new__(Fleet), []
    fleet.run_dir, fleet.hosts_share, fleet.on_words = RunDir(run), True, lambda host, text: words.append(text)
    node = Node(0, SimpleNamespace(host=SimpleNamespace(name="n0")), None)  # type: ignore[arg-type]
    for name in ("attempt_0/keep", "metrics.json", "plan.json"):
        fleet.keep(node, name, b"new")

    assert untouched(victim)
    assert "new" == (run / "plan.json").read_text()
    assert [
        "attempt_0/keep was not kept: is a link, not a folder",
        "metrics.json was not kept: is a link, not a file",
    ] == words
