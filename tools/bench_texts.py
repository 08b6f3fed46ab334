"""What tools/bench_job.py and tools/bench_eval.py run on: reviews of natural length, and models of several sizes.

A review is real sentences of the demo's data (tools/demo_assets.py) of one class, with some of its neighbours, put
together until it is as long as was drawn. Lengths follow what was measured on reviews: in tokens mean 150, half of them
below 111, a tenth above 323, 3 % over 512. Train and test share no sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

REPO = Path(__file__).resolve().parent.parent
DEMO = REPO / ".cache" / "demo"
FOLDER = REPO / ".cache" / "bench"

NUM_LABELS = 5
MEDIAN_TOKENS, P90_TOKENS, MAX_TOKENS = 111, 323, 1200
Z90 = 1.2816
TOKENS_PER_CHARACTER = 0.226
"""SmolLM2's tokenizer on these sentences; checked by `describe`."""
NOISE = 0.3
"""Share of a review's sentences that come from a class beside its own."""
BLOCK = 20_000


def sentences(split: str) -> list[list[str]]:
    """The demo's sentences of each class."""
    path = DEMO / f"{split}.jsonl"
    if not path.exists():
        raise SystemExit(f"error: {path} is not there\n  fix: python tools/demo_assets.py")
    found: list[list[str]] = [[] for _ in range(NUM_LABELS)]
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["label"]].append(row["text"])
    return found


def reviews(split: str, num_rows: int, *, seed: int, tokens: int | None = None) -> tuple[list[str], list[int]]:
    """Texts and labels; every text at least `tokens` long instead of a natural length, where that is given."""
    rng = np.random.default_rng([seed, len(split)])
    pools = sentences(split)
    labels = rng.integers(NUM_LABELS, size=num_rows)
    if tokens is None:
        sigma = np.log(P90_TOKENS / MEDIAN_TOKENS) / Z90
        lengths = np.minimum(np.exp(rng.normal(np.log(MEDIAN_TOKENS), sigma, num_rows)), MAX_TOKENS)
    else:
        lengths = np.full(num_rows, 1.4 * tokens)
    texts = []
    for label, length in zip(labels.tolist(), (lengths / TOKENS_PER_CHARACTER).tolist(), strict=True):
        parts, size = [], 0.0
        draws = rng.random((64, 2)).tolist()
        while size < length:
            if not draws:
                draws = rng.random((64, 2)).tolist()
            which, sentence = draws.pop()
            beside = label + (1 if which < NOISE / 2 else -1) if which < NOISE else label
            pool = pools[min(max(beside, 0), NUM_LABELS - 1)]
            part = pool[int(sentence * len(pool))]
            parts.append(part)
            size += len(part) + 1
        text = " ".join(parts)
        texts.append(text if tokens is not None else text[: max(int(length), 8)])
    return texts, labels.tolist()


def write(path: Path, split: str, num_rows: int, *, seed: int = 0, tokens: int | None = None) -> Path:
    """One parquet file of {text, label}, unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        schema = pa.schema({"text": pa.string(), "label": pa.int64()})
        with parquet.ParquetWriter(partial, schema) as out:
            for start in range(0, num_rows, BLOCK):
                texts, labels = reviews(split, min(BLOCK, num_rows - start), seed=seed + start, tokens=tokens)
                out.write_table(pa.table({"text": texts, "label": labels}, schema=schema))
        partial.replace(path)
    return path


def data(kind: str, num_train: int, num_test: int) -> dict[str, str]:
    """`data_files` of {train, test}. kind: natural lengths, or `equal`: every row longer than 512 tokens."""
    tokens = 512 if kind == "equal" else None
    sizes = {"train": num_train, "test": num_test}
    return {s: str(write(FOLDER / f"{kind}-{s}-{n}.parquet", s, n, tokens=tokens)) for s, n in sizes.items()}


def model(kind: str) -> Path:
    """A folder with config, weights and tokenizer.

    kind: `full` is the demo's SmolLM2-135M; `cut4` its first four layers, weights and all; `toy` a random Llama of
    hidden size 64 with the same vocabulary; `vocab128k` a random one with Llama 3's number of tokens.
    """
    if kind == "full":
        return DEMO / "model"
    folder = FOLDER / f"model-{kind}"
    if (folder / "tokenizer_config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if kind.startswith("cut"):
        net = AutoModelForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32)
        net.model.layers = net.model.layers[: int(kind.removeprefix("cut"))]
        net.config.num_hidden_layers = len(net.model.layers)
    else:
        torch.manual_seed(0)
        net = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128_256 if kind == "vocab128k" else 49_152,
                hidden_size=64,
                intermediate_size=172,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                bos_token_id=1,
                eos_token_id=2,
                tie_word_embeddings=False,
                max_position_embeddings=2048,
            )
        )
    net.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO / "model").save_pretrained(folder)
    return folder


def describe(rows: Sequence[int] = (16, 64, 96, 1800, 6000)) -> Iterator[str]:
    """Lengths in tokens of SmolLM2, to set beside what the module's docstring says, and how far batches of 8 of like length
    come with that many rows."""
    from transformers import AutoTokenizer

    from launcher.worker.batching.batches import global_batches

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    for num_rows in rows:
        texts, _ = reviews("train", num_rows, seed=0)
        size = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
        cut = np.minimum(size, 512)
        batches = global_batches(cut, global_size=8, seed=42, epoch=0, order="group_by_length")
        grouped = sum(len(batch) * cut[batch].max() for batch in batches)
        yield (
            f"{num_rows} reviews: mean {size.mean():.0f} tokens, median {np.median(size):.0f}, 90 % below"
            f" {np.quantile(size, 0.9):.0f}, {(size > 512).mean():.1%} over 512; cut at 512 the mean is {cut.mean():.0f};"
            f" padding to 512 makes {512 / cut.mean():.2f} times that, and {512 * num_rows / grouped:.2f} times what batches of"
            " 8 grouped by length are padded to"
        )


if __name__ == "__main__":
    print(*describe(), sep="\n")
