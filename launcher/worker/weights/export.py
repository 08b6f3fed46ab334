"""A training's weights as one Hugging Face folder: `python -m launcher.worker.weights.export REQUEST`, one process, little memory.

The folder is written aside and renamed once transformers itself has looked at it, so it is whole or it is not there.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.errors import LaunchError
from launcher.files import read_json, write_json, write_text
from launcher.messages import Message, joined
from launcher.recipe import schema
from launcher.recipe.schema import NO_DATA, RecipeSpec
from launcher.rundir.paths import MODEL_NOTE, RunDir
from launcher.worker.checkpoints import publish
from launcher.worker.checkpoints.manifest import MANIFEST, TRAINER_STATE, listed, state_files
from launcher.worker.models import tokenizer
from launcher.worker.models.folder import load_config
from launcher.worker.runtime import failure
from launcher.worker.tasks import table
from launcher.worker.weights import merge
from launcher.worker.weights import trained as trained_weights
from launcher.worker.weights.merge import Source
from launcher.worker.weights.trained import ADAPTER, with_labels

if TYPE_CHECKING:
    from launcher.worker.weights.trained import Trained


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DEEPSPEED = ("*_optim_states.pt", "*_model_states.pt", "global_step*")
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Request:
    """What the command line asks for, as JSON."""

    weights: str
    """A folder's absolute path."""
    out: str
    checkpoint: int | None
    """The step of a checkpoint in a run directory; None for the final model, or the newest whole checkpoint."""
    dtype: str | None
    """bf16, fp16 or fp32; None for what the weights are saved in."""
    max_shard_bytes: int
    adapter_only: bool
    recipe: dict[str, Any]
    strategy: str | None
    precision: str | None


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
    found = _find(request, recipe)
    if request.adapter_only and found.base is None:
        raise LaunchError("{folder}: is no adapter", hint="leave out --adapter-only", folder=found.folder)
    recipe = with_labels(recipe, load_config(recipe, found.model), found)
    notes = list(found.notes)
    aside = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        job = _Job(request, recipe, found, aside, notes)
        facts = job.adapter() if request.adapter_only else job.model()
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
    return {"out": str(out), "source": str(found.folder), "step": found.step, "notes": notes, **facts}


def _find(request: Request, recipe: RecipeSpec) -> Trained:
    folder = Path(request.weights)
    if request.checkpoint is not None:
        run = RunDir(folder)
        chosen = run.checkpoints / f"checkpoint-{request.checkpoint}"
        if not chosen.is_dir():
            there = joined(str(step) for step, _ in listed(run.checkpoints)) or "none"
            raise LaunchError(
                "{folder}: has no checkpoint {checkpoint}",
                hint="steps there: {place}",
                folder=folder,
                checkpoint=request.checkpoint,
                place=there,
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


@dataclass
class _Job:
    request: Request
    recipe: RecipeSpec
    found: Trained
    aside: Path
    notes: list[str]

    @functools.cached_property
    def tokenizer(self) -> Any:
        return tokenizer.load_tokenizer(self.recipe, self.found.tokenizer)

    # -- a whole model ---------------------------------------------------------------------------------------------

    def model(self) -> dict[str, Any]:
        config = self._config()
        sources = self._merged(config) if self.found.base else self._saved(config)
        dtype = _DTYPES[self.request.dtype] if self.request.dtype else _most(sources.values())
        config.dtype = dtype
        config.architectures = [self._class()(config).__name__] if self.found.base else config.architectures
        files, written = self._write(sources, dtype, "model")
        config.save_pretrained(self.aside)
        self._beside(config)
        self._check()
        return {
            "files": files,
            "bytes": written,
            "parameters": sum(s.numel for s in sources.values()),
            "dtype": str(dtype).removeprefix("torch."),
        }

    def _class(self) -> Any:
        auto = table.auto_class(self.recipe)
        return lambda config: auto._model_mapping[type(config)]

    def _config(self) -> Any:
        config = load_config(self.recipe, self.found.model)
        tokenizer.set_pad_token(config, self.tokenizer)
        if self.recipe.model.task == "sequence-classification" and self.found.base:
            names = self._label_names()
            config.num_labels = len(names)
            config.id2label = dict(enumerate(names))
            config.label2id = {name: i for i, name in enumerate(names)}
        return config

    def _label_names(self) -> tuple[str, ...]:
        return self.recipe.model.label_names or tuple(map(str, range(schema.num_labels(self.recipe))))

    def _saved(self, config: Any) -> dict[str, Source]:
        """The weights as the training saved them; its fp32 ones where more precision is asked for than that."""
        sources = merge.folder_sources(self.found.folder)
        wanted = _DTYPES.get(self.request.dtype or "")
        manifest = read_json(self.found.folder / MANIFEST)
        if manifest is None or (sources and (wanted is None or wanted.itemsize <= _most(sources.values()).itemsize)):
            return sources
        files = [self.found.folder / name for name in state_files(manifest)]
        shapes = {name: source.shape for name, source in sources.items()} or self._shapes(config)
        pieces = merge.piece_sources(files, shapes)
        left = [name for name in sources if name not in pieces]
        if not pieces:
            self.notes.append(Message("no fp32 weights are kept there; these are the saved ones, widened"))
        elif left:
            self.notes.append(
                Message(
                    "{num_left} tensors are no trained parameters and stay as they were saved, as {left}",
                    num_left=len(left),
                    left=left[0],
                )
            )
        return {**sources, **pieces}

    def _shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            model = table.auto_class(self.recipe).from_config(config)
        return {name: tuple(p.shape) for name, p in model.named_parameters()}

    # -- LoRA ------------------------------------------------------------------------------------------------------

    def _merged(self, config: Any) -> dict[str, Source]:
        """The adapter's model with the adapter added in."""
        assert self.found.base is not None
        settings = trained_weights.adapter_settings(self.found.folder)
        sources = merge.folder_sources(self.found.base)
        adapter = merge.folder_sources(self.found.folder)
        with torch.device("meta"):
            model = table.auto_class(self.recipe).from_config(config)
        tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
        plan = _lora(settings, adapter, _with_twins(sources, tied))
        names = set(model.state_dict())
        if plan is None or names - set(tied) - plan.keys():
            return self._merged_in_memory(adapter, tied)
        if any(plan.get(twin) is not plan.get(name) for twin, name in tied.items()):
            # peft trains one of the two alone, and the other stays as it was.
            for part in (config, config.get_text_config()):
                part.tie_word_embeddings = False
        else:
            names -= set(tied)
        return {name: source for name, source in plan.items() if name in names}

    def _merged_in_memory(self, adapter: Iterable[str], tied: Mapping[str, str]) -> dict[str, Source]:
        """By peft: for adapters that are more than matrices beside linear layers, and models whose files name their
        weights otherwise.

        Raises:
            LaunchError: one of two tied weights was trained, which peft would merge into both.
        """
        import peft

        modules = tuple(f"{_PREFIX}{name.removesuffix('weight')}" for pair in tied.items() for name in pair)
        if part := next((key for key in adapter if key.startswith(modules)), None):
            raise LaunchError(
                "{folder}: {part} was trained apart from the weight it is tied to, and cannot be merged",
                hint="export it with --adapter-only; eval and predict take the adapter as it is",
                folder=self.found.folder,
                part=part,
            )
        self.notes.append(Message("this adapter is merged in memory, by peft"))
        assert self.found.base is not None
        options = {"num_labels": len(self._label_names())} if self.recipe.model.task != "causal-lm" else {}
        base = table.auto_class(self.recipe).from_pretrained(self.found.base, trust_remote_code=False, **options)
        model = peft.PeftModel.from_pretrained(base, str(self.found.folder)).merge_and_unload(safe_merge=True)
        return {n: merge.of_tensor(t.detach()) for n, t in model.state_dict().items() if n not in tied}

    def adapter(self) -> dict[str, Any]:
        """The adapter itself, naming its model as the recipe does."""
        sources = merge.folder_sources(self.found.folder)
        dtype = _DTYPES[self.request.dtype] if self.request.dtype else None
        merge.write(self.aside / "adapter_model.safetensors", sources.items(), dtype)
        settings = trained_weights.adapter_settings(self.found.folder)
        name = self.recipe.model.name
        if not Path(name).is_dir() and name != str(self.found.folder):
            settings["base_model_name_or_path"] = name
        write_json(self.aside / ADAPTER, settings)
        self._beside(None)
        count = sum(s.numel for s in sources.values())
        kind = str(dtype or _most(sources.values())).removeprefix("torch.")
        return {
            "files": ["adapter_model.safetensors"],
            "bytes": (self.aside / "adapter_model.safetensors").stat().st_size,
            "parameters": count,
            "dtype": kind,
        }

    # -- files -----------------------------------------------------------------------------------------------------

    def _write(self, sources: Mapping[str, Source], dtype: torch.dtype, stem: str) -> tuple[list[str], int]:
        parts = merge.shards(sources, dtype, self.request.max_shard_bytes, stem)
        total = sum(merge.write(self.aside / part.name, part.tensors, dtype) for part in parts)
        if len(parts) > 1:
            where = {name: part.name for part in parts for name, _ in part.tensors}
            write_json(
                self.aside / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where}
            )
        return [part.name for part in parts], total

    def _beside(self, config: Any) -> None:
        """Tokenizer, generation settings, the note that `predict` reads, and the model card."""
        self.tokenizer.save_pretrained(self.aside)
        if config is not None and self.recipe.model.task == "causal-lm":
            self._generation(config)
        note = read_json(self.found.folder / MODEL_NOTE) or trained_weights.note_of(
            self.recipe, self._label_names(), self.request.strategy, self.request.precision
        )
        write_json(self.aside / MODEL_NOTE, note)
        write_text(self.aside / "README.md", self._card())

    def _generation(self, config: Any) -> None:
        from transformers import GenerationConfig

        for folder in (self.found.folder, self.found.model):
            if (folder / "generation_config.json").is_file():
                GenerationConfig.from_pretrained(folder).save_pretrained(self.aside)
                return
        GenerationConfig.from_model_config(config).save_pretrained(self.aside)

    def _check(self) -> None:
        """Have transformers read the folder without its numbers: every key and shape, as it will be read later."""
        _, found = table.auto_class(self.recipe).from_pretrained(
            self.aside, device_map="meta", output_loading_info=True, trust_remote_code=False
        )
        wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
        if wrong:
            kind, keys = next(iter(wrong.items()))
            raise LaunchError(
                "the exported weights do not fit the model's config: {kind}: {keys}",
                hint="report this with the run directory",
                exit_code=1,
                kind=kind.replace("_", " "),
                keys=", ".join(keys[:3]),
            )

    # -- the card --------------------------------------------------------------------------------------------------

    def _card(self) -> str:
        recipe, names = self.recipe, self._label_names()
        is_chat = recipe.model.task == "causal-lm"
        base = recipe.model.name
        head = ["library_name: " + ("peft" if self.request.adapter_only else "transformers")]
        head.append("pipeline_tag: " + ("text-generation" if is_chat else "text-classification"))
        if not Path(base).exists() and not base.startswith(("/", ".", "~")):
            head.append(f"base_model: {base}")
        lines = ["---", *head, "tags: [ascend-launch]", "---", "", f"# {Path(base).name}, fine-tuned", ""]
        how = ", LoRA" if self.found.base else ""
        trained = f" ({self.request.strategy}, {self.request.precision}{how})" if self.request.strategy else ""
        if recipe.data.path != NO_DATA:
            lines.append(
                f"Trained by ascend-launch{trained} on `{recipe.data.path}`, at most {recipe.data.max_length} tokens a text."
            )
        if self.found.step is not None:
            lines.append(f"These are the weights after step {self.found.step}.")
        answers = recipe.data.answers or names
        lines += [
            "",
            "## Labels",
            "",
            "| id | name |" + (" answer |" if is_chat else ""),
            "|---|---|" + ("---|" if is_chat else ""),
        ]
        lines += [f"| {i} | {n} |" + (f" {answers[i]} |" if is_chat else "") for i, n in enumerate(names)]
        if is_chat:
            lines += ["", "## Prompt", "", *(f"    {line}" for line in (recipe.data.prompt or "{text}").splitlines())]
        figures = self._figures()
        if figures:
            lines += [
                "",
                "## Evaluation",
                "",
                "| figure | value |",
                "|---|---|",
                *(f"| {k} | {v} |" for k, v in figures.items()),
            ]
        lines += [
            "",
            "## Use",
            "",
            "```console",
            f"ascend-launch predict --model {Path(self.request.out).name} --input texts.txt",
            "```",
            "",
        ]
        return "\n".join(lines)

    def _figures(self) -> dict[str, Any]:
        """Of these very weights, as the training evaluated them."""
        folder, step = self.found.folder, self.found.step
        if step is None:
            final = (read_json(folder.parent / "metrics.json") or {}).get("final", {})
            return {
                k: v
                for k, v in final.items()
                if isinstance(v, int | float) and "runtime" not in k and "second" not in k
            }
        rows = (read_json(folder / TRAINER_STATE) or {}).get("log_history", [])
        row: dict[str, Any] = next((r for r in reversed(rows) if r.get("step") == step and "eval_loss" in r), {})
        skipped = ("runtime", "second", "steps")
        plain = {k.removeprefix("eval_") if k not in ("eval_loss", "eval_samples") else k: v for k, v in row.items()}
        return {k: v for k, v in plain.items() if k not in ("step", "epoch") and not any(word in k for word in skipped)}


def _with_twins(sources: Mapping[str, Source], tied: Mapping[str, str]) -> dict[str, Source]:
    """Files hold one of two tied weights: under both names, as one and the same source."""
    twins = {twin: sources[name] for twin, name in tied.items() if name in sources}
    return {**sources, **twins}


def _lora(
    settings: Mapping[str, Any], adapter: Mapping[str, Source], base: Mapping[str, Source]
) -> dict[str, Source] | None:
    """Every weight with the adapter's part in it; None where the adapter is more than matrices beside linear layers."""
    if (
        settings.get("peft_type") != "LORA"
        or settings.get("fan_in_fan_out")
        or settings.get("alpha_pattern")
        or settings.get("rank_pattern")
    ):
        return None
    out, used = dict(base), set()
    scale = settings["lora_alpha"] / (math.sqrt(settings["r"]) if settings.get("use_rslora") else settings["r"])
    for key, source in adapter.items():
        name = key.removeprefix(_PREFIX)
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = adapter.get(f"{_PREFIX}{module}.lora_B.weight")
            target = base.get(f"{module}.weight")
            if b is None or target is None or len(target.shape) != 2 or target.shape != (b.shape[0], source.shape[1]):
                return None
            magnitude = adapter.get(f"{_PREFIX}{module}.lora_magnitude_vector")
            if settings.get("use_dora") and magnitude is None:
                return None
            out[f"{module}.weight"] = merge.with_lora(target, source, b, scale, magnitude)
            used |= {key, f"{_PREFIX}{module}.lora_B.weight", f"{_PREFIX}{module}.lora_magnitude_vector"}
        elif ".lora_" not in name:  # the head, or a bias, trained whole
            out[name.replace(".base_layer.", ".")] = source
            used.add(key)
    return out if not set(adapter) - used else None


def _most(sources: Iterable[Source]) -> torch.dtype:
    """The floating-point type that most elements have."""
    count: dict[torch.dtype, int] = {}
    for source in sources:
        if source.dtype.is_floating_point:
            count[source.dtype] = count.get(source.dtype, 0) + source.numel
    return max(count, key=lambda d: count[d]) if count else torch.float32


if __name__ == "__main__":
    sys.exit(main())
