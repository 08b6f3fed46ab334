"""From texts to tokens, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher import __version__
from launcher.data import columns
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec
from launcher.recipe.tasks.base import TEXT
from launcher.rundir.prepared import SplitFacts
from launcher.worker.batching.splits import lengths, open_split
from launcher.worker.data import cache, rows
from launcher.worker.data.splits import Rows
from launcher.worker.data.start import Start
from launcher.worker.tasks import table as tasks
from launcher.worker.tasks.encoding import Encoder

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


_KEY_ROWS = 10_000


@dataclass(frozen=True)
class Tokens:
    """Each split tokenised, by its name, and what that depended on."""

    splits: dict[str, SplitFacts]
    contents: dict[str, str]
    """A digest of each split's texts and labels."""
    tokenizer_key: str
    answer_ids: tuple[tuple[int, ...], ...] | None
    notes: tuple[str, ...]


def tokenise(recipe: RecipeSpec, start: Start, raw: Rows) -> Tokens:
    """The third stage: each split's token ids, from the cache or made now.

    Raises:
        LaunchError: texts cannot become tokens within data.max_length, or the cache cannot be written to.
    """
    numbered = raw.numbered
    encode = tasks.of(recipe).encoder(recipe, start.tokenizer, numbered.names)
    contents = {k: _content_key(rows.content(recipe, part), numbered.labels.get(k)) for k, part in raw.splits.items()}
    tokenizer_key = _tokenizer_key(start.tokenizer)
    splits: dict[str, SplitFacts] = {}
    notes: list[str] = [*encode.notes]
    for name, part in raw.splits.items():
        one = (name != "train" and encode.of_evaluated) or encode
        of = [tokenizer_key, {"max_length": recipe.data.max_length, **one.settings}]
        facts, part_notes = _tokenise(name, part, numbered.labels.get(name), contents[name], one, of, recipe)
        part_notes += _left_out(name, len(part), facts["rows"], one)
        part_notes += _cut(name, facts["path"], one)
        about = _about(recipe, part, facts["rows"]) if name != "train" else None
        splits[name] = SplitFacts(**facts, label_counts=numbered.counts(name), about=about)
        notes += part_notes
    return Tokens(splits, contents, tokenizer_key, encode.answer_ids, tuple(notes))


def _tokenise(
    name: str,
    rows: Dataset,
    labels: Any,
    content: str,
    encode: Encoder,
    settings: Any,
    recipe: RecipeSpec,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The split's facts, from the cache or made now; and what to tell of it."""
    key = cache.key([cache.FORMAT, __version__, content, settings])
    with _all_cores():
        kept = cache.kept("tokens", key, lambda folder: _write_tokens(name, rows, labels, encode, folder, recipe, key))
    return {"path": str(kept.path), **kept.facts}, kept.notes


def _about(recipe: RecipeSpec, part: Dataset, count: int) -> str | None:
    """The folder of what predictions.jsonl repeats of a split's rows, from the cache or made now; None where that is nothing."""
    wanted = {columns.ID: columns.ID} if columns.ID in part.column_names else {}
    if TEXT in recipe.predictions:
        wanted |= {name: key.removeprefix("data.") for key, name in recipe.task.reads(recipe.data).items()}
    if not wanted or count != len(part):  # else rows were left out, or split
        return None
    content = _content_key([rows.column(part, name) for name in wanted], None)
    key = cache.key([cache.FORMAT, __version__, wanted, content])
    made = part.select_columns(list(wanted)).rename_columns(wanted)
    kept = cache.kept("rows", key, lambda folder: made.flatten_indices().save_to_disk(folder) or {})
    return str(kept.path)


def _cut(name: str, path: str, encode: Encoder) -> tuple[str, ...]:
    """How many labels of rows are looked at nowhere."""
    if not encode.labelled:
        return ()
    rows = open_split(SplitFacts(path, 0, 0, 0, 0, 0))
    total, kept = (int(lengths(rows, column).sum()) for column in ("labels", encode.labelled))
    if kept == total:
        return ()
    count = total - kept
    return (Message("{name}: {count:,} of {total:,} {what}", name=name, count=count, total=total, what=encode.cut),)


def _left_out(name: str, before: int, after: int, encode: Encoder) -> tuple[str, ...]:
    """How many rows have become none."""
    if not encode.left_out or after >= before:
        return ()
    return (
        Message(
            "{name}: {count:,} of {before:,} rows are left out: {reason}",
            name=name,
            count=before - after,
            before=before,
            reason=encode.left_out,
        ),
    )


def _write_tokens(
    name: str,
    rows: Dataset,
    labels: Any,
    encode: Encoder,
    folder: Path,
    recipe: RecipeSpec,
    key: str,
) -> dict[str, Any]:
    from datasets import Features, List, Value

    names, mapped = list(recipe.task.reads(recipe.data).values()), folder / "mapped"
    mapped.mkdir()
    tokens = (
        rows.select_columns(names)
        .with_format("arrow")
        .map(
            lambda batch: _table(encode, batch, names),
            batched=True,
            batch_size=1000,
            num_proc=recipe.data.num_proc,
            remove_columns=names,
            features=Features(
                dict.fromkeys(encode.columns, List(Value("int32"))) | dict.fromkeys(encode.texts, Value("string"))
            ),
            load_from_cache_file=False,
            # Else it would stay in the data's own cache for good, beside what is kept here.
            cache_file_name=f"{mapped}/tokens.arrow",
            # Else `map` pickles the tokenizer to make one up.
            new_fingerprint=key,
        )
    )
    if not len(tokens):
        raise LaunchError(
            "{name}: none of the {count:,} rows is left: {reason}",
            hint="`ascend-launch data RECIPE` shows what becomes of rows",
            name=name,
            count=len(rows),
            reason=encode.left_out,
        )
    tokens = tokens.with_format(None)
    (tokens if labels is None else tokens.add_column("labels", _label_column(labels))).save_to_disk(folder)
    shutil.rmtree(mapped)
    count = lengths(open_split(SplitFacts(str(folder), 0, 0, 0, 0, 0)))
    return {
        "rows": len(count),
        "tokens": int(count.sum()),
        "mean_tokens": round(float(count.mean()), 1),
        "max_tokens": int(count.max()),
        "rows_at_max_length": int((count >= recipe.data.max_length).sum()),
    }


def _encoded(encode: Encoder, batch: pa.Table, columns: Sequence[str]) -> Mapping[str, list[Sequence[int]]]:
    rows = {column: batch[column].to_pylist() for column in columns}
    return encode.rows(rows) if encode.rows is not None else {"input_ids": encode.ids(rows[columns[0]])}


def _table(encode: Encoder, batch: pa.Table, columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    made = _encoded(encode, batch, columns).items()
    return pa.table({name: pa.array(v, pa.string()) if name in encode.texts else _as_column(v) for name, v in made})


def _as_column(rows: Sequence[Sequence[int]]) -> Any:
    """Rows of ids as an arrow column of lists, without a Python number for each."""
    import pyarrow as pa

    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    ids = np.concatenate(rows, dtype=np.int32, casting="same_kind") if len(rows) else np.zeros(0, np.int32)
    return pa.ListArray.from_arrays(offsets, ids)


def sample(facts: SplitFacts, raw: Dataset, recipe: RecipeSpec, tokenizer: Any) -> dict[str, Any]:
    index = min(100, facts.rows - 1)
    row = open_split(facts)[index]
    column = next(iter(recipe.task.reads(recipe.data).values()))
    is_one = facts.rows == len(raw)  # else a row of tokens is made of several
    return {
        "index": index,
        "text": str(raw[index][column]) if is_one else "",
        "label": row.get("labels"),
        "input_ids": row["input_ids"],
        "decoded": tokenizer.decode(row["input_ids"]),
    }


def _label_column(labels: Any) -> Any:
    """Labels as a column: where a row has several, as an arrow array of lists."""
    import pyarrow as pa

    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        return labels
    kind = pa.int64() if isinstance(labels, list) else pa.float64()
    return pa.array(list(labels), pa.list_(kind))


def _label_bytes(labels: Any) -> bytes:
    if isinstance(labels, list):
        return json.dumps(labels).encode()
    return b"" if labels is None else bytes(labels.tobytes())


def _content_key(columns: Sequence[pa.ChunkedArray], labels: Any) -> str:
    """Of the rows themselves: a file that moved or was copied keeps its key, a changed one does not.

    Counts and lengths come before what they are of, so that no two different columns are the same bytes.
    """
    digest = hashlib.sha256(len(columns[0]).to_bytes(8, "little") + _label_bytes(labels))
    for column in columns:
        for start in range(0, len(column), _KEY_ROWS):
            rows = [_bytes(value) for value in column.slice(start, _KEY_ROWS).to_pylist()]
            digest.update(np.fromiter(map(len, rows), np.int64, len(rows)).tobytes())
            digest.update(b"".join(rows))
    return digest.hexdigest()


def _bytes(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode("utf-8", "surrogatepass")


def _tokenizer_key(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        own: Any = [backend.to_str(), tokenizer.split_special_tokens]
    else:
        # The vocabulary is not all: merges, or a sentencepiece model, and options such as lower case.
        pieces = getattr(tokenizer, "sp_model", None)
        model = hashlib.sha256(pieces.serialized_model_proto()).hexdigest() if pieces is not None else None
        paths = {"name_or_path", "tokenizer_file", *tokenizer.vocab_files_names}
        options = {k: str(v) for k, v in tokenizer.init_kwargs.items() if k not in paths}
        own = [tokenizer.get_vocab(), model, repr(getattr(tokenizer, "bpe_ranks", None)), options]
    special = repr(tokenizer.special_tokens_map)
    return cache.key([type(tokenizer).__name__, own, special, tokenizer.chat_template, tokenizer.padding_side])


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizer use threads for a while; ranks may not, since they may fork DataLoader workers."""
    environ, before = os.environ, os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        os.environ = environ  # noqa: B003 -- the same object: datasets leaves a copy in its place where several processes tokenise
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"
