"""Which checkpoints are whole, what is stored in one, and that reading it runs nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import pickle
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from launcher.errors import LaunchError
from launcher.recipe.schema import RecipeSpec
from launcher.worker.checkpoints import manifest as manifests
from launcher.worker.checkpoints.manifest import (
    MANIFEST,
    TRAINER_STATE,
    UNFINISHED,
    PassedOver,
    check,
    newest_whole,
    seal,
    state_file,
)
from launcher.worker.checkpoints.publish import attempted, put_in_place, remove, remove_leftovers, synced
from launcher.worker.checkpoints.saved import Saved
from launcher.worker.checkpoints.tensorfile import TensorFile, Written, write
from launcher.worker.runtime import heartbeat
from launcher.worker.training import random_state
from launcher.worker.training.losswatch import not_a_number
from launcher.worker.weights import trained
from launcher.worker.weights.trained import ADAPTER

WORLD_SIZE = 2


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def publish(folder: Path, step: int) -> Path:
    """A small whole checkpoint."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    files = [write(path / state_file(r), [("p/weight/w/0", torch.arange(64.0))], {}) for r in range(2)]
    (path / TRAINER_STATE).write_text(json.dumps({"global_step": step}))
    reseal(path, step, files)
    return path


def reseal(path: Path, step: int, files: list[Written] | None = None) -> None:
    """Write a manifest that fits what the folder holds now, as whoever planted something would."""
    (path / MANIFEST).unlink(missing_ok=True)
    found = [synced(p, path) for p in path.iterdir()]
    facts = {"step": step, "world_size": WORLD_SIZE, "resumable": True}
    seal(path, facts, found)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


def truncate(path: Path, num_bytes: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def edit_manifest(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["world_size"] = 1
    path.write_text(json.dumps(manifest))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "save cut short": (lambda p: (p / "manifest.json").unlink(), "has no manifest.json"),
    "manifest cut short": (lambda p: truncate(p / "manifest.json", 40), "manifest.json is not readable"),
    "manifest edited": (lambda p: edit_manifest(p / "manifest.json"), "manifest.json was changed"),
    "manifest of something else": (lambda p: (p / "manifest.json").write_text("[1]"), "manifest.json was"),
    "state of a rank missing": (lambda p: (p / "state_1.safetensors").unlink(), "state_1.safetensors is missing"),
    "trainer's state missing": (lambda p: (p / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "truncated": (lambda p: truncate(p / "state_0.safetensors"), "state_0.safetensors has"),
    "one bit flipped": (lambda p: flip_bit(p / "state_0.safetensors"), "state_0.safetensors is damaged"),
    "marked as incomplete": (lambda p: (p / UNFINISHED).touch(), "is marked as incomplete"),
    "pickle beside it": (lambda p: (p / "optimizer.pt").write_bytes(b""), "holds optimizer.pt, a pickle"),
    "under another step's name": (lambda p: p.rename(p.with_name("checkpoint-9")), "its manifest is of step 8"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: Callable, words: str):
    """Each kind of damage is recognised and named in one sentence, and the older whole checkpoint is taken."""
    older, newer = publish(tmp_path, 4), publish(tmp_path, 8)
    damage(newer)

    found, passed = newest_whole(tmp_path)

    assert found is not None
    assert (older, 4) == (found.path, found.step)
    assert [one.reason.startswith(words) for one in passed] == [True], passed


def test_the_newest_is_by_step_not_by_name_or_time(tmp_path: Path):
    """checkpoint-10 is newer than checkpoint-9, whichever was written last; other folders do not count."""
    publish(tmp_path, 10)
    publish(tmp_path, 9)
    shutil.copytree(tmp_path / "checkpoint-10", tmp_path / ".tmp-checkpoint-11")
    (tmp_path / "checkpoint-x").mkdir()

    found, passed = newest_whole(tmp_path)

    assert found is not None
    assert (found.step, passed) == (10, [])


def test_no_checkpoint_is_no_error(tmp_path: Path):
    """A first attempt has no folder at all."""
    assert newest_whole(tmp_path / "checkpoints") == (None, [])


def test_every_flipped_bit_is_found(tmp_path: Path):
    """Of the bits of a checkpoint's files and manifest, each one counts (a sample of 200 is flipped)."""
    path = publish(tmp_path, 8)
    files = sorted(path.iterdir())
    draw = random.Random(7)
    for _ in range(200):
        file = draw.choice(files)
        content = file.read_bytes()
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        # No single bit makes one kind of JSON white space of another.
        assert isinstance(check(path, 8), PassedOver), file
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["state_0.safetensors", "optimizer.pt", "mp_rank_00_model_states.pt"])
def test_a_planted_pickle_does_not_run(tmp_path: Path, name: str):
    """Not even with a manifest that fits: it is refused in one sentence and the older checkpoint is used."""
    publish(tmp_path, 4)
    path, mark = publish(tmp_path, 8), tmp_path / "ran"
    (path / name).write_bytes(pickle.dumps(Bomb(mark)))
    reseal(path, 8)

    found, passed = newest_whole(tmp_path)

    assert found is not None
    assert found.step == 4
    assert name in passed[0].reason
    assert not mark.exists()


def test_a_pickle_in_a_state_file_is_refused_when_read(tmp_path: Path):
    """The reader itself does not depend on the manifest."""
    path, mark = tmp_path / "state_0.safetensors", tmp_path / "ran"
    torch.save(Bomb(mark), path)

    with pytest.raises(LaunchError, match="is not a safetensors file"):
        TensorFile(path)
    assert not mark.exists()


def test_values_come_back_as_they_were(tmp_path: Path):
    """Tensors of every dtype bit for bit, tuples as tuples, keys that are numbers, infinities, tensors inside."""
    tensors = {
        "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
        "none": torch.empty(0),
        "one": torch.tensor(3.0),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "whole": torch.tensor([[2**40]]),
        "switch": torch.tensor([True, False]),
    }
    tree = {"betas": (0.9, 0.999), 3: [None, True, float("-inf"), 0.1 + 0.2], "step": torch.tensor(7.0)}

    written = write(tmp_path / "a", tensors.items(), tree)

    file = TensorFile(tmp_path / "a")
    for name, tensor in tensors.items():
        assert torch.equal(tensor, file.whole(name)) and tensor.dtype == file.whole(name).dtype
    got = file.tree()
    assert torch.equal(tree.pop("step"), got.pop("step"))
    assert tree == got
    assert synced(tmp_path / "a", tmp_path) == written


def test_a_value_that_cannot_be_kept_is_an_error(tmp_path: Path):
    """Rather than a checkpoint that lacks it."""
    with pytest.raises(TypeError, match="cannot hold a object"):
        write(tmp_path / "a", [], {"x": object()})


def test_pieces_fit_any_split(tmp_path: Path):
    """What three ranks saved is read in two runs that end elsewhere, and what is missing is said."""
    values = torch.arange(10.0)
    for rank, (start, stop) in enumerate([(0, 3), (3, 8), (8, 10)]):
        write(tmp_path / str(rank), [(f"p/weight/a/b.c/{start}", values[start:stop])], {"optimizer": {}})
    saved = Saved([TensorFile(tmp_path / str(r)) for r in range(3)], "here")

    into = [torch.zeros(4), torch.zeros(6)]

    assert saved.read("weight", "a/b.c", 0, into[0]) and saved.read("weight", "a/b.c", 4, into[1])
    assert torch.equal(values, torch.cat(into))
    assert not saved.read("exp_avg", "a/b.c", 0, into[0])
    with pytest.raises(LaunchError, match="has 2 of 4 elements of weight"):
        saved.read("weight", "a/b.c", 8, torch.zeros(4))


def test_random_generators_go_on_where_they_were(tmp_path: Path):
    """Python's, numpy's and torch's, through a file."""

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.normal()), torch.rand(1).item()]

    random.gauss(0, 1)  # leaves half of a pair behind, which is part of the state
    np.random.normal()
    write(tmp_path / "a", [], random_state.random_state(torch.device("cpu")))
    expected = draw()

    random_state.set_random_state(TensorFile(tmp_path / "a").tree(), torch.device("cpu"))

    assert expected == draw()


def test_derived_generators_differ_by_rank_and_are_repeatable():
    """For a rank that has no saved state of its own."""

    def drawn(*numbers: int) -> tuple[float, float, float]:
        random_state.derive_random_state(*numbers)
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    assert drawn(42, 14, 0) == drawn(42, 14, 0)
    assert not set(drawn(42, 14, 0)) & set(drawn(42, 14, 1))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "Read-only file system: /x"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] unexpected pos 64 vs 0"), "unexpected pos"),
    ],
)
def test_what_the_disk_says_is_no_crash(error: Exception, words: str):
    """A failed save is a sentence; training goes on."""

    def fail() -> None:
        raise error

    assert words in attempted(fail)


def test_a_bug_in_saving_is_a_crash():
    """Only the disk's errors are answered."""
    with pytest.raises(ValueError, match="ours"):
        attempted(lambda: (_ for _ in ()).throw(ValueError("ours")))


def test_removing_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kill while files are being removed leaves a name that nobody takes for a checkpoint, and it is cleared later."""
    path = publish(tmp_path, 8)
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)
    remove(path)
    assert newest_whole(tmp_path) == (None, [])
    monkeypatch.undo()

    remove_leftovers(tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_checkpoint_that_is_replaced_is_never_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int):
    """Killed after any of the renames, the next start finds the old one or the new one, whole."""
    target, aside = tmp_path / "checkpoint-5", tmp_path / ".tmp-checkpoint-5"
    for folder, text in ((target, "old"), (aside, "new")):
        folder.mkdir()
        (folder / "weights").write_text(text)
    replace, left = Path.replace, [done]

    def until_killed(path: Path, to: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(path, to)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", until_killed)
        put_in_place(target, aside)
    remove_leftovers(tmp_path)

    assert ("old", "old", "new")[done] == (target / "weights").read_text()
    assert [target] == [*tmp_path.iterdir()]


def test_a_weight_that_is_no_number_is_found():
    """An infinite one is not: some models keep such in their buffers."""
    weights = {"a": torch.ones(3), "b": torch.tensor([1.0, -math.inf]), "c": torch.arange(3), "d": torch.zeros(0)}

    assert not_a_number(weights) is None
    assert "e" == not_a_number({**weights, "e": torch.tensor([1.0, math.nan]).bfloat16()})


def test_a_beat_is_read_back(tmp_path: Path):
    """Step and phase of the latest beat; the step stays where a phase does not name one."""
    heart = heartbeat.Heart(tmp_path / "attempt_0" / "beat_0")
    heart.beat("step", 12)
    heart.beat("saving: gathering weights")

    beat = heartbeat.read_beat(tmp_path / "attempt_0" / "beat_0")

    assert beat is not None
    assert (beat.step, beat.phase) == (12, "saving: gathering weights")
    assert None is heartbeat.read_beat(tmp_path / "beat_1")


def test_a_beat_that_is_being_written_is_read_whole(tmp_path: Path):
    """Whatever the writer is at: the times that are read never go back."""
    heart, is_over = heartbeat.Heart(tmp_path / "beat_0"), threading.Event()

    def write() -> None:
        while not is_over.is_set():
            heart.beat("step")

    heart.beat("step")
    writer = threading.Thread(target=write)
    writer.start()
    times = [beat.time_ns for _ in range(200) if (beat := heartbeat.read_beat(tmp_path / "beat_0"))]
    is_over.set()
    writer.join()

    assert 200 == len(times) and sorted(times) == times


def finished_run(folder: Path) -> Path:
    """A run directory whose final model is sealed as a training seals it; the model's folder."""
    model = folder / "model"
    model.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    (folder / "metrics.json").write_text("{}")
    (model / "config.json").write_text("{}")
    files = [write(model / "model.safetensors", [("w", torch.arange(64.0))], {}), synced(model / "config.json", model)]
    seal(model, {"step": 8, "world_size": 2, "resumable": False}, files)
    (model / "README.md").write_text("a card")
    return model


RECIPE = RecipeSpec.model_validate({"model": {"name": "org/model", "num_labels": 2}, "data": {"path": "json"}})


def test_a_finished_model_is_verified_under_any_name(tmp_path: Path):
    """By its run, by itself, and as a copy; its card may be edited."""
    model = finished_run(tmp_path / "run")
    shutil.copytree(model, tmp_path / "copy")
    (model / "README.md").write_text("another card")

    for name in (tmp_path / "run", model, tmp_path / "copy"):
        assert () == trained.trained(RECIPE, str(name), seed=1).notes
    for folder in (model, tmp_path / "copy"):
        flip_bit(folder / "model.safetensors")
    for name in (tmp_path / "run", model, tmp_path / "copy"):
        with pytest.raises(LaunchError, match=r"model\.safetensors is damaged: its SHA-256 differs") as caught:
            trained.trained(RECIPE, str(name), seed=1)
        assert 2 == caught.value.exit_code


def test_a_finished_model_of_an_older_version_is_used_with_a_note(tmp_path: Path):
    """Without a manifest; and a manifest.json of another program's is none of ours."""
    model = finished_run(tmp_path / "run")
    (model / MANIFEST).unlink()
    (note,) = trained.trained(RECIPE, str(tmp_path / "run"), seed=1).notes

    assert f"{model} has no manifest.json" in note
    (model / MANIFEST).write_text('{"layers": []}')
    assert 1 == len(trained.trained(RECIPE, str(model), seed=1).notes)


@pytest.mark.parametrize("content", ["x", "[1]", '{"base_model_name_or_path": 5}'])
def test_an_odd_adapter_config_is_refused(tmp_path: Path, content: str):
    (tmp_path / ADAPTER).write_text(content)
    with pytest.raises(LaunchError, match="is not an adapter's config"):
        trained.trained(RECIPE, str(tmp_path), seed=1)


def test_a_checkpoint_under_another_name_is_verified_too(tmp_path: Path):
    path = publish(tmp_path, 8)
    assert None is manifests.changed(path)
    path = path.rename(tmp_path / "kept")
    flip_bit(path / "state_0.safetensors")

    assert "state_0.safetensors is damaged: its SHA-256 differs" == manifests.changed(path)
