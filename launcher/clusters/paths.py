"""The files that a recipe names, and whether the machines of a job have them: what exists here may exist here alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec

SHARED = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs\w*|ceph\w*|fuse\..+|fuse|9p|virtiofs|cifs|smb\d?|glusterfs|afs|panfs|orangefs|wekafs|pvfs2"
)
"""File systems that other machines see too, as the kernel names them."""
MOUNTS = Path("/proc/self/mounts")


def named(spec: RecipeSpec) -> Iterator[tuple[str, str]]:
    """(key, path) of what a recipe names by a path and not by an id of the hub: absolute ones, and those that are here."""
    data = spec.data
    named_paths = [("model.name", spec.model.name), ("model.tokenizer", spec.model.tokenizer), ("data.path", data.path)]
    named_paths += [("data.data_files", file) for file in _files(data.data_files)]
    several = [("data.sets", one) for one in data.sets]
    if data.eval is not None:
        several += [("data.eval", one) for one in (data.eval.sets or {}).values()]
    named_paths += [(key, file) for key, one in several for file in (one.path, *_files(one.data_files))]
    for key, text in named_paths:
        if text and "://" not in text and (text.startswith(("/", "./", "../", "~")) or Path(text).exists()):
            yield key, text


def _files(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [file for one in value.values() for file in _files(one)]
    return [file for one in value for file in _files(one)] if isinstance(value, list | tuple) else []


def in_pods(spec: RecipeSpec, workdir: str | None, is_mounted: Callable[[str], bool]) -> list[str]:
    """A sentence for each path that no mount of the pods holds: the image has to.

    Args:
        workdir: where relative paths start in the pods; None where the image says.
        is_mounted: whether an absolute path lies below a mount.
    """
    out: list[str] = []
    for key, path in named(spec):
        pod_path = str(PurePosixPath(workdir or "/") / path) if path.startswith("/") or workdir else None
        if pod_path is not None and is_mounted(pod_path):
            continue
        where = (
            Message("lies on this machine") if Path(path).expanduser().exists() else Message("is not on this machine")
        )
        out.append(
            Message(
                "{key} {path} {where}, and below no --mount of the pods: their image must hold it, or mount its folder",
                key=key,
                path=path,
                where=where,
            )
        )
    return out


def on_own_disk(spec: RecipeSpec, recipe: Path, script: Path | None, mounts: Path = MOUNTS) -> list[str]:
    """A sentence for each file that lies on a disk of this machine alone, which other nodes do not see."""
    code = [(str(one), str(one.path(recipe.parent))) for _, one in spec.functions()]
    return of_this_disk(
        [("recipe", str(recipe)), *([("script", str(script))] if script else []), *code, *named(spec)], mounts
    )


def of_this_disk(named_paths: Iterable[tuple[str, str]], mounts: Path = MOUNTS) -> list[str]:
    """The same of any (key, path)."""
    out: list[str] = []
    for key, path in named_paths:
        kind = _file_system(Path(path).expanduser(), mounts)
        if kind and not SHARED.fullmatch(kind):
            out.append(
                Message(
                    "{key} {path} lies on this machine's own disk ({kind}): the job's nodes need the same file "
                    "at the same path, or a shared file system",
                    key=key,
                    path=path,
                    kind=kind,
                )
            )
    return out


def _file_system(path: Path, mounts: Path) -> str:
    """The type of the file system of a file that is here; '' where it is not here or the kernel does not say."""
    try:
        text = mounts.read_text(encoding="utf-8", errors="replace")
        path = path.resolve(strict=True)
    except OSError:
        return ""
    rows = [line.split() for line in text.splitlines()]
    held = [
        (len(row[1]), place, row[2])
        for place, row in enumerate(rows)
        if len(row) > 2 and path.is_relative_to(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), row[1]))
    ]
    return max(held)[2] if held else ""
