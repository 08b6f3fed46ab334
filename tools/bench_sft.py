"""Supervised fine-tuning beside LLaMA-Factory and TRL, one rank on CPU, each in an environment of its own.

    python tools/bench_sft.py --llamafactory VENV --trl VENV [--size cut2|whole|wide] [--train answers|all]
        [--sides "ours, packed;TRL, packing"]

VENV is an environment with `llamafactory` or `trl` installed, as their users have it. All sides train the same model on the
same two-turn conversations in the same order with the same settings, so that the losses of the padded sides agree step by
step, which is printed. A side's
CPU seconds are those of its process between the begin and the end of training (tools/bench_sft/sitecustomize.py), and its
peak is above the memory that it had before. Sides take turns; ratios are of one run of this program.

Sizes: `cut2` is SmolLM2-135M's first two layers, `whole` all thirty, `wide` two small layers below a vocabulary of 151,936
with 2 x 1,024 tokens of which few are trained.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parent.parent
DEMO = REPO / ".cache" / "demo"
FOLDER = REPO / ".cache" / "bench-sft"
SITE = REPO / "tools" / "bench_sft"

BATCH, MAX_LENGTH, PACKS = 8, 1024, 2
LEARNING_RATE = 5e-5
ROWS, HELD_OUT = 96, 41
SENTENCES = (3, 9)
"""Of the review that a conversation is about, at least and at most."""
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The model's own, with what LLaMA-Factory's template `smollm2` trains marked: TRL refuses the unmarked one."""
WIDE_VOCABULARY, WIDE_HIDDEN = 151_936, 128


def conversations(rows: int, split: str) -> list[dict[str, Any]]:
    """Two questions about a review of real sentences of the demo's data; the answers are a few words of it."""
    path = DEMO / f"{split}.jsonl"
    if not path.exists():
        sys.exit(f"error: {path} is not there\n  fix: python tools/demo_assets.py")
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(rows)
    found = []
    for _ in range(rows):
        first, second = (" ".join(rng.sample(texts, rng.randint(*SENTENCES))) for _ in range(2))
        turns = []
        for text, question in ((first, "How does this review begin?"), (second, "And this one?")):
            answer = " ".join(text.split()[: rng.randint(6, 14)])
            turns += [{"role": "user", "content": f"{text}\n{question}"}, {"role": "assistant", "content": answer}]
        found.append({"messages": turns})
    return found


def make_data(folder: Path) -> None:
    for name, rows in (("train", ROWS), ("test", HELD_OUT)):
        lines = [json.dumps(row, ensure_ascii=False) for row in conversations(rows, name)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    long = [{"messages": [{"role": "user", "content": "word " * 960}, {"role": "assistant", "content": "yes " * 20}]}]
    (folder / "wide.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long * 4), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    info = {name: {"file_name": f"{name}.jsonl", **entry} for name in ("train", "test", "wide")}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


def make_model(size: str, folder: Path) -> None:
    """The demo's model, whole or its first two layers; or two small layers below a large vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = DEMO / "model"
    config = AutoConfig.from_pretrained(source)
    if size == "wide":
        config.vocab_size, config.hidden_size, config.intermediate_size = WIDE_VOCABULARY, WIDE_HIDDEN, 2 * WIDE_HIDDEN
        config.num_attention_heads = config.num_key_value_heads = 4
        config.head_dim = WIDE_HIDDEN // 4
    config.num_hidden_layers = config.num_hidden_layers if size == "whole" else 2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if size != "wide":
        weights = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
        model.load_state_dict({name: value for name, value in weights.items() if name in model.state_dict()})
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Job:
    """What all sides train, and where one of them may write."""

    model: Path
    data: Path
    name: str
    """train, or wide."""
    folder: Path
    steps: int
    """0 for one epoch."""
    trains_all: bool
    """Whether every token is trained, and not the answers alone."""

    @property
    def trainer(self) -> dict[str, Any]:
        """Of TrainingArguments, the same on every side."""
        return {
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "linear",
            "num_train_epochs": 1,
            "logging_steps": 1,
            "seed": 7,
            **({"max_steps": self.steps} if self.steps else {}),
        }


def ours(job: Job, *, packs: bool) -> list[str]:
    recipe = {
        "model": {"name": str(job.model), "task": "sft"},
        "data": {
            "path": str(job.data / f"{job.name}.jsonl"),
            "max_length": MAX_LENGTH,
            "packing": packs,
            "train_on": "all" if job.trains_all else "answers",
            "eval": None,
        },
        "training": {**job.trainer, "save_strategy": "no", "train_sampling_strategy": "sequential"},
        "parallel": {
            "strategy": "ddp",
            "precision": "fp32",
            "global_batch_size": PACKS if packs or job.name == "wide" else BATCH,
            "micro_batch_size": PACKS if packs or job.name == "wide" else BATCH,
        },
        "report": False,
        "output_dir": str(job.folder / "runs"),
    }
    (job.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    launcher = Path(sys.executable).parent / "ascend-launch"
    return [str(launcher), "--device", "cpu", "--nproc", "1", str(job.folder / "recipe.yaml")]


def llamafactory(job: Job, *, packs: bool, python: Path) -> list[str]:
    job_file = {
        "model_name_or_path": str(job.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": job.name,
        "dataset_dir": str(job.data),
        "template": "smollm2",
        "cutoff_len": MAX_LENGTH,
        "output_dir": str(job.folder / "out"),
        "save_strategy": "no",
        "per_device_train_batch_size": PACKS if packs or job.name == "wide" else BATCH,
        "neat_packing": packs,
        "train_on_prompt": job.trains_all,
        "disable_gradient_checkpointing": True,
        "flash_attn": "sdpa",
        "report_to": "none",
        "optim": "adamw_torch_fused",
        "disable_shuffling": True,
        **job.trainer,
    }
    (job.folder / "sft.yaml").write_text(yaml.safe_dump(job_file), encoding="utf-8")
    return [str(python.parent / "llamafactory-cli"), "train", str(job.folder / "sft.yaml")]


TRL = """
import json, sys
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

job = json.loads(sys.argv[1])
rows = load_dataset("json", data_files=job["data"], split="train")
SFTTrainer(model=job["model"], args=SFTConfig(**job["args"]), train_dataset=rows).train()
"""


def trl(job: Job, *, packs: bool, python: Path) -> list[str]:
    args = {
        "output_dir": str(job.folder / "out"),
        "max_length": MAX_LENGTH,
        "packing": packs,
        "assistant_only_loss": not job.trains_all,
        "per_device_train_batch_size": PACKS if packs or job.name == "wide" else BATCH,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "train_sampling_strategy": "sequential",
        **job.trainer,
    }
    value = {"model": str(job.model), "data": str(job.data / f"{job.name}.jsonl"), "args": args}
    (job.folder / "trl_job.py").write_text(TRL, encoding="utf-8")
    return [str(python), str(job.folder / "trl_job.py"), json.dumps(value)]


@dataclass
class Side:
    command: Callable[[Job], list[str]]
    figures: list[dict[str, Any]] = field(default_factory=list)


def run(side: str, command: list[str], folder: Path) -> dict[str, Any]:
    out = folder / "figures.json"
    out.unlink(missing_ok=True)
    before = os.environ.get("PYTHONPATH")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SITE), *([before] if before else [])]),
        "BENCH_SFT_OUT": str(out),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
    }
    with (folder / "log").open("wb") as log:
        code = subprocess.run(command, env=env, stdout=log, stderr=subprocess.STDOUT).returncode
    if code or not out.exists():
        sys.exit(f"error: {side} ended with {code}; see {folder / 'log'}")
    figures: dict[str, Any] = json.loads(out.read_text())
    print(f"{side}: {figures}", file=sys.stderr, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llamafactory", type=Path, help="environment with LLaMA-Factory")
    parser.add_argument("--trl", type=Path, help="environment with TRL")
    parser.add_argument("--size", choices=("cut2", "whole", "wide"), default="cut2")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps [default: one epoch]")
    parser.add_argument("--train", choices=("answers", "all"), default="answers", help="which tokens")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sides", help="only these, with semicolons between")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_data(FOLDER)
    model = FOLDER / f"model-{args.size}"
    if not (model / "config.json").exists():
        make_model(args.size, model)
    sides = {
        "ours, padded": Side(lambda job: ours(job, packs=False)),
        "ours, packed": Side(lambda job: ours(job, packs=True)),
    }
    if args.llamafactory:
        python = args.llamafactory / "bin" / "python"
        sides["LLaMA-Factory, padded"] = Side(lambda job: llamafactory(job, packs=False, python=python))
        sides["LLaMA-Factory, neat_packing"] = Side(lambda job: llamafactory(job, packs=True, python=python))
    if args.trl:
        trl_python = args.trl / "bin" / "python"
        sides["TRL, padded"] = Side(lambda job: trl(job, packs=False, python=trl_python))
        sides["TRL, packing"] = Side(lambda job: trl(job, packs=True, python=trl_python))
    if args.size == "wide":
        sides = {name: side for name, side in sides.items() if name.endswith("padded")}
    if args.sides:
        sides = {name: sides[name] for name in args.sides.split(";")}
    name = "wide" if args.size == "wide" else "train"
    for _ in range(args.repeats):
        for side, one in sides.items():
            folder = FOLDER / side.replace(", ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            job = Job(model.resolve(), FOLDER.resolve(), name, folder.resolve(), args.steps, args.train == "all")
            one.figures.append(run(side, one.command(job), folder))
    _print(sides)


def _print(sides: dict[str, Side]) -> None:
    best = next(iter(sides.values()))
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians; ratios to {next(iter(sides))}")
    print("| side | CPU s | ratio | peak, MB | ratio | mean loss | first losses | last loss |")
    print("|---|---|---|---|---|---|---|---|")
    cpu, peak = (statistics.median(f[key] for f in best.figures) for key in ("cpu_s", "peak_bytes"))
    for name, side in sides.items():
        own_cpu, own_peak = (statistics.median(f[key] for f in side.figures) for key in ("cpu_s", "peak_bytes"))
        losses = side.figures[-1]["losses"]
        print(
            f"| {name} | {own_cpu:.1f} | {own_cpu / cpu:.2f} | {own_peak / 1e6:,.0f} | {own_peak / peak:.2f} |"
            f" {statistics.fmean(losses):.4f} | {', '.join(f'{loss:.4f}' for loss in losses[:3])} | {losses[-1]:.4f} |"
        )


if __name__ == "__main__":
    main()
