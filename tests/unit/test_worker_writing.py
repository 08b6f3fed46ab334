"""Texts of a small random model on one rank: which rows are together, where they end, and what depends on what."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from launcher.recipe.schema import Data, Generation, Model, RecipeSpec
from launcher.rundir.chunks import REFUSED
from launcher.worker.generation.sampling import drawn
from launcher.worker.training import write
from launcher.worker.training.write import Writer

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
POSITIONS = 64


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=512, max_position_embeddings=POSITIONS, initializer_range=0.5, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def writer(model: Any):
    """A writer of rows; options of generation."""

    def make(**settings: Any) -> Writer:
        data = Data(chat_template="plain")  # type: ignore[call-arg]
        recipe = RecipeSpec(model=Model(name="m", task="sft"), data=data, generation=Generation(**settings))
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        tokenizer.pad_token = tokenizer.eos_token
        plan: Any = SimpleNamespace(
            recipe=recipe,
            batch=SimpleNamespace(eval_size=2),
            accelerator=SimpleNamespace(pads_to=1),
            computes_in_weights=True,
            precision="fp32",
        )
        return Writer(plan, tokenizer, model, torch.device("cpu"))

    return make


def row(line: int, text: str) -> dict[str, Any]:
    return {"line": line, "conversation": json.dumps({"text": text})}


ROWS = [row(i, "soup and bread " * (1 + i % 3)) for i in range(3)]


def test_a_row_draws_by_its_line_and_the_seed_alone(writer):
    """Whatever stands beside it; another line with the same words draws otherwise."""
    made = writer(do_sample=True, seed=7, max_new_tokens=4)

    together = made(ROWS)

    assert together == [made([one])[0] for one in ROWS]
    assert together[0] != made([row(9, "soup and bread ")])[0]
    assert together != writer(do_sample=True, seed=8, max_new_tokens=4)(ROWS)


def test_a_text_ends_with_the_models_positions_and_no_neighbours_does(writer):
    """The long prompt has room for fewer tokens than are asked for, and is written alone; a longer one has none."""
    made = writer(max_new_tokens=20)
    long, full = row(1, "soup " * 50), row(2, "soup " * 100)
    prompts = [len(made._encode.ids([one])[0]) for one in (long, full)]
    assert prompts[0] < POSITIONS < prompts[0] + 20 < prompts[1]

    answers = made([ROWS[0], long, full, ROWS[1]])

    assert made(ROWS[:2]) == [answers[0], answers[3]]
    assert write.LENGTH == answers[1]["finish_reason"]
    assert f"the prompt has {prompts[1]} tokens, and the model takes {POSITIONS} with its answer" == answers[2][REFUSED]


def test_thoughts_are_apart_from_what_is_said(writer, monkeypatch):
    made = writer()
    monkeypatch.setattr(made._generator, "text", lambda tokens: "<think>\nHm.\n</think>\n\nSo.")
    monkeypatch.setattr(made._generator, "answer", lambda tokens: "So.")

    assert {"text": "So.", "reasoning": "Hm.", "finish_reason": write.STOP} == made._answer([1, 2], 5)


def test_the_token_is_where_the_cumulated_shares_exceed_the_number():
    """A number that is rounded up to 1 draws the last token that has a share, and none draws one without."""
    shares = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]] * 5)
    assert [1, 1, 3, 3, 3] == drawn(shares, torch.tensor([0.0, 0.2, 0.25, 0.9, 1.0])).tolist()


def test_draws_have_the_shares_of_the_tokens():
    shares = torch.tensor([[0.1, 0.2, 0.7]]).expand(20_000, 3)
    numbers = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn(shares, numbers), minlength=3) / 20_000
    assert torch.allclose(torch.tensor([0.1, 0.2, 0.7]), counts, atol=0.02)
