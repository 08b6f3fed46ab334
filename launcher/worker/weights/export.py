"""A training's weights as one Hugging Face folder: `python -m launcher.worker.weights.export REQUEST`, one process, little memory.

The folder is written aside and renamed once transformers itself has looked at it, so it is whole or it is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.errors import LaunchError
from launcher.files import read_json, write_json
from launcher.messages import Message, joined
from launcher.recipe.schema import RecipeSpec
from launcher.rundir.paths import RunDir
from launcher.worker.checkpoints import publish
from launcher.worker.checkpoints.manifest import MANIFEST, listed, state_files
from launcher.worker.models import tokenizer
from launcher.worker.models.folder import load_config
from launcher.worker.runtime import failure
from launcher.worker.tasks import table
from launcher.worker.weights import card, export_merge, merge
from launcher.worker.weights import trained as trained_weights
from launcher.worker.weights.merge import Source
from launcher.worker.weights.request import DTYPES, Job, Request
from launcher.worker.weights.trained import ADAPTER, with_labels

if TYPE_CHECKING:
    from launcher.worker.weights.trained import Trained


_DEEPSPEED = ("*_optim_states.pt", "*_model_states.pt", "global_step*")


def main() -> int:
    """Carry out a request; result.json or error.json beside it."""
    parser = argparse.ArgumentParser(
        prog="python -m launcher.worker.weights.export", description=__doc__.partition(":")[0]
    )
    parser.add_argument("request", type=Path)
    path = parser.parse_args().request
    sys.modules["torch_npu"] = None  # type: ignore[assignment]  # no card is used, and without CANN its import fails
    try:
        request = Request(**json.loads(path.read_text(encoding="utf-8")))
        write_json(path.with_name("result.json"), export(request))
    except Exception as error:
        return failure.record(path.with_name("error.json"), error, None)
    return 0


def export(request: Request) -> dict[str, Any]:
    """Write the folder.

    Returns:
        `out`, `files`, `bytes`, `parameters`, `dtype`, `source`, `step`, `notes`.

    Raises:
        LaunchError: no such checkpoint, a damaged one, one that is not read, or an `out` that is there already.
    """
    out = Path(request.out)
    if out.exists() or out.is_symlink():
        raise LaunchError(
            "{out}: exists already", hint="name another folder with --out; nothing is overwritten", out=out
        )
    recipe = RecipeSpec.model_validate_json(json.dumps(request.recipe))
    trained = _find(request, recipe)
    if request.adapter_only and trained.base is None:
        raise LaunchError("{folder}: is not an adapter", hint="leave out --adapter-only", folder=trained.folder)
    recipe = with_labels(recipe, load_config(recipe, trained.model), trained)
    notes = list(trained.notes)
    aside = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        job = Job(request, recipe, trained, aside, notes)
        facts = _adapter(job) if request.adapter_only else _model(job)
        publish.sync_folder(aside)
        aside.replace(out)
        publish.sync_folder(out.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise LaunchError(
            "{out}: cannot be written: {problem}",
            hint="free some space, or name another --out",
            out=out,
            problem=error.strerror,
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"out": str(out), "source": str(trained.folder), "step": trained.step, "notes": notes, **facts}


def _find(request: Request, recipe: RecipeSpec) -> Trained:
    folder = Path(request.weights)
    if request.checkpoint is not None:
        run = RunDir(folder)
        chosen = run.checkpoints / f"checkpoint-{request.checkpoint}"
        if not chosen.is_dir():
            steps = joined(str(step) for step, _ in listed(run.checkpoints)) or "none"
            raise LaunchError(
                "{folder}: has no checkpoint {checkpoint}",
                hint="steps there: {place}",
                folder=folder,
                checkpoint=request.checkpoint,
                place=steps,
            )
        folder = chosen
    _refuse_foreign(folder)
    return trained_weights.trained(recipe, str(folder), seed=recipe.training.get("seed", 42))


def _refuse_foreign(folder: Path) -> None:
    """Checkpoints of DeepSpeed and torch.distributed are pickles, or need the program that wrote them."""
    if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")) or RunDir(folder).plan_path.exists():
        return
    if any(any(folder.glob(pattern)) for pattern in _DEEPSPEED):
        raise LaunchError(
            "{folder}: is DeepSpeed's own checkpoint, which is made of pickles; ascend-launch does not open these",
            hint="merge it where you trust it: `python zero_to_fp32.py . merged --safe_serialization` in that "
            "folder (DeepSpeed leaves that script there), then export or evaluate the folder `merged`",
            folder=folder,
        )
    if any(folder.rglob("*.distcp")):
        raise LaunchError(
            "{folder}: is a checkpoint of torch.distributed",
            hint="`accelerate merge-weights {folder} merged`, then use the folder `merged`",
            folder=folder,
        )


def _model(job: Job) -> dict[str, Any]:
    config = _config(job)
    sources = export_merge.merged(job, config) if job.trained.base else _saved(job, config)
    dtype = DTYPES[job.request.dtype] if job.request.dtype else _most(sources.values())
    config.dtype = dtype
    config.architectures = [_class(job)(config).__name__] if job.trained.base else config.architectures
    files, written = _write(job, sources, dtype, "model")
    config.save_pretrained(job.aside)
    card.write_beside(job, config)
    _check(job)
    return {
        "files": files,
        "bytes": written,
        "parameters": sum(s.numel for s in sources.values()),
        "dtype": str(dtype).removeprefix("torch."),
    }


def _class(job: Job) -> Any:
    auto = table.auto_class(job.recipe)
    return lambda config: auto._model_mapping[type(config)]


def _config(job: Job) -> Any:
    config = load_config(job.recipe, job.trained.model)
    tokenizer.set_pad_token(config, job.tokenizer)
    if not job.recipe.task.has_head:
        config.get_text_config().use_cache = True  # a training turns it off, and what writes is slow without
    if job.recipe.task.has_head and job.trained.base:
        names = job.label_names()
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
        config.problem_type = table.problem_type(job.recipe)
    return config


def _saved(job: Job, config: Any) -> dict[str, Source]:
    """The weights as the training saved them; its fp32 ones where more precision is asked for than that."""
    sources = merge.folder_sources(job.trained.folder)
    wanted = DTYPES.get(job.request.dtype or "")
    manifest = read_json(job.trained.folder / MANIFEST)
    if manifest is None or (sources and (wanted is None or wanted.itemsize <= _most(sources.values()).itemsize)):
        return sources
    files = [job.trained.folder / name for name in state_files(manifest)]
    shapes = {name: source.shape for name, source in sources.items()} or _shapes(job, config)
    pieces = merge.piece_sources(files, shapes)
    left = [name for name in sources if name not in pieces]
    if not pieces:
        job.notes.append(Message("no fp32 weights are kept there; these are the saved ones, widened"))
    elif left:
        job.notes.append(
            Message(
                "{num_left} tensors are not trained parameters and stay as they were saved, as {left}",
                num_left=len(left),
                left=left[0],
            )
        )
    return {**sources, **pieces}


def _shapes(job: Job, config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = table.auto_class(job.recipe).from_config(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _adapter(job: Job) -> dict[str, Any]:
    """The adapter itself, naming its model as the recipe does."""
    sources = merge.folder_sources(job.trained.folder)
    dtype = DTYPES[job.request.dtype] if job.request.dtype else None
    merge.write(job.aside / "adapter_model.safetensors", sources.items(), dtype)
    settings = trained_weights.adapter_settings(job.trained.folder)
    name = job.recipe.model.name
    if not Path(name).is_dir() and name != str(job.trained.folder):
        settings["base_model_name_or_path"] = name
    write_json(job.aside / ADAPTER, settings)
    card.write_beside(job, None)
    count = sum(s.numel for s in sources.values())
    kind = str(dtype or _most(sources.values())).removeprefix("torch.")
    return {
        "files": ["adapter_model.safetensors"],
        "bytes": (job.aside / "adapter_model.safetensors").stat().st_size,
        "parameters": count,
        "dtype": kind,
    }


def _write(job: Job, sources: Mapping[str, Source], dtype: torch.dtype, stem: str) -> tuple[list[str], int]:
    parts = merge.shards(sources, dtype, job.request.max_shard_bytes, stem)
    total = sum(merge.write(job.aside / part.name, part.tensors, dtype) for part in parts)
    if len(parts) > 1:
        where = {name: part.name for part in parts for name, _ in part.tensors}
        write_json(
            job.aside / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where}
        )
    return [part.name for part in parts], total


def _check(job: Job) -> None:
    """Have transformers read the folder without its numbers: every key and shape, as it will be read later."""
    _, loading_info = table.auto_class(job.recipe).from_pretrained(
        job.aside, device_map="meta", output_loading_info=True, trust_remote_code=False
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading_info.items() if keys}
    if wrong:
        kind, keys = next(iter(wrong.items()))
        raise LaunchError(
            "the exported weights do not fit the model's config: {kind}: {keys}",
            hint="report this with the run directory",
            exit_code=1,
            kind=kind.replace("_", " "),
            keys=", ".join(keys[:3]),
        )


def _most(sources: Iterable[Source]) -> torch.dtype:
    """The floating-point type that most elements have."""
    count: dict[torch.dtype, int] = {}
    for source in sources:
        if source.dtype.is_floating_point:
            count[source.dtype] = count.get(source.dtype, 0) + source.numel
    return max(count, key=lambda d: count[d]) if count else torch.float32


if __name__ == "__main__":
    sys.exit(main())
