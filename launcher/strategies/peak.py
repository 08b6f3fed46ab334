"""The highest point of a training step, in bytes of one rank. Arithmetic only: nothing here looks at a machine.

Model states follow the ZeRO paper (Rajbhandari et al. 2020, arXiv 1910.02054, table 1): in mixed precision with Adam a
parameter costs 2 bytes of weight, 2 of gradient and 12 of optimizer (fp32 master copy and two moments), and stage 1
divides the 12, stage 2 also the gradients, stage 3 also the weights, by the number of ranks. What DeepSpeed, DDP and
FSDP2 keep beside that (buckets, gathered parameters, fp32 copies of gradients during the step) was read in their source
and measured: tools/measure_memory.py compares every term with torch's own allocation record, docs/memory.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.accelerators import table as accelerators
from launcher.models.geometry import Lora, geometry
from launcher.strategies import activations, table
from launcher.strategies.breakdown import Breakdown
from launcher.strategies.job import Job, merged
from launcher.strategies.table import Reduction, States, Strategy
from launcher.text import GIB, MIB

HCCL_BUFFSIZE_MIB = 200
"""HCCL_BUFFSIZE's default; every communicator takes twice as much (HCCL documentation)."""
FRAMEWORK_BYTES = 1 * GIB
"""Kernels, streams, workspaces and the context of a process on a card, which torch's allocator does not count."""
FRAGMENTATION = 0.04
"""Share of torch's own memory that is lost between blocks, with expandable segments."""


def estimate(
    config: Mapping[str, Any],
    *,
    has_head: bool = True,
    num_labels: int = 2,
    of_words: bool = False,
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
    device: str = accelerators.ASSUMED,
    logit_positions: int | None = None,
    bucket_elements: int | None = None,
    overlaps: bool = True,
    hccl_buffsize_mib: int = HCCL_BUFFSIZE_MIB,
    num_communicators: int = 2,
    in_chunks: bool = False,
) -> Breakdown:
    """Bytes of one rank (the largest one) at the highest point of a training step.

    Args:
        config: the model's config.json.
        of_words: whether the classification head is over each token.
        padded: whether rows have unequal lengths; then a mask is kept, and grouped key/value heads are repeated.
        logit_positions: positions of a row whose logits over the vocabulary are computed by a language-modelling head. None for all.
        bucket_elements: reduce_bucket_size of ZeRO's stages 1 and 2; None for the launcher's own.
        overlaps: DeepSpeed's overlap_comm, which takes a second bucket on cards.
        in_chunks: whether logits are made in chunks, and their gradients with them; as if every token was trained.
        num_communicators: groups of ranks that HCCL opens; the world, and one that DeepSpeed or FSDP adds.

    Raises:
        LaunchError: the model's family is not known, or there is no such strategy.
    """
    shape = geometry(config, has_head=has_head, num_labels=num_labels, of_words=of_words)
    how = table.load(strategy)
    job = Job(
        shape,
        has_head,
        how.autocasts,
        precision,
        world_size,
        micro_batch,
        seq_len,
        gradient_checkpointing,
        attention or "sdpa",
        accumulation > 1,
        padded,
        lora,
        device,
        min(logit_positions or seq_len, seq_len),
        bucket_elements,
        overlaps and accelerators.load(device).has_cards,
        lora.trainable(shape, has_head=has_head) if lora else shape.parameters,
        in_chunks,
    )
    return _breakdown(how, job, hccl_buffsize_mib, num_communicators)


def _breakdown(how: Strategy, job: Job, hccl_buffsize_mib: int, num_communicators: int) -> Breakdown:
    phases = {"forward": _forward(how, job), "backward": _backward(how, job), "step": how.step(job)}
    phase, parts = max(phases.items(), key=lambda item: sum(item[1].values()))
    states, host = how.offloaded(job, States(how.weights(job), parts.get("gradients", 0), how.optimizer(job)))
    allocated = sum(states) + sum(v for k, v in parts.items() if k != "gradients")
    communication = 2 * hccl_buffsize_mib * MIB * num_communicators if job.on_card and job.ranks > 1 else 0
    return Breakdown(
        strategy=how.name,
        phase=phase,  # type: ignore[arg-type]
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        buffers=parts.get("buffers", 0),
        gathered=parts.get("gathered", 0),
        activations=parts.get("activations", 0),
        logits=parts.get("logits", 0),
        communication=communication,
        reserve=FRAMEWORK_BYTES + int(allocated * FRAGMENTATION) if job.on_card else 0,
        host_bytes=host,
        num_parameters=job.g.num_parameters,
        num_trainable=job.num_trainable,
    )


def _forward(how: Strategy, job: Job) -> dict[str, int]:
    """The end of the forward pass: within the last block, or at the logits and the loss."""
    kept = activations.activations(job)
    in_block = {"activations": kept + activations.adapter_transient(job)}
    at_loss = {"activations": kept + activations.cached_copies(job), "logits": activations.logits(job)}
    highest = max(in_block, at_loss, key=lambda parts: sum(parts.values()))
    carried = how.carried_gradients(job) if job.accumulates else 0
    return merged(how.resident(job), how.gathered(job), highest, {"gradients": carried})


def _backward(how: Strategy, job: Job) -> dict[str, int]:
    """The highest point of the backward pass, block by block from the last: activations go, gradients come."""
    fixed, reduction = merged(how.resident(job), how.gathered(job)), how.reduction(job)
    points = list(zip(_points(how, job), _in_order(reduction), strict=True))
    if reduction.between_blocks is not None:
        points.append((_between_blocks(how, job), reduction.between_blocks))
    if job.accumulates:
        points = [({**point, "gradients": how.carried_gradients(job)}, extra) for point, extra in points]
    return max((merged(fixed, point, extra) for point, extra in points), key=lambda parts: sum(parts.values()))


def _in_order(reduction: Reduction) -> tuple[Mapping[str, int], ...]:
    return reduction.head, reduction.last_block, reduction.first_block, reduction.end


def _points(how: Strategy, job: Job) -> Iterator[dict[str, int]]:
    """Activations and gradients at the head, in the last block, in the first one, and at the end."""
    outer, block = _block_gradients(how, job)
    num_layers, kept, mask = job.g.num_layers, activations.block_bytes(job), activations.shared_mask_bytes(job)
    yield {
        "activations": num_layers * kept + activations.last_norm_bytes(job) + mask + activations.norm_transient(job),
        "logits": activations.logit_gradients(job),
    }
    recomputed = activations.layer_bytes(job) + activations.block_copies(job) if job.is_checkpointed else 0
    inside = recomputed + mask + activations.block_transient(job)
    for done in (0, num_layers - 1):  # linear in between, so the highest is at an end
        yield {"activations": (num_layers - done) * kept + inside, "gradients": outer + done * block}
    yield {"gradients": how.gradients(job), "activations": job.tokens * activations.stream(job) * job.g.hidden}


def _between_blocks(how: Strategy, job: Job) -> dict[str, int]:
    outer, block = _block_gradients(how, job)
    gradients = outer + max(0, job.g.num_layers - 2) * block
    return {"activations": activations.block_bytes(job), "gradients": gradients}


def _block_gradients(how: Strategy, job: Job) -> tuple[int, int]:
    """Gradients that stay: (of the head, which come first, of one block)."""
    total = how.gradients(job)
    if not job.num_trainable:
        return 0, 0
    head = sum(p.numel for p in job.trainable if p.layer is None and p.kind != "embedding")
    block = sum(p.numel for p in job.trainable if p.layer is not None) // job.g.num_layers
    return total * head // job.num_trainable, total * block // job.num_trainable
