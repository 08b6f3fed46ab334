"""The mistakes of the well-known fine-tuning guide, each done right or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.accelerators import detect
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes
from launcher.models.config import model_config
from launcher.planning import decide, plan
from launcher.recipe import load

pytestmark = pytest.mark.ranks
TINY = Path(__file__).resolve().parent.parent.parent / "recipes/tiny-cpu.yaml"


def test_class_labels_get_a_classification_head(job: Callable[..., Any]):
    """The guide loads a causal-LM head for five classes; the head here has one output a class."""
    config = json.loads((job(2).dir / "model/config.json").read_text())

    assert ["LlamaForSequenceClassification"] == config["architectures"]
    assert 5 == len(config["id2label"])


def test_the_model_knows_the_pad_token(job: Callable[..., Any]):
    """Llama names none, and a batch of two then fails; it is set on the tokenizer and on the model's config."""
    folder = job(2).dir / "model"

    assert isinstance(json.loads((folder / "config.json").read_text())["pad_token_id"], int)
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"]


def test_rows_are_cut_to_max_length(job: Callable[..., Any]):
    """The guide pads to a max_length that it never gives; here rows are cut to it, and padded to their batch alone."""
    data = json.loads((job(2, "data.max_length=16").dir / "data.json").read_text())

    assert 16 == data["train"]["max_tokens"]
    assert 0 < data["train"]["rows_at_max_length"] <= data["train"]["rows"]


def test_device_map_does_not_go_with_ranks(tmp_path: Path):
    """It spreads one process over the cards that other ranks own, so a recipe has no such key."""
    path = tmp_path / "mine.yaml"
    path.write_text("extends: base.yaml\nmodel: {device_map: auto}\n")
    (tmp_path / "base.yaml").write_text(TINY.read_text())
    with pytest.raises(LaunchError, match=r"mine\.yaml:2: model\.device_map: unknown key"):
        load.load(path, (), {})


def test_full_adamw_of_8b_on_one_card_is_refused_before_loading():
    """118 GiB do not fit a card of 64; what would is said."""
    name = "meta-llama/Meta-Llama-3-8B-Instruct"
    words = [f"model.name={name}", "parallel.strategy=ddp", "parallel.precision=bf16"]
    loaded = load.load(TINY, words, {})
    with pytest.raises(LaunchError) as caught:
        decide.make(loaded, detect.assumed(1, Nodes()), plan.Options(), model_config(name, env={}))

    assert "the job does not fit" in caught.value.what
    assert "zero3-offload" in caught.value.hint
