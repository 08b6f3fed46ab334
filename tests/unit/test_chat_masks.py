"""Which tokens of a conversation are trained: as written down in fixtures/masks, row by row and template by template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support import masks

REPO = Path(__file__).resolve().parents[2]
WRITTEN = masks.read("written")


def tiny(template: str | None, *, bos: str | None = None, eos: str | None = None, others: tuple[str, ...] = ()) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(REPO / "recipes" / "tiny")
    special = [token for token in (bos, eos, *others) if token is not None]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: tiny(one["template"], **one["tokens"]) for name, one in WRITTEN.items()}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, one in WRITTEN.items() for row in one["expected"]])
def test_what_is_trained_is_what_the_model_would_write(tokenizers: dict[str, Any], name: str, row: str):
    one = WRITTEN[name]
    data = {"max_length": one["cut_at"]} if row == masks.CUT else {}

    assert one["expected"][row] == masks.masked(tokenizers[name], masks.ROWS[row], **data)
