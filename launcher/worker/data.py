"""From the recipe's `data:` to token ids on disk, once per node, before any rank exists.

Everything about the data and the model that a user can get wrong is found here, where there is one process, no
process group to hang, and no card in use.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher import __version__, rundir
from launcher.rundir import RunDir
from launcher.spec import RecipeSpec, Split
from launcher.worker import cache, labels, prompts, rows, sameness, weights
from launcher.worker import model as models
from launcher.worker.prepared import Prepared, SplitFacts
from launcher.worker.weights import Trained

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from launcher.plan import Plan

_KEY_ROWS = 10_000


def prepare(plan: Plan, run_dir: RunDir) -> Prepared:
    """Check and tokenise the data, find the model, and write data.json.

    Runs once per node, before its ranks. A second call with the same data, tokenizer and settings reads the cache.

    Raises:
        LaunchError: anything about data, tokenizer or model folder that the user can correct.
    """
    _quiet()
    recipe = plan.recipe
    start = find_start(plan)
    raw = read_rows(recipe, start)
    tokens = tokenise(recipe, start, raw)
    # Last, since making random weights may take minutes, which an error in the data must not cost.
    model_path, is_random, notes = model_with_weights(plan, start)
    first, trained = next(iter(raw.splits)), start.trained
    digests = _digests(tokens, start.folder, None if is_random else model_path) if plan.num_nodes > 1 else {}
    prepared = Prepared(
        key=cache.key([split.path for split in tokens.splits.values()]),
        model_path=str(model_path),
        model_is_random=is_random,
        tokenizer_path=str(start.tokenizer_folder),
        num_labels=models.num_labels(recipe),
        label_names=raw.numbered.names,
        train=tokens.splits.get("train"),
        eval=tokens.splits.get("eval"),
        answer_ids=tokens.answer_ids,
        sample=_sample(tokens.splits[first], raw.splits[first], recipe, start.tokenizer),
        notes=(*start.notes, *raw.notes, *tokens.notes, *notes),
        digests=digests,
        adapter_path=str(trained.folder) if trained and trained.base else None,
        weights=trained.facts() if trained else None,
    )
    rundir.write_json(run_dir.data_path, asdict(prepared))
    return prepared


def is_whole(prepared: Prepared) -> bool:
    """Whether the tokens are as they were written."""
    return all(cache.is_whole(Path(split.path)) for split in (prepared.train, prepared.eval) if split is not None)


def _digests(tokens: Tokens, folder: Path, weights_at: Path | None) -> dict[str, str]:
    """What nodes compare before their ranks start. Random weights are made from the config and the seed, equal everywhere."""
    return {
        **{f"{name} data": content[: sameness.DIGEST_LETTERS] for name, content in tokens.contents.items()},
        "tokenizer": tokens.tokenizer_key[: sameness.DIGEST_LETTERS],
        "model config": sameness.of_file(folder / "config.json"),
        "model weights": "random" if weights_at is None else sameness.of_weights(weights_at),
    }


def prepared_for(plan: Plan, run_dir: RunDir) -> Prepared:
    """data.json, made now if the agent did not make it (ranks started by torchrun or accelerate).

    Ranks of a node that come here together take turns; the first does the work.
    """
    prepared = Prepared.load(run_dir.data_path)
    # The agent's preparation has just compared them; other launchers' ranks may find an earlier launch's.
    if prepared is not None and (os.environ.get("TORCHELASTIC_RUN_ID") == run_dir.path.name or is_whole(prepared)):
        return prepared
    with cache.lock(f"run-{cache.key([str(run_dir.path.resolve())])}"):
        prepared = Prepared.load(run_dir.data_path)
        return prepared if prepared is not None and is_whole(prepared) else prepare(plan, run_dir)


def open_split(facts: SplitFacts) -> Dataset:
    """A tokenised split, memory-mapped: columns input_ids (list of int32) and labels (int64)."""
    from datasets import load_from_disk

    return load_from_disk(facts.path)


def lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row, from the offsets of the arrow column: no row is read."""
    column = rows.data.column("input_ids")
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(counts) if counts else np.zeros(0, np.int32)


# -- weights -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """The model that a run begins with, on this node, and its tokenizer."""

    trained: Trained | None
    """None where a training begins: with the recipe's model."""
    folder: Path
    """Of the whole model; of the one below where `trained` is an adapter. It may have no weights yet."""
    tokenizer_folder: Path
    tokenizer: Any
    label_names: tuple[str, ...] | None
    """Where the recipe or the weights have them."""
    notes: tuple[str, ...]


def find_start(plan: Plan) -> Start:
    """The first stage: find the model and its tokenizer, and check that they fit the recipe.

    Raises:
        LaunchError: they are not on this machine and cannot be fetched, or do not fit.
    """
    recipe = plan.recipe
    trained = weights.trained(recipe, plan.use.weights, seed=_seed(plan)) if plan.use is not None else None
    folder = trained.model if trained else models.locate(recipe)
    tokenizer_folder = models.tokenizer_folder(recipe, trained.tokenizer if trained else folder)
    notes = [*(trained.notes if trained else ()), *models.look(recipe, plan.device, folder, is_trained=bool(trained))]
    tokenizer = models.load_tokenizer(recipe, tokenizer_folder)
    config = models.load_config(recipe, folder)
    names = recipe.model.label_names
    if trained is not None:
        models.check_labels(recipe, config, trained.folder, has_head=trained.base is None)
        names = weights.label_names(recipe, trained, config)
    notes += models.notes(recipe, tokenizer, config)
    return Start(trained, folder, tokenizer_folder, tokenizer, names, tuple(notes))


def model_with_weights(plan: Plan, start: Start) -> tuple[Path, bool, list[str]]:
    """The folder of the weights, made now where the model has none; whether they are random; and what to say of that."""
    if start.trained is not None:
        return start.folder, False, []
    notes: list[str] = []
    path, is_random = models.with_weights(plan.recipe, start.folder, seed=_seed(plan), notes=notes)
    if is_random:
        notes.append(f"{start.folder} has no weights: training starts from random ones, made from its config")
    return path, is_random, notes


def _seed(plan: Plan) -> int:
    return plan.training_arguments.get("seed", 42)


# -- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """What the recipe's data holds, checked."""

    splits: dict[str, Dataset]
    """By name: train, eval."""
    numbered: labels.Numbered
    notes: tuple[str, ...]


def read_rows(recipe: RecipeSpec, start: Start) -> Rows:
    """The second stage: read the splits, and number their labels as the weights or the recipe do.

    Raises:
        LaunchError: rows cannot be read, or one of them has no text or no label.
    """
    is_trained = start.trained is not None
    splits: dict[str, Split] = {} if is_trained else {"train": recipe.data.train}
    if recipe.data.eval is not None:
        splits["eval"] = recipe.data.eval
    raw = {name: rows.read(recipe, split, is_eval=name == "eval") for name, split in splits.items()}
    columns = {k: rows.label_column(recipe, part, splits[k], is_eval=k == "eval") for k, part in raw.items()}
    num_labels = models.num_labels(recipe)
    numbered = labels.number(columns, names=start.label_names, num_labels=num_labels, trained=is_trained)
    notes = [*numbered.notes, *(note for k, part in raw.items() for note in rows.notes(recipe, part, splits[k]))]
    notes += [*labels.notes(numbered, columns), *_selection_notes(recipe, raw), *_repeated_notes(recipe, raw)]
    return Rows(raw, numbered, tuple(notes))


def _selection_notes(recipe: RecipeSpec, raw: Mapping[str, Dataset]) -> list[str]:
    wanted = {"train": recipe.data.train, "eval": recipe.data.eval}
    limits = {name: split.limit for name, split in wanted.items() if split is not None and split.limit is not None}
    return [
        f"data.{name}.limit is {limit}, the split has {len(raw[name])} rows: all are used"
        for name, limit in limits.items()
        if name in raw and len(raw[name]) < limit
    ]


def _repeated_notes(recipe: RecipeSpec, raw: Mapping[str, Dataset]) -> list[str]:
    if "train" not in raw or "eval" not in raw:
        return []
    train, held = (rows.texts(recipe, raw[name]) for name in ("train", "eval"))
    count = labels.repeated(train, held)
    if not count:
        return []
    return [
        f"{count:,} of {len(held):,} evaluation rows have the text of a training row: figures tell less of new texts"
    ]


# -- tokens --------------------------------------------------------------------------------------------------------


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
    encode = prompts.encoder(recipe, start.tokenizer, numbered.names)
    settings = {"max_length": recipe.data.max_length, **encode.settings}
    contents = {k: _content_key(rows.texts(recipe, part), numbered.labels[k]) for k, part in raw.splits.items()}
    tokenizer_key = _tokenizer_key(start.tokenizer)
    splits: dict[str, SplitFacts] = {}
    notes: list[str] = []
    for name, part in raw.splits.items():
        of = [tokenizer_key, settings]
        facts, said = _tokenise(part, numbered.labels[name], contents[name], encode.ids, of, recipe)
        splits[name] = SplitFacts(**facts, label_counts=numbered.counts(name))
        notes += said
    return Tokens(splits, contents, tokenizer_key, encode.answer_ids, tuple(notes))


def _tokenise(
    rows: Dataset,
    labels: np.ndarray,
    content: str,
    ids_of: Callable[[list[str]], list[Sequence[int]]],
    settings: Any,
    recipe: RecipeSpec,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The split's facts, from the cache or made now; and what to tell of it."""
    key = cache.key([cache.FORMAT, __version__, content, settings])
    with _all_cores():
        kept = cache.kept("tokens", key, lambda folder: _write_tokens(rows, labels, ids_of, folder, recipe, key))
    return {"path": str(kept.path), **kept.facts}, kept.notes


def _write_tokens(
    rows: Dataset,
    labels: np.ndarray,
    ids_of: Callable[[list[str]], list[Sequence[int]]],
    folder: Path,
    recipe: RecipeSpec,
    key: str,
) -> dict[str, Any]:
    import pyarrow as pa
    from datasets import Features, List, Value

    column, mapped = recipe.data.text, folder / "mapped"
    mapped.mkdir()
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
            cache_file_name=f"{mapped}/tokens.arrow",
            # Else `map` pickles the tokenizer to make one up.
            new_fingerprint=key,
        )
    )
    tokens.with_format(None).add_column("labels", labels).save_to_disk(folder)
    shutil.rmtree(mapped)
    count = lengths(open_split(SplitFacts(str(folder), 0, 0, 0, 0, 0)))
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


def _content_key(texts: pa.ChunkedArray, labels: np.ndarray) -> str:
    """Of the rows themselves: a file that moved or was copied keeps its key, a changed one does not.

    Counts and lengths come before what they are of, so that no two different columns are the same bytes.
    """
    digest = hashlib.sha256(len(labels).to_bytes(8, "little") + labels.tobytes())
    for start in range(0, len(texts), _KEY_ROWS):
        rows = [text.encode("utf-8", "surrogatepass") for text in texts.slice(start, _KEY_ROWS).to_pylist()]
        digest.update(np.fromiter(map(len, rows), np.int64, len(rows)).tobytes())
        digest.update(b"".join(rows))
    return digest.hexdigest()


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
