"""Whether a Trainer's checkpoint is complete, whichever strategy wrote it. Reads the ends of files, and never all of them."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from launcher.files import read_json

ZIPPED = (".pt", ".pth", ".bin")
"""As torch.save writes them."""
JIT_MARK = "checkpoint-is-incomplete.txt"
"""Of transformers' own saving at SIGTERM, for as long as it is under way."""


def is_complete(folder: Path, step: int | None) -> bool:
    """Whether the state is there, is of that step, and no file breaks off."""
    state = read_json(folder / "trainer_state.json")
    if not isinstance(state, dict) or state.get("global_step") != step or (folder / JIT_MARK).exists():
        return False
    try:
        return all(_is_whole(path) for path in folder.rglob("*") if path.is_file())
    except OSError:
        return False


def _is_whole(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return _is_whole_safetensors(path)
    if path.suffix == ".distcp":
        return (path.parent / ".metadata").is_file()  # written last
    return path.suffix not in ZIPPED or zipfile.is_zipfile(path)


def _is_whole_safetensors(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return False
        (length,) = struct.unpack("<Q", head)
        if length > size - 8:
            return False
        try:
            rows = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [row["data_offsets"][1] for name, row in rows.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)
