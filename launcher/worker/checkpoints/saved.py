"""A checkpoint's tensors, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from launcher.errors import LaunchError
from launcher.worker.checkpoints.tensorfile import TensorFile

WEIGHT = "weight"
PIECE, BUFFER = "p", "b"


class Saved:
    """The pieces of a checkpoint, whichever ranks wrote them."""

    def __init__(self, files: list[TensorFile], where: str) -> None:
        self.where = where
        self.trees = [file.tree() for file in files]
        self._files = files
        self._index: dict[tuple[str, str], list[tuple[int, int, TensorFile, str]]] = {}
        for file in files:
            for tensor in file.names():
                kind, _, rest = tensor.partition("/")
                if kind == PIECE:
                    key, _, rest = rest.partition("/")
                    name, _, start = rest.rpartition("/")
                    row = (int(start), file.shape(tensor)[0], file, tensor)
                    self._index.setdefault((key, name), []).append(row)
        self.optimizer_values: dict[str, dict[str, Any]] = {}
        for tree in self.trees:
            self.optimizer_values.update(tree["optimizer"])

    def optimizer_keys(self) -> list[str]:
        return sorted({key for key, _ in self._index} - {WEIGHT})

    def dtype(self, key: str) -> torch.dtype:
        """Of an optimizer's numbers."""
        _, _, file, tensor = next(rows[0] for (k, _), rows in self._index.items() if k == key)
        return file.dtype(tensor)

    def buffers(self) -> Iterator[tuple[str, Tensor]]:
        for file in self._files:
            for tensor in file.names():
                if tensor.startswith(f"{BUFFER}/"):
                    yield tensor.removeprefix(f"{BUFFER}/"), file.whole(tensor)

    def read(self, key: str, name: str, start: int, into: Tensor) -> bool:
        """Fill a run of elements; False where nothing of that name was saved.

        Raises:
            LaunchError: what was saved does not cover it.
        """
        rows = self._index.get((key, name))
        if rows is None:
            return False
        stop, covered = start + into.numel(), 0
        for first, size, file, tensor in rows:
            a, b = max(start, first), min(stop, first + size)
            if a < b:
                into[a - start : b - start].copy_(file.part(tensor, a - first, b - first))
                covered += b - a
        if covered != into.numel():
            raise LaunchError(
                "{where}: has {covered} of {numel} elements of {key} of {name}",
                hint="it is a checkpoint of another model: name a new --run-dir",
                where=self.where,
                covered=covered,
                numel=into.numel(),
                key=key,
                name=name,
            )
        return True
