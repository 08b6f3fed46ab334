"""Every collective against a reference computed from what each rank is known to hold."""

import sys

import ranks
import torch
import torch.distributed as dist

REDUCED = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int32, torch.int64]
MOVED = [*REDUCED, torch.uint8, torch.bool, torch.float64]
OPS = {
    dist.ReduceOp.SUM: lambda s: s.sum(0),
    dist.ReduceOp.MIN: lambda s: s.amin(0),
    dist.ReduceOp.MAX: lambda s: s.amax(0),
    dist.ReduceOp.PRODUCT: lambda s: s.prod(0),
}
SIZES = (1, 7, 1000)
BIG = 700_001
"""More elements than one staging buffer holds, and odd."""


def held(rank, size, dtype, salt=0):
    """What a rank holds: small whole numbers, so that every sum is exact in every type."""
    g = torch.Generator().manual_seed(1000 * salt + rank)
    return torch.randint(1, 3, (size,), generator=g).to(dtype)


def same(expected, got, what):
    got = got.cpu()
    assert expected.dtype == got.dtype and torch.equal(expected, got), f"{what}: expected {expected[:8]}, got {got[:8]}"


def reductions(rank, world):
    for dtype in REDUCED:
        for op, reference in OPS.items():
            for size in SIZES + ((BIG,) if dtype is torch.float32 and op == dist.ReduceOp.SUM else ()):
                all_held = torch.stack([held(r, size * world, dtype) for r in range(world)])
                expected = reference(all_held.to(torch.float64 if dtype.is_floating_point else torch.int64)).to(dtype)
                what = f"{dtype} {op} {size}"
                x = held(rank, size * world, dtype).npu()
                dist.all_reduce(x, op)
                same(expected, x, f"all_reduce {what}")
                x = held(rank, size * world, dtype).npu()
                dist.reduce(x, world - 1, op)
                if rank == world - 1:
                    same(expected, x, f"reduce {what}")
                out = torch.empty(size, dtype=dtype, device="npu")
                dist.reduce_scatter_tensor(out, held(rank, size * world, dtype).npu(), op)
                same(expected[rank * size : (rank + 1) * size], out, f"reduce_scatter {what}")


def movements(rank, world):
    for dtype in MOVED:
        for size in SIZES + ((BIG,) if dtype is torch.float32 else ()):
            what = f"{dtype} {size}"
            mine = held(rank, size, dtype)
            everybody = [held(r, size, dtype) for r in range(world)]
            x = mine.npu()
            dist.broadcast(x, 1)
            same(everybody[1], x, f"broadcast {what}")
            out = torch.empty(size * world, dtype=dtype, device="npu")
            dist.all_gather_into_tensor(out, mine.npu())
            same(torch.cat(everybody), out, f"all_gather {what}")
            parts = [torch.empty(size, dtype=dtype, device="npu") for _ in range(world)]
            dist.all_gather(parts, mine.npu())
            same(torch.cat(everybody), torch.cat(parts), f"all_gather list {what}")
            if dtype in (torch.bool, torch.float64):
                continue
            full = [held(r, size * world, dtype, 7) for r in range(world)]
            out = torch.empty(size * world, dtype=dtype, device="npu")
            dist.all_to_all_single(out, full[rank].npu())
            same(torch.cat([f[rank * size : (rank + 1) * size] for f in full]), out, f"all_to_all {what}")
            out = torch.empty(size, dtype=dtype, device="npu")
            dist.scatter(out, [p.npu() for p in full[0].split(size)] if rank == 0 else None, 0)
            same(full[0][rank * size : (rank + 1) * size], out, f"scatter {what}")
            parts = [torch.empty(size, dtype=dtype, device="npu") for _ in range(world)] if rank == 0 else None
            dist.gather(mine.npu(), parts, 0)
            if rank == 0:
                same(torch.cat(everybody), torch.cat(parts), f"gather {what}")


def uneven(rank, world):
    counts = [3 * r + 1 for r in range(world)]
    parts = [torch.empty(n, device="npu") for n in counts]
    dist.all_gather(parts, held(rank, counts[rank], torch.float32).npu())
    same(torch.cat([held(r, counts[r], torch.float32) for r in range(world)]), torch.cat(parts), "uneven all_gather")

    out = torch.empty(counts[rank], device="npu")
    dist.reduce_scatter(out, [p.npu() for p in held(rank, sum(counts), torch.float32).split(counts)])
    total = torch.stack([held(r, sum(counts), torch.float32) for r in range(world)]).sum(0)
    same(total.split(counts)[rank], out, "uneven reduce_scatter")

    sent = [rank + 2 * r for r in range(world)]  # from me to r; may be nothing
    got = [r + 2 * rank for r in range(world)]
    out = torch.empty(sum(got), device="npu")
    dist.all_to_all_single(out, held(rank, sum(sent), torch.float32, 3).npu(), got, sent)
    expected = [
        held(r, sum(r + 2 * k for k in range(world)), torch.float32, 3).split([r + 2 * k for k in range(world)])[rank]
        for r in range(world)
    ]
    same(torch.cat(expected), out, "all_to_all_v")


def pairs(rank, world):
    right, left = (rank + 1) % world, (rank - 1) % world
    for size in (5, 300_000):  # the second does not fit the ring between two ranks
        out = torch.empty(size, device="npu")
        send = dist.P2POp(dist.isend, held(rank, size, torch.float32).npu(), right)
        receive = dist.P2POp(dist.irecv, out, left)
        for work in dist.batch_isend_irecv([send, receive]):
            work.wait()
        same(held(left, size, torch.float32), out, f"ring of {size}")
    x = held(rank, 9, torch.int64).npu()
    if rank == 0:
        dist.send(x, 1)
    elif rank == 1:
        dist.recv(x, 0)
        same(held(0, 9, torch.int64), x, "send and recv")


def groups(rank, world):
    half = [list(range(world // 2)), list(range(world // 2, world))]
    handles = [dist.new_group(members) for members in half]
    mine = rank >= world // 2
    x = torch.full((4,), float(rank), device="npu")
    dist.all_reduce(x, group=handles[mine])
    same(torch.full((4,), float(sum(half[mine]))), x, "all_reduce in a group")
    objects = [None] * world
    dist.all_gather_object(objects, {"rank": rank, "text": "x" * rank})
    assert [o["rank"] for o in objects] == list(range(world)), objects
    dist.barrier()
    work = dist.all_reduce(torch.ones(3, device="npu"), async_op=True)
    work.wait()


def strided(rank, world):
    base = torch.zeros(4, 6, device="npu")
    base[:, ::2] = held(rank, 12, torch.float32).view(4, 3).npu()
    x = base[:, ::2].contiguous()
    dist.all_reduce(x)
    same(
        torch.stack([held(r, 12, torch.float32) for r in range(world)]).sum(0),
        x.flatten(),
        "a strided tensor made contiguous",
    )


def main(rank, world):
    torch.npu.set_device(rank)
    dist.init_process_group("hccl")
    for part in (reductions, movements, uneven, pairs, groups, strided):
        part(rank, world)
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks.run(int(sys.argv[1]), main)
    print("collectives agree")
