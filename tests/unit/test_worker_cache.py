"""What is kept between runs is compared whenever it is opened, survives kills, and can be shared."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.worker.data import cache

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASCEND_LAUNCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(folder: Path) -> dict[str, int]:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "b.bin").write_bytes(b"b" * 5000)
    return {"rows": 3}


def nothing(folder: Path) -> None:
    raise AssertionError("it was there")


def test_an_entry_is_made_once():
    first = cache.kept("things", "k", make)
    again = cache.kept("things", "k", nothing)

    assert (first.path, {"rows": 3}, ()) == (again.path, again.facts, again.notes)
    assert () == first.notes
    assert {"inner", "b.bin", cache.RECORD} == {p.name for p in first.path.iterdir()}


def flip(path: Path) -> None:
    data = bytearray((path / "inner" / "a.bin").read_bytes())
    data[5000] ^= 4
    (path / "inner" / "a.bin").write_bytes(data)


def edit(path: Path) -> None:
    record = json.loads((path / cache.RECORD).read_text())
    (path / cache.RECORD).write_text(json.dumps({**record, "facts": {"rows": 4}}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "inner/a.bin has other bytes"),
        (lambda p: os.truncate(p / "b.bin", 4096), "b.bin has 4096 bytes of 5000"),
        (lambda p: (p / "b.bin").unlink(), "b.bin is missing"),
        (lambda p: (p / cache.RECORD).unlink(), "contents.json is missing"),
        (lambda p: (p / cache.RECORD).write_text('{"files":'), "contents.json is not JSON"),
        (lambda p: (p / cache.RECORD).write_text("[]"), "contents.json was written by something else"),
        (edit, "contents.json was changed"),
    ],
)
def test_a_damaged_entry_is_made_again_and_it_is_said(damage: Callable[[Path], Any], said: str):
    """Once: the next launch finds it whole."""
    path = cache.kept("things", "k", make).path
    damage(path)

    assert not cache.is_whole(path)
    again = cache.kept("things", "k", make)

    assert [f"{path} was damaged ({said}), so it was made again"] == list(again.notes)
    assert bytes(range(256)) * 40 == (path / "inner" / "a.bin").read_bytes()
    assert () == cache.kept("things", "k", nothing).notes


def test_data_are_on_the_disk_before_the_record_of_them(monkeypatch):
    """And all of it before the entry has its name."""
    synced, real = [], os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = cache.kept("things", "k", make).path
    partial = f"{path}.partial"
    record = next(i for i, name in enumerate(synced) if cache.RECORD in name)

    assert {f"{partial}/b.bin", f"{partial}/inner/a.bin"} == set(synced[:record])
    assert {partial, f"{partial}/inner", str(path.parent)} == set(synced[record + 1 :])


def test_a_failed_making_leaves_nothing(folder: Path):
    with pytest.raises(ValueError, match="half"):
        cache.kept("things", "k", lambda path: (make(path), (_ for _ in ()).throw(ValueError("half")))[0])

    assert [] == list((folder / "things").iterdir())


def child(work: Callable[[], None], *, uid: int = 0) -> int:
    """Fork, become `uid`, do the work; the process id. Its exit code is 0 where nothing was raised."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_killed_preparation_left_is_removed_and_a_living_ones_stays(folder: Path):
    """A living one holds its entry's lock."""
    begun, go = os.pipe(), os.pipe()

    def slow(path: Path) -> dict[str, int]:
        make(path)
        os.write(begun[1], b"x")
        os.read(go[0], 1)
        return {"rows": 3}

    killed, living = (child(lambda name=name: cache.kept("things", name, slow)) for name in ("dead", "alive"))
    os.read(begun[0], 1)
    os.read(begun[0], 1)
    os.kill(killed, signal.SIGKILL)
    assert -signal.SIGKILL == ended(killed)
    cache.kept("things", "other", make)
    there = {p.name for p in (folder / "things").iterdir()}
    os.write(go[1], b"x")

    assert 0 == ended(living)
    assert {"other", "alive.partial"} == there
    assert () == cache.kept("things", "alive", nothing).notes
    assert () == cache.kept("things", "dead", make).notes


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=oct)
def test_two_users_share_a_cache_that_both_may_write(tmp_path: Path, monkeypatch, umask: int, mode: int):
    """Whatever their umask: one reads what the other made, makes again what is damaged, and removes what was left."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    for path in [tmp_path, *tmp_path.parents][:-2]:
        path.chmod(path.stat().st_mode | 0o011)
    monkeypatch.setenv("ASCEND_LAUNCH_CACHE", str(shared))
    before = os.umask(umask)
    try:
        assert 0 == ended(child(lambda: cache.kept("things", "k", make), uid=1234))
        left = child(lambda: cache.kept("things", "gone", lambda p: (make(p), os.kill(os.getpid(), 9))), uid=1234)
        assert -signal.SIGKILL == ended(left)
        assert 0 == ended(child(lambda: cache.kept("things", "k", nothing), uid=1235))
        flip(shared / "things" / "k")
        assert 0 == ended(child(lambda: cache.kept("things", "k", make), uid=1235))
        assert 0 == ended(child(lambda: cache.kept("things", "k", nothing), uid=1234))
    finally:
        os.umask(before)
    assert {"k"} == {p.name for p in (shared / "things").iterdir()}


@needs_root
def test_a_cache_that_may_only_be_read_is_read(folder: Path, tmp_path: Path):
    """What is there serves everybody; what is not has a remedy."""
    cache.kept("things", "k", make)
    for path in [tmp_path, *tmp_path.parents][:-2]:
        path.chmod(path.stat().st_mode | 0o011)

    def other() -> None:
        cache.kept("things", "k", nothing)
        with pytest.raises(LaunchError, match=r"the cache cannot be written to: .*Permission denied") as caught:
            cache.kept("things", "new", make)
        assert "ASCEND_LAUNCH_CACHE" in caught.value.hint

    assert 0 == ended(child(other, uid=1234))
