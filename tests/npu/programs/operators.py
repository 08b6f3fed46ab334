"""Operators on npu:0 against the same on the CPU."""

import torch
import torch_npu
from torch.nn import functional


def pair(*shape, dtype=torch.float32, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x, x.npu()


def same(what, expected, got, tolerance=0.0):
    got = got.cpu()
    assert expected.dtype == got.dtype, (what, expected.dtype, got.dtype)
    assert expected.shape == got.shape, (what, expected.shape, got.shape)
    if tolerance:
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, msg=lambda m: f"{what}: {m}")
    else:
        assert torch.equal(expected, got), f"{what}: {expected} and {got}"


def strides():
    x, n = pair(4, 6)
    for what, view in {
        "transpose": lambda t: t.t(),
        "step": lambda t: t[:, ::2],
        "offset": lambda t: t[1:, 2:5],
        "expand": lambda t: t[:, :1].expand(4, 6),
        "permute": lambda t: t.view(2, 2, 6).permute(2, 0, 1),
        "diagonal": lambda t: t.diagonal(),
        "unfold": lambda t: t.unfold(1, 3, 2),
        "select": lambda t: t[2],
        "flip": lambda t: t.flip(0),
        "split": lambda t: t.split(2, 1)[1],
        "narrow": lambda t: t.narrow(0, 1, 2),
    }.items():
        same(what, view(x).contiguous(), view(n))
        same(f"clone of {what}", view(x).clone(), view(n).clone())
        same(f"cast of {what}", view(x).to(torch.bfloat16), view(n).to(torch.bfloat16))
        a, b = torch.zeros(16, 16), torch.zeros(16, 16, device="npu")
        shape = view(x).shape
        if len(shape) == 2:
            a[: 2 * shape[0] : 2, : shape[1]].copy_(view(x))
            b[: 2 * shape[0] : 2, : shape[1]].copy_(view(n))
            same(f"copy of {what} into strides", a, b)
            a[: shape[0], 1 : 1 + shape[1]].add_(view(x), alpha=2)
            b[: shape[0], 1 : 1 + shape[1]].add_(view(n), alpha=2)
            same(f"add of {what} in place", a, b)
    same("device to device", x, n.to("npu:1"))
    same("device to device, strided", x.t(), n.t().to("npu:1"))
    same("host to device, strided", x.t(), x.t().to("npu"))
    same("non-blocking from pinned", x, x.pin_memory().to("npu", non_blocking=True))


def outputs():
    x, n = pair(3, 5)
    a, b = torch.empty(0), torch.empty(0, device="npu")
    torch.add(x, 1, out=a)
    torch.add(n, 1, out=b)
    same("out= that grows", a, b)
    a, b = torch.empty(5, 3).t(), torch.empty(5, 3, device="npu").t()
    torch.mul(x, 3, out=a)
    torch.mul(n, 3, out=b)
    same("out= with strides", a, b)
    values, indices = torch.topk(x, 2)
    v, i = torch.topk(n, 2)
    same("topk", values, v)
    same("topk indices", indices, i)
    same("sort", x.sort().values, n.sort().values)
    same("nonzero", (x > 0).nonzero(), (n > 0).nonzero())
    same("masked_select", x[x > 0], n[n > 0])
    same("index", x[torch.tensor([2, 0])], n[torch.tensor([2, 0])])
    same(
        "index_put",
        x.clone().index_put_((torch.tensor([1]),), torch.tensor(7.0)),
        n.clone().index_put_((torch.tensor([1]),), torch.tensor(7.0)),
    )
    same("where", torch.where(x > 0, x, 0.0), torch.where(n > 0, n, 0.0))
    same("cat", torch.cat([x, x.double()]).float(), torch.cat([n, n.float()]))
    same("wrapped number", x.half() + 1.5, n.half() + 1.5)
    same("scalar tensor", x * torch.tensor(2.0, dtype=torch.float64), n * torch.tensor(2.0, dtype=torch.float64))
    same(
        "one_hot",
        functional.one_hot(torch.tensor([0, 2]), 3),
        functional.one_hot(torch.tensor([0, 2], device="npu"), 3),
    )
    same("cumsum", x.cumsum(1), n.cumsum(1))
    same("matmul", x @ x.t(), n @ n.t())
    same("linear", functional.linear(x, x, torch.ones(3)), functional.linear(n, n, torch.ones(3, device="npu")))
    same("layer_norm", functional.layer_norm(x, (5,)), functional.layer_norm(n, (5,)))
    same("einsum", torch.einsum("ij,kj->ik", x, x), torch.einsum("ij,kj->ik", n, n))
    same("tril", torch.ones(4, 4).tril(), torch.ones(4, 4, device="npu").tril())
    same("arange", torch.arange(2, 9, 3), torch.arange(2, 9, 3, device="npu"))
    assert x.sum().item() == n.sum().item()
    assert x.tolist() == n.tolist()


def random():
    for draw in (
        lambda d: torch.rand(5, device=d),
        lambda d: torch.randn(5, device=d),
        lambda d: torch.randint(0, 99, (5,), device=d),
        lambda d: torch.randperm(7, device=d),
        lambda d: torch.empty(5, device=d).uniform_(2, 3),
        lambda d: torch.bernoulli(torch.full((9,), 0.3, device=d)),
    ):
        torch.manual_seed(3)
        expected = draw("cpu")
        torch.manual_seed(3)
        same("first draw", expected, draw("npu"))
    torch.manual_seed(3)
    a, b = torch.rand(4, device="npu"), torch.rand(4, device="npu")
    assert not torch.equal(a, b)
    state = torch.npu.get_rng_state()
    c = torch.rand(4, device="npu")
    torch.npu.set_rng_state(state)
    assert torch.equal(c, torch.rand(4, device="npu"))
    before = torch.get_rng_state()
    x = torch.ones(10000, device="npu", requires_grad=True)
    y = functional.dropout(x, 0.25)
    y.sum().backward()
    assert torch.equal(before, torch.get_rng_state()), "dropout on the card moved the CPU's generator"
    assert abs((y == 0).float().mean().item() - 0.25) < 0.02 and torch.equal(x.grad, y.detach())


def lists():
    xs, ns = zip(*[pair(3, seed=s) for s in range(4)], strict=True)
    same("foreach add", torch._foreach_add(xs, 2.0)[3], torch._foreach_add(ns, 2.0)[3])
    same("foreach norm", torch._foreach_norm(xs)[1], torch._foreach_norm(ns)[1])
    xs, ns = [x.clone() for x in xs], [n.clone() for n in ns]
    torch._foreach_addcdiv_(xs, xs, [x.abs() + 1 for x in xs], value=0.5)
    torch._foreach_addcdiv_(ns, ns, [n.abs() + 1 for n in ns], value=0.5)
    same("foreach addcdiv_", xs[2], ns[2])
    found, inverse = torch.zeros(1, device="npu"), torch.full((1,), 0.5, device="npu")
    grads = [n.clone() for n in ns]
    torch._amp_foreach_non_finite_check_and_unscale_(grads, found, inverse)
    same("unscale", xs[0] * 0.5, grads[0])
    assert found.item() == 0
    grads[1][0] = float("inf")
    torch._amp_foreach_non_finite_check_and_unscale_(grads, found, inverse)
    assert found.item() == 1


def with_gradients(what, expected, got, inputs, tolerance=2e-6):
    """Compare a result and the gradients of all inputs; `inputs` are CPU tensors."""
    cpu = [i.clone().requires_grad_() for i in inputs]
    npu = [i.npu().requires_grad_() for i in inputs]
    a, b = expected(*cpu), got(*npu)
    same(what, a.detach(), b.detach(), tolerance)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(5)).to(a.dtype)
    (a * weight).sum().backward()
    (b * weight.npu()).sum().backward()
    for i, (c, n) in enumerate(zip(cpu, npu, strict=True)):
        same(f"{what}, gradient {i}", c.grad, n.grad, tolerance)


def rms(x, gamma):
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gamma


def swiglu(x):
    return functional.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]


def rotary(x, cos, sin):
    return x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin


HEADS, SCALE = 4, 8**-0.5
LAYOUTS = {
    "BNSD": lambda t: t,
    "BSND": lambda t: t.transpose(1, 2),
    "BSH": lambda t: t.transpose(1, 2).flatten(2),
    "SBH": lambda t: t.permute(2, 0, 1, 3).flatten(2),
}
"""From batch, heads, sequence, depth."""


def causal(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend(q, k, v, layout="BNSD", **options):
    q, k, v = (LAYOUTS[layout](t).contiguous() for t in (q, k, v))
    return torch_npu.npu_fusion_attention(q, k, v, HEADS, layout, scale=SCALE, **options)[0]


def fused():
    x, _ = pair(2, 5, 8)
    gamma, _ = pair(8, seed=1)
    with_gradients("npu_rms_norm", rms, lambda x, g: torch_npu.npu_rms_norm(x, g, 1e-6)[0], [x, gamma])
    with_gradients("npu_swiglu", swiglu, torch_npu.npu_swiglu, [x])
    with_gradients("npu_silu", functional.silu, torch_npu.npu_silu, [x])
    q, _ = pair(2, HEADS, 6, 8, seed=2)
    cos, _ = pair(1, 1, 6, 8, seed=3)
    sin, _ = pair(1, 1, 6, 8, seed=4)
    with_gradients("npu_rotary_mul", rotary, torch_npu.npu_rotary_mul, [q, cos, sin], 1e-5)


def attention():
    q, _ = pair(2, HEADS, 6, 8, seed=2)
    k, _ = pair(2, 2, 6, 8, seed=6)  # two heads share a key
    v, _ = pair(2, 2, 6, 8, seed=7)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for layout, to in LAYOUTS.items():
        with_gradients(
            f"npu_fusion_attention {layout}",
            lambda q, k, v, to=to: to(causal(q, k, v)),
            lambda q, k, v, layout=layout: attend(q, k, v, layout, atten_mask=hidden.npu()),
            [q, k, v],
            1e-5,
        )
    triangle = torch.ones(2048, 2048, dtype=torch.bool).triu(1).npu()
    for mode in (2, 3):
        with_gradients(
            f"npu_fusion_attention sparse_mode {mode}",
            causal,
            lambda q, k, v, mode=mode: attend(q, k, v, atten_mask=triangle, sparse_mode=mode),
            [q, k, v],
            1e-5,
        )
    for is_causal, mask in ((True, None), (False, None), (False, ~hidden)):

        def sdpa(q, is_causal=is_causal, mask=mask):
            mask = mask if mask is None else mask.to(q.device)
            return functional.scaled_dot_product_attention(q, q, q, attn_mask=mask, is_causal=is_causal)

        with_gradients(
            f"scaled_dot_product_attention causal={is_causal} mask={mask is not None}", sdpa, sdpa, [q], 1e-5
        )

    t = q.npu().requires_grad_()
    ones = torch.ones_like(t).requires_grad_()
    first, second = (attend(t, t, ones, keep_prob=0.5) for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    same(
        "attention dropout: the backward draws what the forward drew", first.sum().detach().cpu(), ones.grad.sum(), 1e-4
    )


def main():
    for part in (strides, outputs, random, lists, fused, attention):
        part()
    print("operators agree")


if __name__ == "__main__":
    main()
