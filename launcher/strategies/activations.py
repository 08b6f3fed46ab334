"""Activations of one rank: what blocks keep for the backward pass, and what comes and goes inside one."""

from __future__ import annotations

from launcher.models.chunks import chunk_rows
from launcher.strategies.job import Job


def stream(job: Job) -> int:
    """Bytes of an element of the residual stream."""
    return 2 if job.mode == "bf16" or (job.lora and job.low == 2) else 4


def _norm_bytes(job: Job) -> int:
    """Saved per token by one RMSNorm and the products that read it, without the residual."""
    h = job.g.hidden
    if job.lora and job.low == 2:
        return 4 * h + 4  # the input alone, in fp32: a frozen weight needs nothing
    low = 10 if job.g.traits.norms_in_fp32 else 8
    return {"fp32": 12, "bf16": low, "autocast": 8}[job.mode] * h + 4


def _inner_norm_bytes(job: Job) -> int:
    """Saved for an element by an RMSNorm whose output no product reads."""
    return 8 if job.mode == "fp32" or job.g.traits.norms_in_fp32 else 6


def _more_norms_bytes(job: Job) -> int:
    """Saved per token by norms beyond those before attention and MLP: of outputs, and of each head's queries and keys."""
    g, inner = job.g, _inner_norm_bytes(job)
    heads = g.num_heads + g.num_kv_heads if g.traits.has_head_norms else 0
    return g.traits.output_norms * (inner * g.hidden + 4) + heads * (inner * g.head_dim + 4)


def _mlp_bytes(job: Job) -> int:
    """Saved per token by a gated MLP; autocast makes each of its two first products a 16-bit copy of its input."""
    g, low, experts = job.g, job.low, job.g.traits.experts
    copies = 2 * low * g.hidden if job.mode == "autocast" else 0
    if experts is None:
        return low * 4 * g.intermediate + copies
    wide = 2 if job.mode == "bf16" else 4  # autocast leaves the product of grouped experts in fp32
    chosen = experts.active * (wide * (4 * experts.width + 2 * g.hidden) + 36)
    router = 4 * experts.count + copies // 2
    shared = low * 4 * experts.shared + copies if experts.shared else 0
    return chosen + router + shared


def layer_bytes(job: Job) -> int:
    """What one block keeps for its backward pass, for all tokens of a micro batch."""
    return _encoder_bytes(job) if job.g.traits.plan == "encoder" else _gated_bytes(job)


def _encoder_bytes(job: Job) -> int:
    """A block after BERT, measured by what autograd saves. Dropout within attention has no fused kernel on CPU: scores,
    softmax and what dropout leaves of it are kept in fp32 whatever the precision is."""
    g = job.g
    token = {"fp32": 40, "bf16": 26, "autocast": 34}[job.mode] * g.hidden + 2 * job.low * g.intermediate
    token += 8 if job.mode == "bf16" else 16
    is_fused = job.on_card and job.attention != "eager"
    token += g.num_heads * (4 + job.seq // 8 if is_fused else 12 * job.seq)
    return job.tokens * token


def _gated_bytes(job: Job) -> int:
    g, low = job.g, job.low
    q, kv = g.num_heads * g.head_dim, g.num_kv_heads * g.head_dim
    if job.is_padded and job.attention != "flash_attention_2":
        kv = q  # transformers repeats grouped heads where there is a mask (integrations/sdpa_attention.py)
    token = 2 * _norm_bytes(job) + low * (2 * q + 2 * kv) + _mlp_bytes(job)
    token += _more_norms_bytes(job)
    if job.mode == "autocast":
        token += 3 * low * g.hidden  # q, k and v each keep their own 16-bit copy of their input
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
    if (
        job.g.traits.plan == "encoder"
    ):  # the embeddings' norm and dropout, and the pooler, which reads one token of a row
        return (job.tokens + job.batch) * (job.g.hidden * {"fp32": 12, "bf16": 6, "autocast": 8}[job.mode] + 16)
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
    if job.in_chunks:
        return _chunk_bytes(job)
    return job.batch * job.logit_positions * job.g.vocab * 12


def logit_gradients(job: Job) -> int:
    """Gradients of logits, when the backward pass comes to the head; or those of its input and weight, made before."""
    if job.has_head:
        return 0
    if not job.in_chunks:
        return job.low * job.batch * job.logit_positions * job.g.vocab
    held = _head_gradient(job)
    in_type = 4 if job.mode != "bf16" else 2
    copy = job.g.vocab * job.g.hidden * in_type if held and held != job.g.vocab * job.g.hidden * in_type else 0
    return held + copy + job.tokens * job.g.hidden * job.low


def _chunk_bytes(job: Job) -> int:
    """One chunk's logits in fp32 and 16 bit, which become their gradient in place; the gradients of the head's input and
    weight that are made of it; and the hidden states that were taken out. Under autocast the weight's 16-bit copy."""
    rows = min(job.tokens, chunk_rows(job.g.vocab))
    chunk, weight = rows * job.g.vocab, job.g.vocab * job.g.hidden
    held, is_one = _head_gradient(job), rows == job.tokens
    if job.low == 4:
        high = 4 * chunk + held
    elif is_one:
        high = max(6 * chunk, 2 * chunk + held)
    else:
        high = held + max(6 * chunk, 2 * chunk + (2 * weight if held else 0))
    copy = 2 * weight if job.mode == "autocast" and not job.lora else 0
    return high + copy + job.tokens * job.g.hidden * (stream(job) + job.low)


def _head_gradient(job: Job) -> int:
    """The gradient of the head's weight between the passes: over several chunks it is summed in fp32."""
    if job.lora:
        return 0
    is_one = job.tokens <= chunk_rows(job.g.vocab)
    return job.g.vocab * job.g.hidden * (job.low if is_one else 4)


def block_copies(job: Job) -> int:
    return 2 * job.linear_elements // job.g.num_layers if job.mode == "autocast" and not job.lora else 0


def cached_copies(job: Job) -> int:
    """Weights in 16 bit that autocast keeps to the end of the model's forward pass, where no block keeps them longer. Logits in
    chunks, and their loss, are made within it."""
    return job.g.num_layers * block_copies(job) if job.is_checkpointed and job.in_chunks else 0


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
