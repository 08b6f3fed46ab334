"""Files whose bytes are to be on the disk, and to be known again: for checkpoints and for what is kept between runs."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

_CHUNK = 8 << 20


def sync(path: Path, flags: int = 0) -> None:
    """Wait until a file's bytes, or a folder's own entries (with O_DIRECTORY), are on the disk."""
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(file: io.FileIO) -> str:
    """Of what is left to read of an open file."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
