"""From the recipe's `data:` to token ids on disk, once per node, before any rank exists.

Everything about the data and the model that a user can get wrong is found here, where there is one process, no
process group to hang, and no card in use.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import files
from launcher.recipe import schema
from launcher.rundir.paths import RunDir
from launcher.rundir.prepared import Prepared
from launcher.worker.batching.digests import DIGEST_LETTERS, of_file, of_weights
from launcher.worker.data import cache
from launcher.worker.data.splits import read_rows
from launcher.worker.data.start import find_start, model_with_weights
from launcher.worker.data.tokens import Tokens, sample, tokenise
from launcher.worker.losses import class_weights

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


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
    weights = class_weights.class_weights(recipe, raw.numbered.names, tokens.splits.get("train"))
    digests = _digests(tokens, start.folder, None if is_random else model_path) if plan.num_nodes > 1 else {}
    prepared = Prepared(
        key=cache.key([split.path for split in tokens.splits.values()]),
        model_path=str(model_path),
        model_is_random=is_random,
        tokenizer_path=str(start.tokenizer_folder),
        num_labels=schema.num_labels(recipe),
        label_names=raw.numbered.names,
        train=tokens.splits.get("train"),
        eval=tokens.splits.get("eval"),
        answer_ids=tokens.answer_ids,
        sample=sample(tokens.splits[first], raw.splits[first], recipe, start.tokenizer),
        notes=(*start.notes, *raw.notes, *tokens.notes, *class_weights.note(weights, raw.numbered.names), *notes),
        digests=digests,
        adapter_path=str(trained.folder) if trained and trained.base else None,
        weights=trained.facts() if trained else None,
        evals={name.removeprefix("eval."): f for name, f in tokens.splits.items() if name.startswith("eval.")},
    )
    files.write_json(run_dir.data_path, asdict(prepared))
    return prepared


def is_whole(prepared: Prepared) -> bool:
    """Whether the tokens are as they were written."""
    return all(cache.is_whole(Path(split.path)) for split in prepared.splits.values())


def _digests(tokens: Tokens, folder: Path, weights_at: Path | None) -> dict[str, str]:
    """What nodes compare before their ranks start. Random weights are made from the config and the seed, equal everywhere."""
    return {
        **{f"{name} data": content[:DIGEST_LETTERS] for name, content in tokens.contents.items()},
        "tokenizer": tokens.tokenizer_key[:DIGEST_LETTERS],
        "model config": of_file(folder / "config.json"),
        "model weights": "random" if weights_at is None else of_weights(weights_at),
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


def _quiet() -> None:
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
