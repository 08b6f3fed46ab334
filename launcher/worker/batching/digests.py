"""Digests by which ranks and nodes compare what they have read."""

from __future__ import annotations

import hashlib
from pathlib import Path

HEAD_BYTES = 1 << 20
DIGEST_LETTERS = 12


def of_file(path: Path) -> str:
    """A digest of a file's size, first and last mebibyte: the whole of a script, enough of weights."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(str(size).encode() + file.read(HEAD_BYTES))
            file.seek(max(HEAD_BYTES, size - HEAD_BYTES))
            digest.update(file.read())
        return digest.hexdigest()[:DIGEST_LETTERS]
    except OSError as error:
        return f"unreadable: {error.strerror}"


def of_weights(folder: Path) -> str:
    """A digest of a model folder's weights, by their files' names, sizes and ends."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    return hashlib.sha256("\n".join(f"{p.name} {of_file(p)}" for p in files).encode()).hexdigest()[:DIGEST_LETTERS]
