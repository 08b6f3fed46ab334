"""A GGUF file under ZeRO-3: dequantised once a node, then loaded in shards."""

from __future__ import annotations

import json

import numpy as np
import pytest

from .conftest import REPO

pytestmark = pytest.mark.ranks

gguf = pytest.importorskip("gguf", reason="the gguf extra is not installed")


def write_gguf(path):
    """recipes/tiny's config and tokenizer with random weights, half of them quantized to 8 bits."""
    config = json.loads((REPO / "recipes/tiny/config.json").read_text())
    tokenizer = json.loads((REPO / "recipes/tiny/tokenizer.json").read_text())
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    narrow = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(hidden)
    out.add_block_count(layers)
    out.add_feed_forward_length(inner)
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_theta"])
    out.add_vocab_size(config["vocab_size"])
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    out.add_tokenizer_model("gpt2")
    out.add_token_list(vocab)
    out.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    out.add_bos_token_id(config["bos_token_id"])
    out.add_eos_token_id(config["eos_token_id"])
    random = np.random.default_rng(0)

    def add(name, *shape):
        value = (
            (random.standard_normal(shape) * 0.05).astype(np.float32) if len(shape) > 1 else np.ones(shape, np.float32)
        )
        if len(shape) > 1 and shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            out.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            out.add_tensor(name, value)

    add("token_embd.weight", len(vocab), hidden)
    add("output_norm.weight", hidden)
    add("output.weight", len(vocab), hidden)
    for i in range(layers):
        add(f"blk.{i}.attn_norm.weight", hidden)
        add(f"blk.{i}.ffn_norm.weight", hidden)
        for name, rows, width in [
            ("attn_q", hidden, hidden),
            ("attn_k", narrow, hidden),
            ("attn_v", narrow, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden),
            ("ffn_down", hidden, inner),
        ]:
            add(f"blk.{i}.{name}.weight", rows, width)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.mark.slow
def test_a_gguf_model_trains_in_shards(job, tmp_path):
    """No rank holds it whole, and the losses are those of DDP on the same file."""
    write_gguf(tmp_path / "tiny.gguf")
    words = (
        f"model.name={tmp_path}",
        "model.gguf_file=tiny.gguf",
        "model.tokenizer=recipes/tiny",
        "data.train.limit=48",
        "training.num_train_epochs=1",
        "training.logging_steps=1",
    )
    sharded, whole = job(2, *words, "parallel.strategy=zero3"), job(2, *words, "parallel.strategy=ddp")

    assert 0 == sharded.code, sharded.out + sharded.err
    (engine,) = sharded.events("engine")
    assert engine["local_parameters"] < 0.6 * engine["parameters"]
    assert pytest.approx(whole.losses, rel=1e-3) == sharded.losses
    assert 4 == len(sharded.losses)
