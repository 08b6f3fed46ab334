"""A tiny Llama on npu:0 against the same on the CPU: loss, gradients and three optimizer steps."""

import copy
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

STEPS = 3


def make(kind, attention, dtype):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=5,
        attn_implementation=attention,
    )
    return kind(config).to(dtype)


def batch(kind):
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 97, (3, 16), generator=g)
    mask = torch.ones_like(ids)
    ids[0, :5], mask[0, :5] = 0, 0
    labels = (
        torch.randint(0, 5, (3,), generator=g)
        if kind is LlamaForSequenceClassification
        else ids.masked_fill(mask == 0, -100)
    )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def optimizer_of(name, parameters):
    if name == "npu_fused":
        import torch_npu

        on_npu = next(iter(parameters)).device.type == "npu"
        return (torch_npu.optim.NpuFusedAdamW if on_npu else torch.optim.AdamW)(parameters, lr=1e-2, weight_decay=0.1)
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, foreach=name == "foreach", fused=name == "fused")


def train(model, inputs, device, optimizer, autocast):
    model = copy.deepcopy(model).to(device)
    inputs = {k: v.to(device) for k, v in inputs.items()}
    opt = optimizer_of(optimizer, list(model.parameters()))
    seen = []
    # Autocast keeps other operators in 32 bits on an NPU than on a CPU, and Adam turns a small gradient's sign into
    # a whole step, so there only the first loss and its gradients compare.
    for _ in range(1 if autocast else STEPS):
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = model(**inputs).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        seen += [("loss", loss.detach()), ("norm", norm)]
        seen += [(f"grad {n}", p.grad.clone()) for n, p in model.named_parameters()]
        if autocast:
            break
        opt.step()
        opt.zero_grad()
        seen += [(f"weight {n}", p.detach().clone()) for n, p in model.named_parameters()]
    return [(name, value.cpu().float()) for name, value in seen]


def worst(expected, got):
    """The largest difference, as a share of the largest value of its tensor or of one."""
    found = (0.0, "")
    for (name, a), (_, b) in zip(expected, got, strict=True):
        assert torch.isfinite(b).all(), name
        scale = max(1.0, a.abs().max().item())
        found = max(found, ((a - b).abs().max().item() / scale, name))
    return found


def main():
    failures = 0
    cases = [
        (kind, attention, dtype, optimizer, autocast)
        for kind in (LlamaForCausalLM, LlamaForSequenceClassification)
        for attention in ("sdpa", "eager")
        for dtype, optimizer, autocast in (
            (torch.float32, "single", False),
            (torch.float32, "foreach", False),
            (torch.float32, "fused", False),
            (torch.float32, "npu_fused", False),
            (torch.bfloat16, "foreach", False),
            (torch.float32, "foreach", True),
        )
    ]
    for kind, attention, dtype, optimizer, autocast in cases:
        model, inputs = make(kind, attention, dtype), batch(kind)
        difference, where = worst(
            train(model, inputs, "cpu", optimizer, autocast), train(model, inputs, "npu", optimizer, autocast)
        )
        limit = 1e-6 if dtype is torch.float32 and not autocast else 2**-7
        failures += difference > limit
        print(
            f"{'ok  ' if difference <= limit else 'FAIL'} {kind.__name__} {attention} {dtype} {optimizer} autocast={autocast}: {difference:.2e} {where}"
        )
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
