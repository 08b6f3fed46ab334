"""From the recipe's `data:` to token ids on disk, once per node, before any rank exists.

Everything about the data and the model that a user can get wrong is found here, where there is one process, no
process group to hang, and no card in use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher import __version__, rundir
from launcher.errors import LaunchError
from launcher.rundir import RunDir
from launcher.spec import RecipeSpec, Split
from launcher.worker import cache, prompts, sameness, weights
from launcher.worker import model as models

if TYPE_CHECKING:
    from datasets import Dataset

    from launcher.plan import Plan

FORMAT = 1
"""Raised when what is stored changes, so that an older cache is not read."""

_BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow"})


@dataclass(frozen=True)
class SplitFacts:
    """One tokenised split on this node's disk."""

    path: str
    rows: int
    tokens: int
    mean_tokens: float
    max_tokens: int
    rows_at_max_length: int
    """Rows as long as max_length, most of which were longer."""


@dataclass(frozen=True)
class Prepared:
    """data.json: what `prepare` left for the ranks."""

    key: str
    model_path: str
    """A folder on this node; no rank asks a hub."""
    model_is_random: bool
    tokenizer_path: str
    num_labels: int
    label_names: tuple[str, ...]
    train: SplitFacts | None
    """None where nothing is trained."""
    eval: SplitFacts | None
    answer_ids: tuple[tuple[int, ...], ...] | None
    """causal-lm: the tokens of each label's answer, its end-of-turn token last."""
    sample: dict[str, Any]
    """One row as the model sees it, of the training split where there is one: text, label, input_ids, and the ids as
    text again."""
    notes: tuple[str, ...]
    digests: dict[str, str] = field(default_factory=dict)
    """Of what must be the same on every node of a job: rows, tokenizer, model. Empty where there is one node."""
    adapter_path: str | None = None
    """Where trained weights are used that are an adapter's: its folder; `model_path` is then the model below it."""
    weights: dict[str, Any] | None = None
    """Where trained weights are used: which, for metrics.json."""

    @classmethod
    def load(cls, path: Path) -> Prepared | None:
        """data.json, or None where it is missing or its files are not on this node."""
        value = rundir.read_json(path)
        if not isinstance(value, dict) or "key" not in value:
            return None
        facts = {k: SplitFacts(**value[k]) for k in ("train", "eval") if value[k] is not None}
        answers = value["answer_ids"] and tuple(map(tuple, value["answer_ids"]))
        names, notes = tuple(value["label_names"]), tuple(value["notes"])
        prepared = cls(**{**value, **facts, "answer_ids": answers, "label_names": names, "notes": notes})
        here = [facts[k].path for k in facts] + [prepared.model_path, prepared.tokenizer_path]
        return prepared if all(Path(p).exists() for p in here) else None


def prepare(plan: Plan, run_dir: RunDir) -> Prepared:
    """Check and tokenise the data, find the model, and write data.json.

    Runs once per node, before its ranks. A second call with the same data, tokenizer and settings reads the cache.

    Raises:
        LaunchError: anything about data, tokenizer or model folder that the user can mend.
    """
    _quiet()
    recipe, seed = plan.recipe, plan.training_arguments.get("seed", 42)
    trained = weights.trained(recipe, plan.use.weights, seed=seed) if plan.use is not None else None
    folder = trained.model if trained else models.locate(recipe)
    tokenizer_folder = models.tokenizer_folder(recipe, trained.tokenizer if trained else folder)
    tokenizer = models.load_tokenizer(recipe, tokenizer_folder)
    config = models.load_config(recipe, folder)
    num_labels = models.num_labels(recipe)
    if trained is not None:
        models.check_labels(recipe, config, trained.folder, has_head=trained.base is None)
    splits: dict[str, Split] = {} if trained else {"train": recipe.data.train}
    if recipe.data.eval is not None:
        splits["eval"] = recipe.data.eval
    raw = {name: _rows(recipe, split) for name, split in splits.items()}
    first = next(iter(raw))
    label_names = _label_names(recipe, raw[first], num_labels)
    labels = {name: _labels(recipe, rows, splits[name], label_names) for name, rows in raw.items()}
    notes = [*(trained.notes if trained else ()), *models.notes(recipe, tokenizer, config)]
    notes += _selection_notes(recipe, raw)
    encode = prompts.encoder(recipe, tokenizer, label_names)
    settings = {"max_length": recipe.data.max_length, **encode.settings}
    contents = {name: _content_key(rows, recipe.data.text, labels[name]) for name, rows in raw.items()}
    tokenizer_key = _tokenizer_key(tokenizer)
    facts = {
        name: _tokenise(rows, labels[name], contents[name], encode.ids, [tokenizer_key, settings], recipe)
        for name, rows in raw.items()
    }  # fmt: skip
    model_path, is_random = (folder, False) if trained else models.with_weights(recipe, folder, seed=seed)
    if is_random:
        notes.append(f"{folder} has no weights: training starts from random ones, made from its config")
    prepared = Prepared(
        key=cache.key([f.path for f in facts.values()]),
        model_path=str(model_path),
        model_is_random=is_random,
        tokenizer_path=str(tokenizer_folder),
        num_labels=num_labels,
        label_names=label_names,
        train=facts.get("train"),
        eval=facts.get("eval"),
        answer_ids=encode.answer_ids,
        sample=_sample(facts[first], raw[first], recipe, tokenizer),
        notes=tuple(notes),
        digests=_digests(contents, tokenizer_key, folder, None if is_random else model_path)
        if plan.num_nodes > 1
        else {},
        adapter_path=str(trained.folder) if trained and trained.base else None,
        weights=trained.facts() if trained else None,
    )
    rundir.write_json(run_dir.data_path, asdict(prepared))
    return prepared


def _digests(contents: Mapping[str, str], tokenizer_key: str, folder: Path, weights_at: Path | None) -> dict[str, str]:
    """What nodes compare before their ranks start. Random weights are made from the config and the seed, equal everywhere."""
    return {
        **{f"{name} data": content[: sameness.DIGEST_LETTERS] for name, content in contents.items()},
        "tokenizer": tokenizer_key[: sameness.DIGEST_LETTERS],
        "model config": sameness.of_file(folder / "config.json"),
        "model weights": "random" if weights_at is None else sameness.of_weights(weights_at),
    }


def prepared_for(plan: Plan, run_dir: RunDir) -> Prepared:
    """data.json, made now if the agent did not make it (ranks started by torchrun or accelerate).

    Ranks of a node that come here together take turns; the first does the work.
    """
    prepared = Prepared.load(run_dir.data_path)
    if prepared is not None:
        return prepared
    with cache.lock(f"run-{cache.key([str(run_dir.path.resolve())])}"):
        return Prepared.load(run_dir.data_path) or prepare(plan, run_dir)


def open_split(facts: SplitFacts) -> Dataset:
    """A tokenised split, memory-mapped: columns input_ids (list of int32) and labels (int64)."""
    from datasets import load_from_disk

    return load_from_disk(facts.path)


def lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row, from the offsets of the arrow column: no row is read."""
    column = rows.data.column("input_ids")
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(counts) if counts else np.zeros(0, np.int32)


# -- raw rows ------------------------------------------------------------------------------------------------------


def _rows(recipe: RecipeSpec, split: Split) -> Dataset:
    rows = _load(recipe, split)
    if len(rows) == 0:
        raise LaunchError(
            f"{_where(recipe, split)}: split {split.split!r} has no rows", hint="name another split or file"
        )
    for key, column in (("data.text", recipe.data.text), ("data.label", recipe.data.label)):
        if column not in rows.column_names:
            raise LaunchError(
                f"{_where(recipe, split)}: no column {column!r} in split {split.split!r}",
                hint=f"set {key} to one of {', '.join(rows.column_names)}",
            )
    _check_text(recipe, rows, split)
    if split.limit is None:
        return rows
    return rows.shuffle(seed=split.seed).select(range(min(split.limit, len(rows))))


def _load(recipe: RecipeSpec, split: Split) -> Dataset:
    from datasets import exceptions, load_dataset

    data = recipe.data
    if data.path in _BUILDERS and data.data_files is None and data.data_dir is None:
        # The builder would take every file below the current folder.
        raise LaunchError(f"data.path {data.path!r} says how files are read, but not which",
                          hint="add data.data_files.train=FILE and data.data_files.test=FILE")  # fmt: skip
    arguments = {
        "name": data.name,
        "data_files": _files(recipe, split),
        "data_dir": data.data_dir,
        "revision": data.revision,
    }
    arguments = {k: v for k, v in arguments.items() if v is not None}
    try:
        if recipe.model.hub == "modelscope" and data.path not in _BUILDERS and not Path(data.path).exists():
            return models.modelscope_dataset(data.path, split.split, arguments)
        path = str(Path(data.path).expanduser()) if data.path.startswith("~") else data.path
        return load_dataset(path, split=split.split, **arguments)
    except exceptions.DatasetNotFoundError as error:
        gated = "gated" in str(error)
        raise LaunchError(
            f"data.path {data.path!r}: {_first_line(error)}",
            hint="accept its terms on the hub and set HF_TOKEN"
            if gated
            else "check the spelling, or name a local folder",
        ) from error
    except exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise LaunchError(
            f"{_where(recipe, split)}: cannot be read: {_first_line(cause)}", hint="mend that file"
        ) from error
    except FileNotFoundError as error:
        raise LaunchError(
            f"{_where(recipe, split)}: {_first_line(error)}", hint="check data.path and data.data_files"
        ) from error
    except ConnectionError as error:
        raise LaunchError(
            f"data.path {data.path!r}: {_first_line(error)}",
            hint="it is not in this machine's cache: run once with a network, set HF_ENDPOINT to a mirror, or use local "
            "files: data.path=json data.data_files.train=FILE data.data_files.test=FILE",
        ) from error
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise LaunchError(
                f"{_where(recipe, split)}: split {split.split!r} has no rows", hint="name another file"
            ) from error
        raise LaunchError(
            f"{_where(recipe, split)}: {_first_line(error)}", hint="check data.path, name and split"
        ) from error
    except StopIteration as error:
        raise LaunchError(
            f"{_where(recipe, split)}: split {split.split!r} has no rows", hint="name another file"
        ) from error


def _check_text(recipe: RecipeSpec, rows: Dataset, split: Split) -> None:
    column = rows.data.column(recipe.data.text)
    if "string" not in str(column.type):
        raise LaunchError(
            f"{_where(recipe, split)}: column {recipe.data.text!r} is {column.type}, not text",
            hint=f"set data.text to a text column; columns are {', '.join(rows.column_names)}",
        )
    if column.null_count:
        index = next(i for i, value in enumerate(rows[recipe.data.text]) if value is None)
        raise LaunchError(
            f"{_where(recipe, split)}: row {index} of split {split.split!r} has no {recipe.data.text!r}"
            f" ({column.null_count} such rows)",
            hint="remove these rows from the data",
        )


def _label_names(recipe: RecipeSpec, rows: Dataset, num_labels: int) -> tuple[str, ...]:
    from datasets import ClassLabel

    if recipe.model.label_names is not None:
        return recipe.model.label_names
    feature = rows.features[recipe.data.label]
    if isinstance(feature, ClassLabel) and feature.num_classes == num_labels:
        return tuple(feature.names)
    return tuple(str(i) for i in range(num_labels))


def _labels(recipe: RecipeSpec, rows: Dataset, split: Split, label_names: Sequence[str]) -> np.ndarray:
    """The label column as numbers.

    Text labels are numbered by `model.label_names`; anything but whole numbers 0..num_labels-1 is refused.
    """
    # A selection keeps its rows in an index beside the table; reading the column goes through it. Without the slice it
    # would be read row by row, a millisecond each.
    values = rows.with_format("arrow")[recipe.data.label][:].to_numpy(zero_copy_only=False)
    where = f"{_where(recipe, split)}: split {split.split!r}: column {recipe.data.label!r}"
    if values.dtype.kind in "UO" and all(isinstance(v, str) for v in values.tolist()):
        number = {label: i for i, label in enumerate(label_names)}
        unknown = next((v for v in values.tolist() if v not in number), None)
        if unknown is not None:
            raise LaunchError(
                f"{where} holds the text {unknown!r}",
                hint=f"number the labels from 0, or list them as model.label_names (now {', '.join(label_names)})",
            )
        return np.asarray([number[v] for v in values.tolist()], dtype=np.int64)
    if values.dtype.kind == "f" and np.isnan(values).any():
        row = int(np.flatnonzero(np.isnan(values))[0])
        raise LaunchError(f"{where} is empty in row {row} of those selected", hint="remove the rows without a label")
    if values.dtype.kind not in "iub":
        raise LaunchError(f"{where} is {values.dtype}, not whole numbers", hint="labels are whole numbers from 0")
    wrong = np.flatnonzero((values < 0) | (values >= len(label_names)))
    if len(wrong):
        raise LaunchError(
            f"{where} has label {values[wrong[0]]} (and {len(wrong) - 1} more outside), but num_labels is"
            f" {len(label_names)}, so labels run from 0 to {len(label_names) - 1}",
            hint=f"set model.num_labels to {values.max() + 1}" if values.min() >= 0 else "number the labels from 0",
        )
    return values.astype(np.int64)


def _selection_notes(recipe: RecipeSpec, raw: Mapping[str, Dataset]) -> list[str]:
    wanted = {"train": recipe.data.train, "eval": recipe.data.eval}
    limits = {name: split.limit for name, split in wanted.items() if split is not None and split.limit is not None}
    return [
        f"data.{name}.limit is {limit}, the split has {len(raw[name])} rows: all are used"
        for name, limit in limits.items()
        if len(raw[name]) < limit
    ]


# -- tokens --------------------------------------------------------------------------------------------------------


def _tokenise(
    rows: Dataset,
    labels: np.ndarray,
    content: str,
    ids_of: Callable[[list[str]], list[Sequence[int]]],
    settings: Any,
    recipe: RecipeSpec,
) -> SplitFacts:
    key = cache.key([FORMAT, __version__, content, settings])
    target = cache.folder() / "tokens" / key
    facts_path = target / "facts.json"
    with cache.lock(f"tokens-{key}"), _all_cores():
        facts = rundir.read_json(facts_path)
        if facts is None:
            facts = _write_tokens(rows, labels, ids_of, target, recipe)
            rundir.write_json(facts_path, facts)  # written last: a folder without it is made again
    return SplitFacts(path=str(target), **facts)


def _write_tokens(
    rows: Dataset,
    labels: np.ndarray,
    ids_of: Callable[[list[str]], list[Sequence[int]]],
    target: Path,
    recipe: RecipeSpec,
) -> dict[str, Any]:
    import pyarrow as pa
    from datasets import Features, List, Value

    column = recipe.data.text
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as partial:
        tokens = (
            rows.select_columns([column])
            .with_format("arrow")
            .map(
                lambda batch: pa.table({"input_ids": _as_column(ids_of(batch[column].to_pylist()))}),
                batched=True,
                batch_size=1000,
                num_proc=recipe.data.num_proc,
                remove_columns=[column],
                features=Features({"input_ids": List(Value("int32"))}),
                load_from_cache_file=False,
                # Else it would stay in the data's own cache for good, beside what is kept here.
                cache_file_name=f"{partial}/tokens.arrow",
                # Else `map` pickles the tokenizer to make one up.
                new_fingerprint=target.name,
            )
        )
        tokens.with_format(None).add_column("labels", labels).save_to_disk(f"{partial}/saved")
        Path(partial, "saved").replace(target)
    count = lengths(open_split(SplitFacts(str(target), 0, 0, 0, 0, 0)))
    return {
        "rows": len(count),
        "tokens": int(count.sum()),
        "mean_tokens": round(float(count.mean()), 1),
        "max_tokens": int(count.max()),
        "rows_at_max_length": int((count >= recipe.data.max_length).sum()),
    }


def _as_column(rows: Sequence[Sequence[int]]) -> Any:
    """Rows of ids as an arrow column of lists, without a Python number for each."""
    import pyarrow as pa

    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate(rows, dtype=np.int32, casting="same_kind"))


def _sample(facts: SplitFacts, raw: Dataset, recipe: RecipeSpec, tokenizer: Any) -> dict[str, Any]:
    index = min(100, facts.rows - 1)
    row = open_split(facts)[index]
    return {
        "index": index,
        "text": raw[index][recipe.data.text],
        "label": row["labels"],
        "input_ids": row["input_ids"],
        "decoded": tokenizer.decode(row["input_ids"]),
    }


def _content_key(rows: Dataset, column: str, labels: np.ndarray) -> str:
    """Of the rows themselves: a file that moved or was copied keeps its key, a changed one does not."""
    digest = hashlib.sha256(labels.tobytes())
    for batch in rows.select_columns([column]).iter(batch_size=10_000):
        digest.update("\0".join(batch[column]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _tokenizer_key(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return cache.key([text, repr(tokenizer.special_tokens_map), tokenizer.chat_template, tokenizer.padding_side])


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizer use threads for a while; ranks are told not to, since they may fork DataLoader workers."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"


def _quiet() -> None:
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _files(recipe: RecipeSpec, split: Split) -> Any:
    """The files of one split alone, where the recipe names them: read together, a builder wants equal columns in all,
    and cannot say which file it stumbled over."""
    files, base = recipe.data.data_files, split.split.partition("[")[0]
    if recipe.data.path in _BUILDERS and isinstance(files, dict) and base in files:
        return {base: files[base]}
    return files


def _where(recipe: RecipeSpec, split: Split) -> str:
    files = _files(recipe, split)
    if isinstance(files, dict) and len(files) == 1:
        (files,) = files.values()
    if files is None:
        return recipe.data.path
    return files if isinstance(files, str) else f"{recipe.data.path} {json.dumps(files)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
