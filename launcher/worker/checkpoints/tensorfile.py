"""Tensors and plain values in one safetensors file: written and hashed in one pass, read without unpickling anything.

The format is safetensors', so other tools read it too. The values beside the tensors are JSON in the header's metadata;
a tensor inside them is stored as a tensor of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from launcher import confined
from launcher.errors import LaunchError
from launcher.messages import Message

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TREE = "tree"
_MARKS = ("$tensor", "$tuple", "$dict")


@dataclass(frozen=True)
class Written:
    """A file as it was handed to the disk."""

    name: str
    size: int
    sha256: str


def write(path: Path, tensors: Iterable[tuple[str, Tensor]], tree: Any = None) -> Written:
    """Write the file and wait until it is on the disk. One tensor at a time is copied to host memory.

    Raises:
        OSError: it cannot be written; what there is of it stays.
        TypeError: the tree holds something that is neither plain nor a tensor.
    """
    inside: list[Tensor] = []
    text = json.dumps(_encode(tree, inside))
    entries = [*tensors, *((f"{_TREE}/{i}", tensor) for i, tensor in enumerate(inside))]
    # Wide elements first: every tensor then starts on a multiple of its own element.
    entries.sort(key=lambda entry: -entry[1].element_size())
    digest, size = hashlib.sha256(), 0
    with os.fdopen(confined.open_write(path, path.parent), "wb") as file:
        rows = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in entries]
        for chunk in (safetensors_header(rows, {_TREE: text}), *(_bytes(tensor) for _, tensor in entries)):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Written(path.name, size, digest.hexdigest())


class TensorFile:
    """A written file, open for reading; a slice of a tensor reads no more than the slice."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            LaunchError: it is not a safetensors file, or not one of ascend-launch's.
        """
        self.path = path
        try:
            self._file = safe_open(str(path), "pt")
            self._text = (self._file.metadata() or {})[_TREE]
        except (SafetensorError, OSError, KeyError) as error:
            raise LaunchError(
                "{path}: is not a safetensors file of ascend-launch ({error})",
                hint="remove this checkpoint's folder; the one before it is used then",
                exit_code=1,
                path=path,
                error=error,
            ) from None

    def names(self) -> list[str]:
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        code = self._file.get_slice(name).get_dtype()
        return next(dtype for dtype, known in DTYPES.items() if known == code)

    def whole(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of a tensor of one dimension."""
        return self._file.get_slice(name)[start:stop]

    def tree(self) -> Any:
        """The values that were stored beside the tensors."""
        return _decode(json.loads(self._text), self)


def safetensors_header(entries: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """What a safetensors file begins with: the tensors' names, types and shapes, in the order in which they follow."""
    rows: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * dtype.itemsize
        rows[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(rows).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded


def _bytes(tensor: Tensor) -> Any:
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _encode(value: Any, tensors: list[Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"$tensor": len(tensors) - 1}
    if isinstance(value, list):
        return [_encode(v, tensors) for v in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, dict):
        if all(isinstance(k, str) and k not in _MARKS for k in value):
            return {k: _encode(v, tensors) for k, v in value.items()}
        return {"$dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    raise TypeError(Message("a checkpoint cannot hold a {kind}: {value!r}", kind=type(value).__name__, value=value))


def _decode(value: Any, file: TensorFile) -> Any:
    if isinstance(value, list):
        return [_decode(v, file) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return file.whole(f"{_TREE}/{value['$tensor']}")
    if "$tuple" in value:
        return tuple(_decode(v, file) for v in value["$tuple"])
    if "$dict" in value:
        return {_decode(k, file): _decode(v, file) for k, v in value["$dict"]}
    return {k: _decode(v, file) for k, v in value.items()}
