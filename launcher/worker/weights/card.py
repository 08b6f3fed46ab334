"""What lies beside exported weights: tokenizer, generation settings, the note for `predict`, and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launcher.files import read_json, write_json, write_text
from launcher.recipe.schema import NO_DATA
from launcher.recipe.tasks.sft import Chats
from launcher.rundir.paths import MODEL_NOTE
from launcher.worker.chat import prompts
from launcher.worker.checkpoints.manifest import TRAINER_STATE
from launcher.worker.weights import trained as trained_weights
from launcher.worker.weights.request import Job

GENERATION = "generation_config.json"


def write_beside(job: Job, config: Any) -> None:
    """Tokenizer, generation settings, the note that `predict` reads, and the model card."""
    job.tokenizer.save_pretrained(job.aside)
    if config is not None and not job.recipe.task.has_head:
        _generation(job, config)
    note = read_json(job.trained.folder / MODEL_NOTE) or trained_weights.note_of(
        job.recipe, job.label_names(), job.request.strategy, job.request.precision
    )
    write_json(job.aside / MODEL_NOTE, note)
    write_text(job.aside / "README.md", _card(job))


def _generation(job: Job, config: Any) -> None:
    """As the weights' own folder has it; of a model that writes, with the token that ends a turn among those that end a text,
    which a base model's does not have."""
    from transformers import GenerationConfig

    paths = (folder / GENERATION for folder in (job.trained.folder, job.trained.model))
    values = next((read_json(path) for path in paths if path.is_file()), None)
    if values is None:
        values = json.loads(GenerationConfig.from_model_config(config).to_json_string())
    if job.recipe.task.writes:
        own = values.get("eos_token_id")
        known = own if isinstance(own, list) else [own]
        ends = [*known, *prompts.stops(job.tokenizer, Chats.of(job.recipe.data))]
        first, *others = [one for one in dict.fromkeys(ends) if one is not None] or [None]
        values["eos_token_id"] = [first, *others] if others else first
        values.pop("_from_model_config", None)  # or generate would take the model's own again
    write_json(job.aside / GENERATION, values)


def _card(job: Job) -> str:
    recipe = job.recipe
    base = recipe.model.name
    head = ["library_name: " + ("peft" if job.request.adapter_only else "transformers")]
    head.append("pipeline_tag: " + recipe.task.pipeline)
    if not Path(base).exists() and not base.startswith(("/", ".", "~")):
        head.append(f"base_model: {base}")
    lines = ["---", *head, "tags: [ascend-launch]", "---", "", f"# {Path(base).name}, fine-tuned", ""]
    how = ", LoRA" if job.trained.base else ""
    trained = f" ({job.request.strategy}, {job.request.precision}{how})" if job.request.strategy else ""
    if recipe.data.path != NO_DATA:
        lines.append(
            f"Trained by ascend-launch{trained} on `{recipe.data.path}`, at most {recipe.data.max_length} tokens a text."
        )
    if job.trained.step is not None:
        lines.append(f"These are the weights after step {job.trained.step}.")
    lines += _about_labels(job) if recipe.task.has_labels else []
    figures = _figures(job)
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
        f"ascend-launch predict --model {Path(job.request.out).name} --input texts.txt",
        "```",
        *(_pipeline(job) if recipe.task.writes and not job.request.adapter_only else []),
        "",
    ]
    return "\n".join(lines)


def _pipeline(job: Job) -> list[str]:
    messages = '[{"role": "user", "content": "..."}]'
    lines = [f'write = pipeline("{job.recipe.task.pipeline}", "{Path(job.request.out).name}")', f"write({messages})"]
    return ["", "```python", "from transformers import pipeline", "", *lines, "```"]


def _about_labels(job: Job) -> list[str]:
    recipe, names = job.recipe, job.label_names()
    is_chat, answers = not recipe.task.has_head, recipe.data.answers or names
    head = ["| id | name |" + (" answer |" if is_chat else ""), "|---|---|" + ("---|" if is_chat else "")]
    rows = [f"| {i} | {n} |" + (f" {answers[i]} |" if is_chat else "") for i, n in enumerate(names)]
    prompt = [f"    {line}" for line in (recipe.data.prompt or "{text}").splitlines()]
    return ["", "## Labels", "", *head, *rows, *(["", "## Prompt", "", *prompt] if is_chat else [])]


def _figures(job: Job) -> dict[str, Any]:
    """Of these very weights, as the training evaluated them."""
    folder, step = job.trained.folder, job.trained.step
    if step is None:
        final = (read_json(folder.parent / "metrics.json") or {}).get("final", {})
        return {
            k: v for k, v in final.items() if isinstance(v, int | float) and "runtime" not in k and "second" not in k
        }
    rows = (read_json(folder / TRAINER_STATE) or {}).get("log_history", [])
    row: dict[str, Any] = next((r for r in reversed(rows) if r.get("step") == step and "eval_loss" in r), {})
    skipped = ("runtime", "second", "steps")
    plain = {k.removeprefix("eval_") if k not in ("eval_loss", "eval_samples") else k: v for k, v in row.items()}
    return {k: v for k, v in plain.items() if k not in ("step", "epoch") and not any(word in k for word in skipped)}
