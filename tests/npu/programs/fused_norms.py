"""Kernels compute on a card what the layers that they replace compute, forward and backward."""

import torch
import torch_npu  # noqa: F401
from transformers import LlamaConfig, LlamaForCausalLM

from launcher.worker.kernels.npu_rms_norm import NPU_RMS_NORM

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""bf16: one unit in the last place, since the operator rounds once and the formula before and after the weight."""


def llama(dtype):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).to(dtype).npu()


def compare(dtype):
    plain, fused = llama(dtype), llama(dtype)
    places = NPU_RMS_NORM.places(fused)
    assert 5 == len(places), places
    for norm in places:
        NPU_RMS_NORM.apply(norm)
    x = torch.linspace(-2, 2, 3 * 16, dtype=dtype).reshape(1, 3, 16).npu().requires_grad_()
    out = fused.model.norm(x)
    assert "RmsNorm" in type(out.grad_fn).__name__, out.grad_fn
    torch.testing.assert_close(out, plain.model.norm(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    if dtype is torch.float32:  # in bf16 five layers of rounding lie between them
        tokens = torch.arange(12).reshape(2, 6).npu()
        losses = [model(input_ids=tokens, labels=tokens).loss for model in (plain, fused)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        for loss in losses:
            loss.backward()
        for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
            torch.testing.assert_close(
                b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


for dtype in TOLERANCE:
    compare(dtype)
print("kernels agree")
