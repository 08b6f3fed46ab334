"""Parquet and Arrow files. Fields of objects that other rows have, and this one has not, are left out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.data.encodings import Text
from launcher.data.formats.base import RowError
from launcher.data.readers.base import FIX_FILE, Item
from launcher.messages import Message

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000


class _Columnar:
    is_text = False
    has_lines = False

    def rows(self, file: Text | Path) -> Iterator[Item]:
        import pyarrow as pa

        assert isinstance(file, Path)
        number = 0
        try:
            for batch in self._batches(file):
                for row in batch.to_pylist():
                    yield Item(number, without_nulls(row))
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise RowError(Message("cannot be read: {error}", error=error), FIX_FILE) from None

    def _batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


class Parquet(_Columnar):
    endings: tuple[str, ...] = (".parquet",)

    def _batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)


class Arrow(_Columnar):
    endings: tuple[str, ...] = (".arrow",)

    def _batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:  # the other of Arrow's two forms
                whole = pa.ipc.open_file(source)
                yield from map(whole.get_batch, range(whole.num_record_batches))
                return
            yield from file


PARQUET = Parquet()
ARROW = Arrow()


def without_nulls(value: Any) -> Any:
    """A row without what is null in it."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value
