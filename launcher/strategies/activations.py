"""Activations of one rank: what blocks keep for the backward pass, and what comes and goes inside one."""

from __future__ import annotations

from launcher.strategies.job import Job


def stream(job: Job) -> int:
    """Bytes of an element of the residual stream."""
    return 2 if job.mode == "bf16" or (job.lora and job.low == 2) else 4


def _norm_bytes(job: Job) -> int:
    """Saved per token by one RMSNorm and the products that read it, without the residual."""
    h = job.g.hidden
    if job.lora and job.low == 2:
        return 4 * h + 4  # the input alone, in fp32: a frozen weight needs nothing
    return {"fp32": 12, "bf16": 8, "autocast": 8}[job.mode] * h + 4


def layer_bytes(job: Job) -> int:
    """What one block keeps for its backward pass, for all tokens of a micro batch."""
    g, low = job.g, job.low
    q, kv = g.num_heads * g.head_dim, g.num_kv_heads * g.head_dim
    if job.is_padded and job.attention != "flash_attention_2":
        kv = q  # transformers repeats grouped heads where there is a mask (integrations/sdpa_attention.py)
    token = 2 * _norm_bytes(job) + low * (2 * q + 2 * kv) + low * 4 * g.intermediate
    if job.mode == "autocast":
        token += 5 * low * g.hidden  # q, k, v, gate and up each keep their own 16-bit copy of their input
    if job.lora and job.low == 2:
        token += low * (q + 7 * job.lora.r)  # o_proj's adapter copies its input too; every adapter keeps its middle
    if job.attention == "eager":
        # scores, softmax in fp32, and its 16-bit copy
        scores = g.num_heads * job.seq * (4 if job.low == 4 else 6)
        return job.tokens * (token + scores)
    return job.tokens * (token + 4 * g.num_heads) + (_mask_bytes(job) if job.is_padded else 0)


def _mask_bytes(job: Job) -> int:
    """The additive mask that scaled_dot_product_attention makes of a boolean one, in each block."""
    return job.batch * job.seq * job.seq * job.low if job.attention == "sdpa" and not job.on_card else 0


def last_norm_bytes(job: Job) -> int:
    extra = 2 * job.g.hidden if job.mode == "autocast" else 0  # the head's 16-bit copy of its input
    return job.tokens * (_norm_bytes(job) + extra)


def shared_mask_bytes(job: Job) -> int:
    return job.batch * job.seq * job.seq if job.is_padded and job.attention != "flash_attention_2" else 0


def block_bytes(job: Job) -> int:
    """What a block leaves behind in the forward pass: everything, or under checkpointing its input alone."""
    if job.is_checkpointed:
        return job.tokens * stream(job) * job.g.hidden
    return layer_bytes(job) + block_copies(job)


def activations(job: Job) -> int:
    """Kept at the end of the forward pass."""
    return job.g.num_layers * block_bytes(job) + last_norm_bytes(job) + shared_mask_bytes(job)


def logits(job: Job) -> int:
    """Logits of a causal-LM head, their fp32 copy, the log-softmax, and in the backward pass their gradients."""
    if job.has_head:
        return 0
    return job.batch * job.logit_positions * job.g.vocab * 12


def block_copies(job: Job) -> int:
    return 2 * job.linear_elements // job.g.num_layers if job.mode == "autocast" and not job.lora else 0


def adapter_transient(job: Job) -> int:
    """What a LoRA adapter's fp32 input and output add for a moment in the forward pass, measured."""
    return job.tokens * 9 * job.g.intermediate if job.lora and job.low == 2 else 0


def norm_transient(job: Job) -> int:
    """Gradients inside the last RMSNorm, in fp32, measured."""
    return job.tokens * job.g.hidden * {"fp32": 20, "bf16": 16, "autocast": 14}[job.mode]


def block_transient(job: Job) -> int:
    """Gradients inside the MLP of a block: of the product, of its two factors, and of the residual stream."""
    if job.lora and job.low == 2:
        return job.tokens * (9 * job.g.intermediate + 2 * job.g.hidden * stream(job))
    return job.tokens * (2 * job.low * job.g.intermediate + 2 * job.g.hidden * stream(job))
