"""How a model is placed, asked of accelerate itself."""

from __future__ import annotations

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from transformers import BartConfig, BartForCausalLM

from launcher.worker.engines import fsdp2


def _plugin() -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
    )


def test_fsdp2_shards_by_the_layers_that_a_model_has():
    """The family of Bart has encoders, its causal LM has none; accelerate alone refuses it."""
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "decoder_attention_heads": 2, "vocab_size": 50}
    with torch.device("meta"):
        model = BartForCausalLM(BartConfig(**size, decoder_ffn_dim=16))
    with pytest.raises(ValueError, match="BartEncoderLayer"):
        fsdp2_prepare_auto_wrap_policy(_plugin(), model)
    plugin = _plugin()

    fsdp2.shard_layers_that_exist(plugin, model)

    is_sharded = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert is_sharded is not None
    assert ["BartDecoderLayer"] * 2 == [type(m).__name__ for m in model.modules() if is_sharded(m)]


def test_without_fsdp_there_is_nothing_to_shard():
    fsdp2.shard_layers_that_exist(None, torch.nn.Linear(2, 2))
