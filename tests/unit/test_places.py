"""A full or read-only folder is named with what helps for it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import assets, files, places
from launcher.checks import Context
from launcher.diagnose.doctor import host
from launcher.errors import LaunchError
from launcher.machine.cluster import Found
from launcher.rundir import events, records


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have these folders, and what would lie in them, take nothing, as a mount would that only root can make."""

    def refuse(number: int, *folders: Path) -> None:
        why = {folder: os.strerror(number) for folder in folders}
        found = lambda path: next((why[p] for p in (path, *path.parents) if p in why), "")  # noqa: E731
        monkeypatch.setattr(places, "obstacle", found)

    return refuse


FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.mark.parametrize(
    ("variables", "bad", "raised", "number", "what", "hint"),
    [
        (
            {"HF_HOME": "hf"},
            "hf",
            "hf/datasets/json/x.arrow",
            errno.ENOSPC,
            f"datasets' cache, {{}}/hf/datasets: cannot be written to: {FULL}",
            "free some space there, or set HF_HOME to a folder that can be written to",
        ),
        ({"HF_HOME": "hf"}, "hf", None, errno.ENOSPC, "datasets' cache, {}/hf/datasets", "set HF_HOME"),
        (
            {"HF_HOME": "hf", "HF_HUB_CACHE": "hub"},
            "hub",
            "hub/models--a--b/tmp",
            errno.EROFS,
            f"the hub's cache, {{}}/hub: cannot be written to: {READ_ONLY}",
            "set HF_HUB_CACHE to a folder that can be written to",
        ),
        ({"HF_DATASETS_CACHE": "d"}, "d", "d", errno.EACCES, "datasets' cache, {}/d", "set HF_DATASETS_CACHE"),
        (
            {"HOME": "home"},
            "home",
            "home/.cache",
            errno.EROFS,
            "ascend-launch's cache, {}/home/.cache/ascend-launch",
            "set ASCEND_LAUNCH_CACHE to a folder that can be written to; set HF_HOME to a folder that can be written to",
        ),
        (
            {"ASCEND_LAUNCH_CACHE": "c"},
            "c",
            "c/tokens/k/x.arrow",
            errno.EDQUOT,
            "ascend-launch's cache, {}/c",
            "free some space there, or set ASCEND_LAUNCH_CACHE",
        ),
        ({"TMPDIR": "t"}, "t", "t/pymp-x", errno.ENOSPC, "temporary files, {}/t", "set TMPDIR"),
    ],
)
def test_each_folder_has_its_own_fix(
    tmp_path: Path, refusing, variables: dict[str, str], bad: str, raised: str | None, number: int, what: str, hint: str
):
    """Wherever in the chain of causes the disk's word is; libraries wrap it."""
    env = {"HOME": str(tmp_path / "fine")} | {k: str(tmp_path / v) for k, v in variables.items()}
    refusing(number, tmp_path / bad)
    error = RuntimeError("An error occurred while generating the dataset")
    error.__cause__ = OSError(number, os.strerror(number), *([str(tmp_path / raised)] if raised else []))
    found = places.explained(error, env)

    assert found is not None
    assert (2, True) == (found.exit_code, found.what.startswith(what.format(tmp_path))), found.what
    assert hint in found.hint
    assert ("free some space" in found.hint) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_what_is_none_of_these_folders_is_left_as_it_is(tmp_path: Path, refusing):
    """A data file that may not be read, another kind of error, a disk that has room again."""
    env = {"HOME": str(tmp_path)}
    refusing(errno.EROFS, tmp_path / ".cache")

    assert None is places.explained(PermissionError(errno.EACCES, "no", "/data/rows.jsonl"), env)
    assert None is places.explained(OSError(errno.EIO, "bad disk", str(tmp_path / ".cache/x")), env)
    assert None is places.explained(ValueError("rows"), env)
    refusing(errno.EROFS)
    assert None is places.explained(OSError(errno.ENOSPC, "full", str(tmp_path / ".cache/x")), env)


def test_without_any_place_for_temporary_files(tmp_path: Path):
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/here']")
    found = places.explained(error, {"HOME": str(tmp_path)})

    assert found is not None
    assert "TMPDIR" in found.hint


def test_without_a_home(monkeypatch: pytest.MonkeyPatch):
    """A container under a number that no /etc/passwd names."""
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    with pytest.raises(LaunchError, match="HOME is not set"):
        assets.cache_dir({})

    assert Path("/h/.cache/ascend-launch") == assets.cache_dir({"HOME": "/h"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(("options", "why"), [("size=4k", FULL), ("ro", READ_ONLY)])
def test_a_mount_that_takes_nothing_is_seen(tmp_path: Path, options: str, why: str):
    """Of root too, whom permissions do not stop; and a folder that is yet to be made is looked for on the way to it."""
    code = f"from pathlib import Path; from launcher import places; print(places.obstacle(Path({str(tmp_path / 'a/b')!r})))"
    mount = f'mount -t tmpfs -o {options} none {tmp_path} && exec "$@"'
    argv = ["unshare", "--mount", "bash", "-c", mount, "bash", os.sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr)

    assert f"{why}\n" == done.stdout, done.stderr
    assert "" == places.obstacle(tmp_path / "a/b")


def test_a_launch_looks_at_the_disk_of_its_run_directory(tmp_path: Path, refusing):
    """And at /dev/shm, without which DataLoader workers end; a cache that is whole already is only read."""
    env = {"HOME": str(tmp_path)}
    context = Context(env, "cpu", Found(()), output_dir=tmp_path / "run", root=tmp_path)
    (tmp_path / "dev/shm").mkdir(parents=True)
    refusing(errno.ENOSPC, tmp_path)

    disk, caches = host.check_disk(context), host.check_places(context)
    assert ("fail", "free some space there, or name another folder: --run-dir or output_dir=") == (disk.ok, disk.fix)
    assert ("warn", True) == (caches.ok, "set ASCEND_LAUNCH_CACHE" in caches.fix and "set HF_HOME" in caches.fix)
    assert "warn" == host.check_shm(context).ok
    assert "training.dataloader_num_workers=0" in host.check_shm(replace(context, loader_workers=2)).fix
    assert "fail" == host.check_shm(replace(context, loader_workers=2)).ok


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o002, 0o664, 0o775), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_who_may_read_is_for_the_umask_to_say(tmp_path: Path, umask: int, file: int, folder: int):
    """Of what is written here, and of what a library left to its owner alone; of nothing else."""
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "run/a.json", "{}")
        events.append_event(tmp_path / "run/events.jsonl", records.Note())
        for name, mode in (("weights", 0o600), ("program", 0o700)):
            (tmp_path / "run" / name).touch()
            (tmp_path / "run" / name).chmod(mode)
        files.open_by_umask(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "run").iterdir()}

    assert {"a.json": file, "events.jsonl": file, "weights": file, "program": 0o700} == modes
    assert folder == (tmp_path / "run").stat().st_mode & 0o777
