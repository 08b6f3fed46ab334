"""Weights from where they lie into safetensors files, a few megabytes at a time, however large the tensors are.

Files are read with pread, not mapped: a mapped page counts as this process's memory for as long as the file is open.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.worker.checkpoints.tensorfile import DTYPES, safetensors_header

BLOCK = 1 << 22
"""Elements that are in memory at a time, about."""


@dataclass(frozen=True)
class Source:
    """One tensor that has not been read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]
    """Elements `start` to `stop` of it, flattened."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def blocks(self) -> Iterator[Tensor]:
        """All of it, in order; blocks are whole rows where a row is not larger than a block."""
        row = self.numel // self.shape[0] if self.shape and self.shape[0] else 1
        step = max(BLOCK // row * row, 1) if row <= BLOCK else BLOCK
        for start in range(0, self.numel, step):
            yield self.read(start, min(start + step, self.numel))


class SafetensorsFile:
    """A safetensors file of anybody's, read in parts."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            LaunchError: it is none, or is cut short.
        """
        self.path = path
        self._handle = os.open(path, os.O_RDONLY)
        size = os.fstat(self._handle).st_size
        try:
            (length,) = struct.unpack("<Q", os.pread(self._handle, 8, 0))
            if length > size:
                raise ValueError(Message("its header is longer than the file"))
            header = json.loads(os.pread(self._handle, length, 8))
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self._base = 8 + length
            self._rows: dict[str, Any] = header
            end = max((row["data_offsets"][1] for row in header.values()), default=0)
            if self._base + end != size:
                raise ValueError(Message("it has {size} bytes of {base}", size=size, base=self._base + end))
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise LaunchError(
                "{path}: is not a whole safetensors file: {error}",
                hint="name another checkpoint",
                path=path,
                error=error,
            ) from None

    def close(self) -> None:
        os.close(self._handle)

    def sources(self) -> dict[str, Source]:
        """Every tensor by its name."""
        return {name: self._source(name, row) for name, row in self._rows.items()}

    def _source(self, name: str, row: Mapping[str, Any]) -> Source:
        dtype = next((d for d, code in DTYPES.items() if code == row["dtype"]), None)
        if dtype is None:
            raise LaunchError(
                "{path}: {name} is of type {dtype}",
                hint="only plain numbers can be exported",
                path=self.path,
                name=name,
                dtype=row["dtype"],
            )
        begin, width = self._base + row["data_offsets"][0], dtype.itemsize

        def read(start: int, stop: int) -> Tensor:
            wanted = (stop - start) * width
            data, at = bytearray(wanted), begin + start * width
            view, done = memoryview(data), 0
            while done < wanted:
                count = os.preadv(self._handle, [view[done:]], at + done)
                if not count:
                    raise LaunchError(
                        "{path}: ends within {name}",
                        hint="name another checkpoint",
                        exit_code=1,
                        path=self.path,
                        name=name,
                    )
                done += count
            return torch.frombuffer(data, dtype=dtype) if wanted else torch.empty(0, dtype=dtype)

        return Source(dtype, tuple(row["shape"]), read)


def folder_sources(folder: Path) -> dict[str, Source]:
    """Every tensor of a model folder: model*.safetensors, adapter_model.safetensors, or older pytorch_model*.bin.

    Raises:
        LaunchError: a file is damaged, or holds more than tensors.
    """
    files = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("state_"))
    sources: dict[str, Source] = {}
    for path in files:
        sources.update(SafetensorsFile(path).sources())
    if not files:
        for path in sorted(folder.glob("pytorch_model*.bin")):
            try:
                # Nothing but tensors is unpickled; mmap reads a tensor when it is asked for.
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                what = str(error).strip().splitlines()[0]
                raise LaunchError(
                    "{path}: cannot be read as tensors alone: {what}",
                    hint="name a folder of safetensors",
                    path=path,
                    what=what,
                ) from None
            sources.update({name: of_tensor(tensor) for name, tensor in tensors.items()})
    return sources


def of_tensor(tensor: Tensor) -> Source:
    """A tensor that is in memory already."""
    return Source(tensor.dtype, tuple(tensor.shape), lambda start, stop: tensor.reshape(-1)[start:stop])


def piece_sources(files: Sequence[Path], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    """The trained weights out of the ranks' state files (see `state`), whichever strategy cut them, in the precision
    that the optimizer kept.

    Args:
        files: state_<rank>.safetensors of one checkpoint.
        shapes: parameter → shape, since pieces are runs of flattened parameters.

    Raises:
        LaunchError: the pieces of a parameter do not cover it.
    """
    runs: dict[str, list[tuple[int, Source]]] = {}
    for path in files:
        for tensor, source in SafetensorsFile(path).sources().items():
            if tensor.startswith("p/weight/"):
                name, _, start = tensor.removeprefix("p/weight/").rpartition("/")
                runs.setdefault(name, []).append((int(start), source))
    return {
        name: _joined(name, sorted(rows, key=lambda r: r[0]), shapes[name])
        for name, rows in runs.items()
        if name in shapes
    }


def _joined(name: str, runs: list[tuple[int, Source]], shape: tuple[int, ...]) -> Source:
    first = runs[0][1]
    whole = Source(first.dtype, shape, lambda start, stop: torch.empty(0))
    reached = 0
    for start, source in runs:
        if start > reached:
            break
        reached = max(reached, start + source.numel)
    if reached != whole.numel:
        raise LaunchError(
            "the checkpoint's pieces of {name} end at element {reached} of {numel}",
            hint="name another checkpoint",
            exit_code=1,
            name=name,
            reached=reached,
            numel=whole.numel,
        )

    def read(start: int, stop: int) -> Tensor:
        out = torch.empty(stop - start, dtype=first.dtype)
        for begin, source in runs:
            a, b = max(start, begin), min(stop, begin + source.numel)
            if a < b:
                out[a - start : b - start] = source.read(a - begin, b - begin)
        return out

    return Source(first.dtype, shape, read)


def with_lora(base: Source, a: Source, b: Source, scaling: float, magnitude: Source | None = None) -> Source:
    """A linear layer's weight with LoRA's product added, and DoRA's magnitudes applied, computed in fp32 row by row.

    Args:
        base: (out, in).
        a: (r, in); small, read whole.
        b: (out, r).
        scaling: alpha / r, or alpha / sqrt(r).
        magnitude: DoRA's length of each row, (out,).
    """
    width, rank = base.shape[1], a.shape[0]
    inner = a.read(0, a.numel).float().view(rank, width)

    def read(start: int, stop: int) -> Tensor:
        first, last = start // width, -(-stop // width)
        rows = base.read(first * width, last * width).float().view(-1, width)
        rows = rows + (b.read(first * rank, last * rank).float().view(-1, rank) @ inner) * scaling
        if magnitude is not None:
            rows = rows * (magnitude.read(first, last).float() / torch.linalg.norm(rows, dim=1))[:, None]
        return rows.reshape(-1)[start - first * width : stop - first * width]

    return Source(base.dtype, base.shape, read)


@dataclass(frozen=True)
class Shard:
    """One file to be: names and sources, in the order in which they are written."""

    name: str
    tensors: tuple[tuple[str, Source], ...]


def shards(
    sources: Mapping[str, Source], dtype: torch.dtype | None, max_bytes: int, stem: str = "model"
) -> list[Shard]:
    """Split tensors over files of at most `max_bytes` (one tensor may be larger), named as transformers names them."""
    groups: list[list[tuple[str, Source]]] = [[]]
    size = 0
    for name, source in sources.items():
        bytes_here = source.numel * target_dtype(source, dtype).itemsize
        if groups[-1] and size + bytes_here > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append((name, source))
        size += bytes_here
    if len(groups) == 1:
        return [Shard(f"{stem}.safetensors", tuple(groups[0]))]
    return [Shard(f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors", tuple(g)) for i, g in enumerate(groups, 1)]


def target_dtype(source: Source, dtype: torch.dtype | None) -> torch.dtype:
    """Whole numbers stay what they are."""
    return dtype if dtype is not None and source.dtype.is_floating_point else source.dtype


def write(path: Path, tensors: Iterable[tuple[str, Source]], dtype: torch.dtype | None) -> int:
    """Write one safetensors file, and wait until it is on the disk; the bytes of its tensors."""
    entries = [(name, source, target_dtype(source, dtype)) for name, source in tensors]
    entries.sort(key=lambda entry: -entry[2].itemsize)  # every tensor then starts on a multiple of its own element
    with path.open("wb") as file:
        rows = [(name, target, source.shape) for name, source, target in entries]
        file.write(safetensors_header(rows, {"format": "pt"}))
        for _, source, target in entries:
            for block in source.blocks():
                file.write(memoryview(block.to(target).contiguous().view(torch.uint8).numpy()))
        file.flush()
        os.fsync(file.fileno())
    return sum(source.numel * target.itemsize for _, source, target in entries)
