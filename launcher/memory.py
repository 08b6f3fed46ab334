"""Will it fit? Bytes per rank for a model, a strategy and a batch. Arithmetic only: nothing here looks at a machine.

Model states follow the ZeRO paper (Rajbhandari et al. 2020, arXiv 1910.02054, table 1): in mixed precision with Adam a
parameter costs 2 bytes of weight, 2 of gradient and 12 of optimizer (fp32 master copy and two moments), and stage 1
divides the 12, stage 2 also the gradients, stage 3 also the weights, by the number of ranks. What DeepSpeed, DDP and
FSDP2 keep beside that (buckets, gathered parameters, fp32 copies of gradients during the step) was read in their source
and measured: tools/measure_memory.py compares every term with torch's own allocation record, docs/memory.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from launcher.cluster.model import GIB, MIB, Chip
from launcher.errors import LaunchError

Strategy = Literal["ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2"]
STRATEGIES: tuple[str, ...] = ("ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2")
_STAGE = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3-offload": 3}

ZERO_BUCKET_ELEMENTS = {"npu": 200_000_000, "cpu": 20_000_000}
"""reduce_bucket_size of stages 1 and 2, in elements, not bytes. DeepSpeed's own examples use 2e8 for cards; CPU ranks
share one machine's memory, and the buffer is allocated whole on each."""
ZERO3_MAX_LIVE_ELEMENTS = 1_000_000_000
"""stage3_max_live_parameters and stage3_max_reuse_distance: gathered parameters nearer than this to their next use stay."""
ZERO3_SUB_GROUP_ELEMENTS = 1_000_000_000
HCCL_BUFFSIZE_MIB = 200
"""HCCL_BUFFSIZE's default; every communicator takes twice as much (HCCL documentation)."""
FRAMEWORK_BYTES = 1 * GIB
"""Kernels, streams, workspaces and the context of a process on a card, which torch's allocator does not count."""
FRAGMENTATION = 0.04
"""Share of torch's own memory that is lost between blocks, with expandable segments."""
_CARD_LOSS_BYTES = {64: int(3.5 * GIB), 32: 4 * GIB}
"""What a process cannot have of a nominal card: "64 GB" shows 60.96 to 61.27 GiB, "32 GB" 28.5 to 29 (public reports)."""


# --- geometry ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    name: str
    shape: tuple[int, ...]
    kind: Literal["embedding", "linear", "norm", "bias", "head"]
    layer: int | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Geometry:
    """What of a model's config decides memory."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    parameters: tuple[Parameter, ...]

    @property
    def num_parameters(self) -> int:
        return sum(p.numel for p in self.parameters)

    @property
    def layer_parameters(self) -> int:
        """Of one transformer block."""
        return sum(p.numel for p in self.parameters if p.layer == 0)

    @property
    def outer_parameters(self) -> int:
        """Embedding, last norm and head: what is in no block."""
        return sum(p.numel for p in self.parameters if p.layer is None)

    @property
    def largest_parameter(self) -> int:
        return max(p.numel for p in self.parameters)


ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose parameters this file can list."""


def geometry(config: Mapping[str, Any], *, task: str = "sequence-classification", num_labels: int = 2) -> Geometry:
    """The parameters of a Hugging Face config.json with the head of `task`.

    Raises:
        LaunchError: the family is none of ARCHITECTURES, or a number is missing.
    """
    family = str(config.get("model_type", ""))
    if family not in ARCHITECTURES:
        raise LaunchError(
            f"memory of model_type {family or '(none)'!r} cannot be computed",
            hint=f"known are {', '.join(ARCHITECTURES)}; name a strategy and a micro batch in the recipe instead of auto",
        )
    try:
        hidden, intermediate = int(config["hidden_size"]), int(config["intermediate_size"])
        num_layers, num_heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        vocab = int(config["vocab_size"])
        num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
        # Qwen3's config class has its own default; the others divide.
        head_dim = int(config.get("head_dim") or (128 if family == "qwen3" else hidden // num_heads))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LaunchError(
            f"config.json: {error} is missing or no number", hint="use the model's own config.json"
        ) from None
    if min(hidden, intermediate, num_layers, num_heads, num_kv_heads, head_dim, vocab) < 1:
        raise LaunchError("config.json: sizes must be positive", hint="use the model's own config.json")
    return Geometry(
        hidden, intermediate, num_layers, num_heads, num_kv_heads, head_dim, vocab,
        tuple(_parameters(config, family, task, num_labels, head_dim, num_kv_heads)),
    )  # fmt: skip


def _parameters(
    config: Mapping[str, Any], family: str, task: str, num_labels: int, head_dim: int, num_kv_heads: int
) -> Iterable[Parameter]:
    """Names and shapes as in transformers' modeling files, so that they can be compared one by one."""
    h, i, v = int(config["hidden_size"]), int(config["intermediate_size"]), int(config["vocab_size"])
    q, kv = int(config["num_attention_heads"]) * head_dim, num_kv_heads * head_dim
    has_qkv_bias = family == "qwen2" or (bool(config.get("attention_bias", False)) and family != "mistral")
    has_o_bias = family in ("llama", "qwen3") and bool(config.get("attention_bias", False))
    has_mlp_bias = family == "llama" and bool(config.get("mlp_bias", False))
    yield Parameter("model.embed_tokens.weight", (v, h), "embedding")
    for n in range(int(config["num_hidden_layers"])):
        prefix = f"model.layers.{n}"
        linears = (("self_attn.q_proj", q, h, has_qkv_bias), ("self_attn.k_proj", kv, h, has_qkv_bias),
                   ("self_attn.v_proj", kv, h, has_qkv_bias), ("self_attn.o_proj", h, q, has_o_bias),
                   ("mlp.gate_proj", i, h, has_mlp_bias), ("mlp.up_proj", i, h, has_mlp_bias),
                   ("mlp.down_proj", h, i, has_mlp_bias))  # fmt: skip
        for name, rows, columns, has_bias in linears:
            yield Parameter(f"{prefix}.{name}.weight", (rows, columns), "linear", n)
            if has_bias:
                yield Parameter(f"{prefix}.{name}.bias", (rows,), "bias", n)
        if family == "qwen3":
            yield Parameter(f"{prefix}.self_attn.q_norm.weight", (head_dim,), "norm", n)
            yield Parameter(f"{prefix}.self_attn.k_norm.weight", (head_dim,), "norm", n)
        yield Parameter(f"{prefix}.input_layernorm.weight", (h,), "norm", n)
        yield Parameter(f"{prefix}.post_attention_layernorm.weight", (h,), "norm", n)
    yield Parameter("model.norm.weight", (h,), "norm")
    if task == "sequence-classification":
        yield Parameter("score.weight", (num_labels, h), "head")
    elif not config.get("tie_word_embeddings", False):
        yield Parameter("lm_head.weight", (v, h), "head")


@dataclass(frozen=True)
class Lora:
    """PEFT's LoraConfig, as far as it decides memory."""

    r: int = 8
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] = ()

    def targets(self, geometry: Geometry) -> tuple[Parameter, ...]:
        """Linear layers that get an adapter; `all-linear` leaves the head out (peft's documentation)."""
        linear = [p for p in geometry.parameters if p.kind == "linear"]
        if self.target_modules == "all-linear":
            return tuple(linear)
        names = {self.target_modules} if isinstance(self.target_modules, str) else set(self.target_modules)
        found = tuple(p for p in linear if p.name.removesuffix(".weight").rpartition(".")[2] in names)
        if not found:
            raise LaunchError(
                f"adapter.target_modules {sorted(names)} name no layer of this model",
                hint="use all-linear, or q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
            )
        return found

    def trainable(self, geometry: Geometry, task: str) -> tuple[Parameter, ...]:
        """The adapters, and the copies that peft trains whole beside them: of a classifier's head and of modules_to_save."""
        out = []
        for p in self.targets(geometry):
            name = p.name.removesuffix(".weight")
            out.append(Parameter(f"{name}.lora_A", (self.r, p.shape[1]), "linear", p.layer))
            out.append(Parameter(f"{name}.lora_B", (p.shape[0], self.r), "linear", p.layer))
        head = "head" if task == "sequence-classification" else None
        out += [
            replace(p, name=f"{p.name}.copy")
            for p in geometry.parameters
            if p.kind == head or any(f".{name}." in f".{p.name}" for name in self.modules_to_save)
        ]
        return tuple(out)


# --- the estimate --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breakdown:
    """Bytes of one rank at the highest point of a training step."""

    strategy: str
    phase: Literal["forward", "backward", "step"]
    """Where in the step the highest point is."""
    weights: int
    gradients: int
    optimizer: int
    """fp32 master weights, where there are any, and both Adam moments."""
    buffers: int
    """DDP's and ZeRO's buckets, flattened and fp32 copies of gradients."""
    gathered: int
    """Whole parameters that a sharded strategy holds for a while."""
    activations: int
    logits: int
    communication: int
    """HCCL's buffers; outside torch's allocator."""
    reserve: int
    """Framework and fragmentation; outside what torch counts as allocated."""
    host_bytes: int
    """Main memory of this rank's offloaded state."""
    num_parameters: int
    num_trainable: int

    @property
    def total_bytes(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        names = (
            "weights",
            "gradients",
            "optimizer",
            "buffers",
            "gathered",
            "activations",
            "logits",
            "communication",
            "reserve",
        )
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "total_bytes": self.total_bytes}


@dataclass(frozen=True)
class _Job:
    """One rank's situation, with the numbers that every term needs."""

    g: Geometry
    task: str
    strategy: str
    precision: str
    ranks: int
    batch: int
    seq: int
    is_checkpointed: bool
    attention: str
    accumulates: bool
    is_padded: bool
    lora: Lora | None
    device: str
    logit_positions: int
    bucket: int
    overlaps: bool
    trainable: tuple[Parameter, ...] = field(default=())

    @property
    def stage(self) -> int | None:
        return _STAGE.get(self.strategy)

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def mode(self) -> str:
        """fp32 | bf16 (the weights themselves are 16 bit) | autocast (fp32 weights, 16-bit products)."""
        if self.precision == "fp32":
            return "fp32"
        return "bf16" if self.stage or self.strategy == "fsdp2" else "autocast"

    @property
    def low(self) -> int:
        """Bytes of an element of what matrix products read."""
        return 4 if self.precision == "fp32" else 2

    @property
    def num_trainable(self) -> int:
        return sum(p.numel for p in self.trainable)


def estimate(
    config: Mapping[str, Any],
    *,
    task: str = "sequence-classification",
    num_labels: int = 2,
    strategy: str,
    precision: str = "bf16",
    world_size: int = 1,
    micro_batch: int = 1,
    seq_len: int = 512,
    gradient_checkpointing: bool = False,
    attention: str | None = "sdpa",
    accumulation: int = 1,
    padded: bool = True,
    lora: Lora | None = None,
    device: str = "npu",
    logit_positions: int | None = None,
    bucket_elements: int | None = None,
    overlaps: bool = True,
    hccl_buffsize_mib: int = HCCL_BUFFSIZE_MIB,
    num_communicators: int = 2,
) -> Breakdown:
    """Bytes of one rank (the largest one) at the highest point of a training step.

    Args:
        config: the model's config.json.
        padded: whether rows have unequal lengths; then a mask is kept, and grouped key/value heads are repeated.
        logit_positions: positions of a row whose logits over the vocabulary are computed; causal-lm only. None for all.
        bucket_elements: reduce_bucket_size of ZeRO's stages 1 and 2; None for the launcher's own.
        overlaps: DeepSpeed's overlap_comm, which takes a second bucket on cards.
        num_communicators: groups of ranks that HCCL opens; the world, and one that DeepSpeed or FSDP adds.

    Raises:
        LaunchError: the model's family is not known here.
    """
    shape = geometry(config, task=task, num_labels=num_labels)
    job = _Job(
        shape, task, strategy, precision, world_size, micro_batch, seq_len, gradient_checkpointing, attention or "sdpa",
        accumulation > 1, padded, lora, device, min(logit_positions or seq_len, seq_len),
        bucket_elements or ZERO_BUCKET_ELEMENTS["npu" if device == "npu" else "cpu"],
        overlaps and device == "npu",
        lora.trainable(shape, task) if lora else shape.parameters,
    )  # fmt: skip
    return _breakdown(job, hccl_buffsize_mib, num_communicators)


def _breakdown(job: _Job, hccl_buffsize_mib: int, num_communicators: int) -> Breakdown:
    phases = {"forward": _forward(job), "backward": _backward(job), "step": _step(job)}
    phase, parts = max(phases.items(), key=lambda item: sum(item[1].values()))
    host = 0
    weights, optimizer, gradients = _weights(job), _optimizer(job), parts.get("gradients", 0)
    is_offloaded = job.strategy == "zero3-offload"
    if is_offloaded and job.device == "npu":
        host = weights + optimizer + _zero3_shard(job) * job.low + 4 * _zero3_shard(job)
        weights = optimizer = gradients = 0
    elif is_offloaded:
        gradients += 4 * _zero3_shard(job)  # the optimizer's own fp32 gradients, kept for its step on the CPU
    allocated = weights + optimizer + gradients + sum(v for k, v in parts.items() if k != "gradients")
    on_card = job.device == "npu"
    communication = 2 * hccl_buffsize_mib * MIB * num_communicators if on_card and job.ranks > 1 else 0
    return Breakdown(
        strategy=job.strategy,
        phase=phase,  # type: ignore[arg-type]
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buffers=parts.get("buffers", 0),
        gathered=parts.get("gathered", 0),
        activations=parts.get("activations", 0),
        logits=parts.get("logits", 0),
        communication=communication,
        reserve=FRAMEWORK_BYTES + int(allocated * FRAGMENTATION) if on_card else 0,
        host_bytes=host,
        num_parameters=job.g.num_parameters,
        num_trainable=job.num_trainable,
    )


# --- model states --------------------------------------------------------------------------------------------------


def _groups(job: _Job) -> tuple[int, int]:
    """Elements with and without weight decay: the Trainer makes two parameter groups, and norms and biases are in the second."""
    plain = sum(p.numel for p in job.trainable if p.kind in ("norm", "bias"))
    return job.num_trainable - plain, plain


def _padded_flat(job: _Job) -> int:
    """Elements of stage 1 and 2's flat buffers: each group is filled up to a multiple of 2 x ranks (nccl_start_alignment)."""
    return sum(-(-n // (2 * job.ranks)) * 2 * job.ranks for n in _groups(job))


def _zero3_shard(job: _Job) -> int:
    """Elements of this rank's shard: every trainable parameter is cut by itself, the last piece filled up."""
    return sum(-(-p.numel // job.ranks) for p in job.trainable)


def _fsdp_shard(parameters: Iterable[Parameter], ranks: int) -> int:
    """Elements of the first rank's shard: FSDP2 cuts along the first dimension, and the first ranks get the larger pieces."""
    return sum(-(-p.shape[0] // ranks) * math.prod(p.shape[1:]) for p in parameters)


def _frozen(job: _Job) -> int:
    return job.g.num_parameters if job.lora else 0


def _head_copy(job: _Job) -> int:
    """Elements of the head that peft trains beside its adapters, in the type of the weights that were loaded."""
    return sum(p.numel for p in job.trainable if p.kind == "head") if job.lora else 0


def _weights(job: _Job) -> int:
    frozen, low = _frozen(job), job.low
    if job.strategy == "fsdp2" and job.ranks > 1:
        frozen_shard = _fsdp_shard(job.g.parameters, job.ranks) if job.lora else 0
        return 4 * _fsdp_shard(job.trainable, job.ranks) + low * frozen_shard
    if job.stage == 3:
        frozen_shard = sum(-(-p.numel // job.ranks) for p in job.g.parameters) if job.lora else 0
        return low * (_zero3_shard(job) + frozen_shard)
    if job.stage:
        return low * (_padded_flat(job) + frozen)
    # DDP trains the weights that it loads: fp32, or, under LoRA, fp32 adapters beside low-precision weights.
    return 4 * (job.num_trainable - _head_copy(job)) + low * (frozen + _head_copy(job))


def _optimizer(job: _Job) -> int:
    if job.strategy == "fsdp2" and job.ranks > 1:
        return 8 * _fsdp_shard(job.trainable, job.ranks)
    if job.stage == 3:
        return 12 * _zero3_shard(job)
    if job.stage:
        return 12 * _padded_flat(job) // job.ranks
    return 8 * (job.num_trainable - _head_copy(job)) + 2 * job.low * _head_copy(job)


# --- activations ---------------------------------------------------------------------------------------------------


def _linear_elements(job: _Job) -> int:
    """Weights that autocast copies to 16 bit: everything a matrix product reads."""
    return sum(p.numel for p in job.g.parameters if p.kind in ("linear", "head"))


def _stream(job: _Job) -> int:
    """Bytes of an element of the residual stream."""
    return 2 if job.mode == "bf16" or (job.lora and job.low == 2) else 4


def _norm_bytes(job: _Job) -> int:
    """Saved per token by one RMSNorm and the products that read it, without the residual."""
    h = job.g.hidden
    if job.lora and job.low == 2:
        return 4 * h + 4  # the input alone, in fp32: a frozen weight needs nothing
    return {"fp32": 12, "bf16": 8, "autocast": 8}[job.mode] * h + 4


def _layer_bytes(job: _Job) -> int:
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


def _mask_bytes(job: _Job) -> int:
    """The additive mask that scaled_dot_product_attention makes of a boolean one, in each block."""
    return job.batch * job.seq * job.seq * job.low if job.attention == "sdpa" and job.device == "cpu" else 0


def _last_norm_bytes(job: _Job) -> int:
    extra = 2 * job.g.hidden if job.mode == "autocast" else 0  # the head's 16-bit copy of its input
    return job.tokens * (_norm_bytes(job) + extra)


def _shared_mask_bytes(job: _Job) -> int:
    return job.batch * job.seq * job.seq if job.is_padded and job.attention != "flash_attention_2" else 0


def _block_bytes(job: _Job) -> int:
    """What a block leaves behind in the forward pass: everything, or under checkpointing its input alone."""
    if job.is_checkpointed:
        return job.tokens * _stream(job) * job.g.hidden
    copies = 2 * _linear_elements(job) // job.g.num_layers if job.mode == "autocast" and not job.lora else 0
    return _layer_bytes(job) + copies


def _activations(job: _Job) -> int:
    """Kept at the end of the forward pass."""
    return job.g.num_layers * _block_bytes(job) + _last_norm_bytes(job) + _shared_mask_bytes(job)


def _logits(job: _Job) -> int:
    """Logits of a causal-LM head, their fp32 copy, the log-softmax, and in the backward pass their gradients."""
    if job.task == "sequence-classification":
        return 0
    return job.batch * job.logit_positions * job.g.vocab * 12


# --- phases --------------------------------------------------------------------------------------------------------


def _resident(job: _Job) -> dict[str, int]:
    """What is there all through a step, beside weights and optimizer."""
    trainable = job.num_trainable
    if job.strategy == "ddp" and job.ranks > 1:
        return {
            "gradients": 4 * trainable
        }  # gradient_as_bucket_view is on: they live in the buckets, all through a step
    if job.stage == 3:
        hidden = job.g.hidden
        persistent = sum(
            p.numel for p in (*job.g.parameters, *(job.trainable if job.lora else ())) if p.numel <= 10 * hidden
        )
        grads = _zero3_shard(job) * job.low
        return {"gradients": grads, "buffers": job.low * hidden * hidden, "gathered": job.low * persistent}
    return {}


def _merge(*parts: Mapping[str, int]) -> dict[str, int]:
    out: dict[str, int] = {}
    for part in parts:
        for name, size in part.items():
            out[name] = out.get(name, 0) + size
    return out


def _gathered(job: _Job) -> dict[str, int]:
    """Whole parameters that are there while blocks run."""
    g, low = job.g, job.low
    if job.stage == 3:
        total = g.num_parameters + (job.num_trainable if job.lora else 0)
        hidden = g.hidden
        persistent = sum(p.numel for p in g.parameters if p.numel <= 10 * hidden)
        return {"gathered": low * min(total - persistent, ZERO3_MAX_LIVE_ELEMENTS)}
    if job.strategy == "fsdp2" and job.ranks > 1:
        return {"gathered": low * (g.outer_parameters + g.layer_parameters)}
    return {}


def _carried_gradients(job: _Job) -> int:
    """Gradients of earlier micro batches that wait while the next one runs."""
    if not job.accumulates:
        return 0
    if job.strategy == "ddp":  # in no bucket until ranks reduce
        return 4 * job.num_trainable
    return _full_gradients(job)


def _full_gradients(job: _Job) -> int:
    if job.stage == 3 or (job.strategy == "ddp" and job.ranks > 1):
        return 0  # in the resident flat buffer, or DDP's buckets
    if job.stage == 2:
        return job.low * _padded_flat(job) // job.ranks
    if job.stage == 1:
        return job.low * job.num_trainable
    if job.strategy == "fsdp2" and job.ranks > 1:
        return 4 * _fsdp_shard(job.trainable, job.ranks)
    return 4 * job.num_trainable


def _forward(job: _Job) -> dict[str, int]:
    """The end of the forward pass, and the loss."""
    # The loss comes after the last block, whose parameters FSDP2 has let go of, and the root's too.
    gathered = {} if job.strategy == "fsdp2" else _gathered(job)
    return _merge(
        _resident(job),
        gathered,
        {"activations": _activations(job), "logits": _logits(job), "gradients": _carried_gradients(job)},
        {"activations": _adapter_transient(job)},
    )


def _backward(job: _Job) -> dict[str, int]:
    """The highest point of the backward pass, block by block from the last: activations go, gradients come."""
    outer, block = _block_gradients(job)
    recomputed = _layer_bytes(job) + _block_copies(job) if job.is_checkpointed else 0
    num_layers, kept = job.g.num_layers, _block_bytes(job)
    points: list[dict[str, int]] = [
        {
            "activations": num_layers * kept + _last_norm_bytes(job) + _shared_mask_bytes(job) + _norm_transient(job),
            "logits": job.low * job.batch * job.logit_positions * job.g.vocab if job.task == "causal-lm" else 0,
        }
    ]
    for done in (0, num_layers - 1):  # linear in between, so the highest is at an end
        left = (num_layers - done) * kept
        points.append(
            {
                "activations": left + recomputed + _shared_mask_bytes(job) + _block_transient(job),
                "gradients": outer + done * block,
            }
        )
    points.append({"gradients": _full_gradients(job), "activations": job.tokens * _stream(job) * job.g.hidden})
    if _is_fsdp(job):
        points.append({"activations": kept, "gradients": outer + max(0, num_layers - 2) * block})
    if job.accumulates:
        points = [{**p, "gradients": _carried_gradients(job)} for p in points]
    fixed = _merge(_resident(job), {} if _is_fsdp(job) else _gathered(job))
    extra = _reduction(job)
    return max((_merge(fixed, p, e) for p, e in zip(points, extra, strict=True)), key=lambda m: sum(m.values()))


def _is_fsdp(job: _Job) -> bool:
    return job.strategy == "fsdp2" and job.ranks > 1


def _reduction(job: _Job) -> tuple[dict[str, int], ...]:
    """Buckets, and for FSDP2 gathered parameters, at the points of the backward pass: head, last block, first, end."""
    if job.stage in (1, 2):
        bucket = job.low * job.bucket * (2 if job.overlaps else 1)
        copy = job.low * min(job.bucket, job.num_trainable)  # flattened for the reduction
        if job.stage == 2:
            # The last bucket's gradients may still be in the copy when the partition is filled, or not: the backend's
            # own thread lets go of it. Both were measured; this is the middle.
            copy -= int(_full_gradients(job) * min(1.0, job.bucket / max(1, job.num_trainable)) / 2)
        return ({"buffers": bucket},) * 3 + ({"buffers": bucket + (copy if job.stage == 2 else 0)},)
    if _is_fsdp(job):
        outer, block = job.low * job.g.outer_parameters, job.low * job.g.layer_parameters
        reducing = job.low * sum(p.numel for p in job.trainable if p.layer == 0)
        # Between two blocks: gradients, their copy for the reduce-scatter (gloo clones it), and the next block's weights.
        copies = reducing * (3 if job.device == "cpu" else 2)
        gathered = {"gathered": outer + block}
        return (
            {"gathered": outer},
            gathered,
            gathered | {"buffers": reducing},
            gathered | {"buffers": reducing},
            gathered | {"buffers": copies},
        )
    largest = {
        k: max((p.numel for p in job.trainable if p.kind == k), default=0) for k in ("head", "linear", "embedding")
    }
    along = [largest[k] for k in ("head", "linear", "linear", "embedding")]
    if (
        job.stage == 3
    ):  # a gradient too large for the bucket is there whole, and once more flattened for the reduce-scatter
        return tuple({"buffers": 2 * job.low * numel} for numel in along)
    if job.strategy == "ddp" and job.ranks > 1 and not job.accumulates:  # the newest, on its way into its bucket
        return tuple({"buffers": 4 * numel} for numel in along)
    return ({},) * 4


def _block_copies(job: _Job) -> int:
    return 2 * _linear_elements(job) // job.g.num_layers if job.mode == "autocast" and not job.lora else 0


def _block_gradients(job: _Job) -> tuple[int, int]:
    """Gradients that stay: (of the head, which come first, of one block)."""
    total = _full_gradients(job)
    if not job.num_trainable:
        return 0, 0
    head = sum(p.numel for p in job.trainable if p.layer is None and p.kind != "embedding")
    block = sum(p.numel for p in job.trainable if p.layer == 0)
    return total * head // job.num_trainable, total * block // job.num_trainable


def _adapter_transient(job: _Job) -> int:
    """What a LoRA adapter's fp32 input and output add for a moment in the forward pass, measured."""
    return job.tokens * 9 * job.g.intermediate if job.lora and job.low == 2 else 0


def _norm_transient(job: _Job) -> int:
    """Gradients inside the last RMSNorm, in fp32, measured."""
    return job.tokens * job.g.hidden * {"fp32": 20, "bf16": 16, "autocast": 14}[job.mode]


def _block_transient(job: _Job) -> int:
    """Gradients inside the MLP of a block: of the product, of its two factors, and of the residual stream."""
    if job.lora and job.low == 2:
        return job.tokens * (9 * job.g.intermediate + 2 * job.g.hidden * _stream(job))
    return job.tokens * (2 * job.low * job.g.intermediate + 2 * job.g.hidden * _stream(job))


def _step(job: _Job) -> dict[str, int]:
    """The optimizer's update. Adam is fused: it needs no memory of its own."""
    if job.stage in (1, 2):
        shard = _padded_flat(job) // job.ranks
        return _merge(_resident(job), {"gradients": _full_gradients(job), "buffers": (job.low + 4) * shard})
    if job.stage == 3:
        sub_group = min(_zero3_shard(job), ZERO3_SUB_GROUP_ELEMENTS)
        return _merge(_resident(job), {"buffers": (job.low + 4) * sub_group})
    return _merge(_resident(job), {"gradients": _full_gradients(job)})


def state_bytes(strategy: str, num_parameters: int, world_size: int, precision: str) -> int:
    """Weights, gradients and Adam's state of one rank by the ZeRO paper's table, for families that have no geometry here.

    DDP trains fp32 weights: 4 bytes, 4 of gradient, 8 of moments. DeepSpeed keeps 2, 2 and 12 (4, 4 and 8 in fp32).
    """
    low = 4 if precision == "fp32" or strategy == "ddp" else 2
    optimizer = 8 if low == 4 else 12
    stage = _STAGE.get(strategy, 0)
    shards = [world_size if stage >= level else 1 for level in (3, 2, 1)]
    return sum(num_parameters * size // n for size, n in zip((low, low, optimizer), shards, strict=True))


# --- does it fit, and what would -----------------------------------------------------------------------------------

PREFERENCE: tuple[str, ...] = ("ddp", "zero1", "zero2", "zero3", "fsdp2", "zero3-offload")
"""Fastest first; see SPEED."""


@dataclass(frozen=True)
class Speed:
    """How fast a strategy is against DDP, and who says so."""

    traffic: float | None
    """Bytes between ranks per step, DDP being 1: ZeRO paper, section 7 (stages 1 and 2: as DDP; stage 3: half as much again)."""
    measured: float | None
    """Published training speed against DDP: ms-swift's NPU guide, Qwen2-7B LoRA on 4 x 910B3 (2 h, 3.5 h, 8.5 h)."""


SPEED = {
    "ddp": Speed(1.0, 1.0),
    "zero1": Speed(1.0, None),
    "zero2": Speed(1.0, 2 / 3.5),
    "zero3": Speed(1.5, 2 / 8.5),
    "fsdp2": Speed(1.5, None),
    "zero3-offload": Speed(1.5, None),
}
SPEED_SOURCES = (
    "traffic: ZeRO paper (arXiv 1910.02054), section 7",
    "measured: ms-swift NPU guide, Qwen2-7B LoRA on 4 x 910B3; full fine-tuning has a smaller gap",
)


def usable_bytes(hbm_bytes: int) -> int:
    """What one process can have of a card of this nominal size."""
    nominal_gib = round(hbm_bytes / GIB)
    return max(0, hbm_bytes - _CARD_LOSS_BYTES.get(nominal_gib, max(int(3.5 * GIB), hbm_bytes // 16)))


@dataclass(frozen=True)
class Row:
    """One strategy of the plan's table."""

    breakdown: Breakdown
    usable_bytes: int
    micro_batch: int
    host_bytes_node: int = 0
    """Main memory that this node's ranks need together."""
    host_limit_bytes: int | None = None

    @property
    def strategy(self) -> str:
        return self.breakdown.strategy

    @property
    def margin_bytes(self) -> int:
        """What is left; below zero, what is missing."""
        return self.usable_bytes - self.breakdown.total_bytes

    @property
    def fits(self) -> bool:
        has_host = self.host_limit_bytes is None or self.host_bytes_node <= self.host_limit_bytes
        return self.margin_bytes >= 0 and has_host

    @property
    def speed(self) -> Speed:
        return SPEED[self.strategy]

    def to_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy, "fits": self.fits, "margin_bytes": self.margin_bytes,
            "usable_bytes": self.usable_bytes, "micro_batch": self.micro_batch, "host_bytes_node": self.host_bytes_node,
            "traffic": self.speed.traffic, "measured_speed": self.speed.measured, **self.breakdown.to_json(),
        }  # fmt: skip


def load_host_bytes(breakdown: Breakdown, precision: str, *, has_adapter: bool = False) -> int:
    """Main memory that one rank needs while loading: its own copy of the weights, but under ZeRO-3 only the largest shard
    file's tensors pass through."""
    element = 2 if precision != "fp32" and (breakdown.strategy.startswith("zero") or has_adapter) else 4
    if breakdown.strategy.startswith("zero3"):
        return min(5 * GIB, element * breakdown.num_parameters)  # transformers writes shards of 5 GB
    return element * breakdown.num_parameters


def table(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    world_size: int,
    nproc_per_node: int | None = None,
    host_memory_bytes: int | None = None,
    strategies: Sequence[str] = PREFERENCE,
    micro_batch: int = 1,
    **job: Any,
) -> list[Row]:
    """One row per strategy that makes sense for the number of ranks, fastest first. `job` goes to `estimate`."""
    if world_size == 1:
        strategies = [s for s in strategies if s in ("ddp", "zero3-offload")]
    nproc = nproc_per_node or world_size
    rows = []
    for strategy in strategies:
        found = estimate(config, strategy=strategy, world_size=world_size, micro_batch=micro_batch, **job)
        loading = load_host_bytes(found, job.get("precision", "bf16"), has_adapter=job.get("lora") is not None)
        host = nproc * max(found.host_bytes, loading)
        rows.append(Row(found, usable_bytes(hbm_bytes), micro_batch, host, host_memory_bytes))
    return rows


def largest_micro_batch(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    strategy: str,
    candidates: Iterable[int],
    world_size: int = 1,
    **job: Any,
) -> int | None:
    """The largest of `candidates` (usually the divisors of a rank's share of the global batch) that fits; None if none."""
    limit = usable_bytes(hbm_bytes)
    for micro_batch in sorted(set(candidates), reverse=True):
        found = estimate(config, strategy=strategy, world_size=world_size, micro_batch=micro_batch, **job)
        if found.total_bytes <= limit:
            return micro_batch
    return None


@dataclass(frozen=True)
class Choice:
    """What `auto` takes, and why."""

    strategy: str
    micro_batch: int
    reason: str
    rows: tuple[Row, ...]


def choose_strategy(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    world_size: int,
    per_rank_batch: int = 1,
    max_micro_batch: int = 8,
    strategies: Sequence[str] = PREFERENCE,
    micro_batch: int | None = None,
    **job: Any,
) -> Choice:
    """The fastest strategy that fits with a micro batch of one, then the largest micro batch that fits under it.

    Args:
        per_rank_batch: a rank's share of the global batch; micro batches are its divisors.
        micro_batch: the recipe's own, which then is not changed.
        strategies: the recipe's own as the only one, or all.

    Raises:
        LaunchError: nothing fits; the hint is the nearest change that would.
    """
    host = {k: job.pop(k, None) for k in ("nproc_per_node", "host_memory_bytes")}
    least = micro_batch or 1
    job.setdefault("accumulation", max(1, per_rank_batch // least))
    rows = table(
        config, hbm_bytes=hbm_bytes, world_size=world_size, micro_batch=least, strategies=strategies, **host, **job
    )
    taken = next((r for r in rows if r.fits), None)
    if taken is None:
        raise _does_not_fit(config, rows, hbm_bytes=hbm_bytes, world_size=world_size, least=least, job=job)
    best = micro_batch
    if best is None:
        sizes = [d for d in range(1, min(per_rank_batch, max_micro_batch) + 1) if per_rank_batch % d == 0]
        best = least
        for size in sorted(sizes):
            now = {**job, "accumulation": per_rank_batch // size}
            if largest_micro_batch(
                config, hbm_bytes=hbm_bytes, strategy=taken.strategy, candidates=[size], world_size=world_size, **now
            ):
                best = size
    return Choice(taken.strategy, best, _reason(rows, taken), tuple(rows))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _reason(rows: Sequence[Row], taken: Row) -> str:
    need = f"{taken.strategy} needs {_gib(taken.breakdown.total_bytes)} of {_gib(taken.usable_bytes)}"
    missed = [r for r in rows if not r.fits and rows.index(r) < rows.index(taken)]
    if not missed:
        return f"{need}: the fastest strategy, and it fits"
    return f"{need}; faster ones do not fit: " + ", ".join(
        f"{r.strategy} {_gib(r.breakdown.total_bytes)}" for r in missed
    )


def _does_not_fit(
    config: Mapping[str, Any],
    rows: Sequence[Row],
    *,
    hbm_bytes: int,
    world_size: int,
    least: int,
    job: Mapping[str, Any],
) -> LaunchError:
    nearest = max(rows, key=lambda r: r.margin_bytes)
    what = f"{nearest.strategy} needs {_gib(nearest.breakdown.total_bytes)} per rank, a card has {_gib(nearest.usable_bytes)}"
    if nearest.margin_bytes >= 0:
        what = (
            f"{nearest.strategy} needs {_gib(nearest.host_bytes_node)} of main memory on this node,"
            f" it has {_gib(nearest.host_limit_bytes or 0)}"
        )
    change = nearest_change(config, hbm_bytes=hbm_bytes, world_size=world_size, strategies=[r.strategy for r in rows],
                            micro_batch=least, **job)  # fmt: skip
    return LaunchError(f"the job does not fit: {what}", hint=change or "use a smaller model or larger cards")


def nearest_change(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    world_size: int,
    strategies: Sequence[str],
    micro_batch: int = 1,
    **job: Any,
) -> str | None:
    """The smallest change that makes the job fit, as an instruction; None where none of those known does."""
    limit = usable_bytes(hbm_bytes)

    def fits(**changed: Any) -> str | None:
        now = {"world_size": world_size, "micro_batch": micro_batch, "strategies": strategies, **job, **changed}
        ranks = now.pop("world_size")
        tried = now.pop("strategies")
        for strategy in tried:
            if estimate(config, strategy=strategy, world_size=ranks, **now).total_bytes <= limit:
                return str(strategy)
        return None

    every = [s for s in PREFERENCE if world_size > 1 or s in ("ddp", "zero3-offload")]
    if not job.get("gradient_checkpointing") and fits(gradient_checkpointing=True):
        return "set training.gradient_checkpointing=true"
    if micro_batch > 1 and fits(micro_batch=1):
        return "set parallel.micro_batch_size=1"
    if other := fits(strategies=every):
        return f"set parallel.strategy={other}"
    small = {"gradient_checkpointing": True, "micro_batch": 1, "strategies": every}
    if other := fits(**small):
        return f"set parallel.strategy={other} parallel.micro_batch_size=1 training.gradient_checkpointing=true"
    seq_len = int(job.get("seq_len", 512))
    while seq_len > 128:
        seq_len //= 2
        if other := fits(**small, seq_len=seq_len):
            return (
                f"set data.max_length={seq_len} parallel.strategy={other} parallel.micro_batch_size=1"
                " training.gradient_checkpointing=true"
            )
    for ranks in (2, 4, 8, 16, 32, 64):
        if ranks > world_size and (other := fits(**{**small, "strategies": PREFERENCE, "world_size": ranks})):
            return f"use {ranks} cards with parallel.strategy={other} and training.gradient_checkpointing=true"
    if job.get("lora") is None and (other := fits(**small, lora=Lora())):
        return f"train an adapter: adapter.r=8 with parallel.strategy={other}"
    return None


def hbm_of(found: Chip, hbm_bytes: int | None = None) -> int:
    """The memory to plan with for a chip: what the card itself says, else the nominal size.

    Raises:
        LaunchError: the chip cannot train, or comes in several sizes and nobody said which.
    """
    if not found.trainable:
        raise LaunchError(f"{found.soc} is for inference: it has no links for training", hint="use a 910 or 950 card")
    size = hbm_bytes or found.hbm_gib * GIB
    if not size:
        raise LaunchError(f"{found.soc} comes with several sizes of memory", hint="say which: --hbm 64")
    return size
