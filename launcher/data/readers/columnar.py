"""Parquet and Arrow files. Fields of objects that other rows have, and this one has not, are left out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.data.encodings import Text
from launcher.data.formats.base import RowError
from launcher.data.readers.base import FIX_FILE, Item
from launcher.messages import Message

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000


class Columnar:
    """A kind of file that holds a table of columns."""

    is_text = False
    has_lines = False

    def rows(self, file: Text | Path) -> Iterator[Item]:
        assert isinstance(file, Path)
        number = 0
        with _reading():
            for batch in self._batches(file):
                for row in batch.to_pylist():
                    yield Item(number, without_nulls(row))
                    number += 1

    def values(self, path: Path, column: str) -> Iterator[Any]:
        """The different values of one column. Raises RowError, as where there is no such column."""
        import pyarrow.compute as pc

        with _reading():
            for batch in self._batches(path, [column]):
                if column not in batch.schema.names:
                    others = ", ".join(batch.schema.names)
                    raise RowError(
                        Message("no column {name!r}; there is {others}", name=column, others=others),
                        Message("name the column as data.label"),
                    )
                yield from pc.unique(batch.column(column)).to_pylist()

    def _batches(self, path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


class Parquet(Columnar):
    endings: tuple[str, ...] = (".parquet",)

    def _batches(self, path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            known = None if columns is None or not set(columns) <= set(file.schema_arrow.names) else columns
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=known)


class Arrow(Columnar):
    endings: tuple[str, ...] = (".arrow",)

    def _batches(self, path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
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


@contextmanager
def _reading() -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RowError(Message("cannot be read: {error}", error=error), FIX_FILE) from None


def class_names(path: Path, column: str) -> tuple[str, ...] | None:
    """The names that a column's numbers have, or those in its lists, where `datasets` wrote them into the file. Raises RowError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading():
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
        else:
            with pa.memory_map(str(path)) as source:
                try:
                    schema = pa.ipc.open_stream(source).schema
                except pa.ArrowInvalid:
                    schema = pa.ipc.open_file(source).schema
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = tuple(map(str, feature.get("feature", feature)["names"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return names or None


def without_nulls(value: Any) -> Any:
    """A row without what is null in it."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value
