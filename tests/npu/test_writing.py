"""Texts that virtual cards write are the same on one card and on two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import REPO, Machine

TINY = REPO / "recipes" / "tiny"

pytestmark = pytest.mark.slow


MAKE = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
config = LlamaConfig(vocab_size=512, max_position_embeddings=128, initializer_range=0.5, **sizes)
AutoModelForCausalLM.from_config(config).save_pretrained({folder!r})
AutoTokenizer.from_pretrained({tiny!r}).save_pretrained({folder!r})
"""


@pytest.fixture
def model(machine: Machine, tmp_path: Path) -> Path:
    """Random weights, whose texts differ by their prompts. Made on the machine, since transformers imports torch_npu."""
    made = machine.python(MAKE.format(folder=str(tmp_path / "model"), tiny=str(TINY)))
    assert made.code == 0, made.text
    return tmp_path / "model"


def test_texts_do_not_depend_on_cards(machine: Machine, model: Path, tmp_path: Path) -> None:
    """Drawn, from prompts of several lengths that are padded to a multiple of 16."""
    rows = (TINY / "test.jsonl").read_text().splitlines()[:19]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    how = ("--chat-template", "plain", "--max-new-tokens", "6", "--temperature", "0.8", "--batch-size", "2")
    texts = []
    for nproc in ("1", "2"):
        out = tmp_path / f"{nproc}.jsonl"
        ran = machine.launch(
            *("predict", "--device", "npu", "--nproc", nproc, "--model", model),
            *("--input", tmp_path / "rows.jsonl", "--output", out, *how),
        )
        assert ran.code == 0, ran.text[-4000:]
        texts.append([json.loads(line)["text"] for line in out.read_text().splitlines()])

    assert 19 == len(texts[0])
    assert len(set(texts[0])) > 10
    assert texts[0] == texts[1]
