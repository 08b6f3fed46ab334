"""Rows in one sequence train as rows by themselves; the loss of chosen tokens is the plain one, without the others' logits."""

from __future__ import annotations

import random
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.models import chunks
from launcher.worker.batching.packing import Packed, packs
from launcher.worker.batching.splits import lengths
from launcher.worker.tasks.projection import Projection
from launcher.worker.tasks.sequences import batch_of
from launcher.worker.tasks.sft import Sft
from launcher.worker.training.neftune import Noise

HIDDEN, VOCABULARY = 16, 97
ROWS: list[dict[str, Any]] = [
    {"input_ids": [3, 9, 4, 8, 5], "trained": [0, 0, 1, 0, 1]},
    {"input_ids": [7, 6, 11], "trained": [0, 1, 1]},
    {"input_ids": [2, 13, 14, 15, 16, 17, 18], "trained": [0, 1, 0, 0, 1, 1, 1]},
    {"input_ids": [21, 22, 23, 24], "trained": [0, 0, 0, 1]},
]


def test_best_fit_decreasing_by_hand():
    """The longest row that is left goes where the least room stays; one that is too long goes alone."""
    assert [[5], [0, 3], [1, 2, 4]] == packs([6, 5, 3, 4, 2, 12], 10)


def test_packs_hold_each_row_once_and_are_nearly_full():
    """Of 5,000 rows of real spread none is lost or twice, none exceeds the length, and under 1 % is padding."""
    draw = random.Random(1)
    size = [min(2048, max(3, int(draw.lognormvariate(5.3, 0.9)))) for _ in range(5000)]
    made = packs(size, 2048)

    assert list(range(5000)) == sorted(row for pack in made for row in pack)
    assert max(sum(size[row] for row in pack) for pack in made) <= 2048
    assert sum(size) > 0.99 * 2048 * (len(made) - 1)
    assert made == packs(np.array(size), 2048)


def test_a_pack_is_its_rows():
    """A packed data set has a list of rows for each pack, and their tokens as its length."""
    rows = types.SimpleNamespace(__getitems__=lambda numbers: [ROWS[i] for i in numbers])
    packed = Packed(rows, [[2, 0], [3, 1]], np.array([5, 3, 7, 4]))  # type: ignore[arg-type]

    assert [[ROWS[3], ROWS[1]], [ROWS[2], ROWS[0]]] == packed.__getitems__([1, 0])
    assert [ROWS[2], ROWS[0]] == packed[0]
    assert [12, 7] == lengths(packed).tolist()


@pytest.mark.parametrize("flat", [False, True])
def test_where_a_token_is_predicted(flat):
    """Packs, padded or in one sequence: each trained token is predicted one place before it, positions begin anew with each
    row, and every target has its row's number."""
    batch = batch_of([[ROWS[0], ROWS[1]], [ROWS[3]]], 0, 4, flat=flat)
    ids = batch["input_ids"].flatten()

    assert ((1, 12) if flat else (2, 8)) == batch["input_ids"].shape
    assert [4, 5, 6, 11, 24] == batch["targets"].tolist() == ids[batch["sources"] + 1].tolist()
    assert [9, 8, 7, 6, 23] == ids[batch["sources"]].tolist()
    assert [0, 0, 1, 1, 2] == batch["owners"].tolist()
    assert [5, 3, 4] == batch["row_lengths"].tolist()
    assert [0, 1, 2, 3, 4, 0, 1, 2] == batch["position_ids"][0, :8].tolist()
    assert [0, 1, 2, 3] == batch["position_ids"].flatten()[8:12].tolist()
    assert 12 == batch["attention_mask"].sum()


def test_rows_by_themselves_need_no_positions():
    """A padded batch is causal: neither mask nor positions are needed, and the kernel for that case is taken."""
    assert "position_ids" not in batch_of([[row] for row in ROWS], 0, 1, flat=False)


class Model(nn.Module):
    """Hidden states and a projection of them, which may be scaled afterwards."""

    def __init__(self, *, bias: bool, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.scale = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, VOCABULARY, bias=bias), scale

    def forward(self, states: torch.Tensor) -> Any:
        logits = self.head(self.body(states))
        return types.SimpleNamespace(logits=logits if self.scale == 1 else torch.tanh(logits * self.scale))

    def gradients(self) -> list[torch.Tensor]:
        made = [p.grad for p in self.parameters() if p.grad is not None]
        self.zero_grad(set_to_none=True)
        return made


STATES = torch.randn(2, 11, HIDDEN, generator=torch.Generator().manual_seed(1))
POSITIONS = torch.tensor([0, 3, 5, 9, 12, 20, 21])
TARGETS = torch.tensor([5, 5, 96, 0, 33, 41, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_loss_is_the_plain_one(monkeypatch, smoothing, bias, scale, recomputes, rows):
    """Loss and gradients of all logits, in fp32 within 1e-6 of the largest, whatever the chunk; with the model's own scaling
    and capping of logits too."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", rows * VOCABULARY)
    monkeypatch.setattr(chunks, "MIN_ROWS", 1)
    model = Model(bias=bias, scale=scale)
    plain = functional.cross_entropy(
        model(STATES).logits.flatten(0, 1)[POSITIONS], TARGETS, reduction="sum", label_smoothing=smoothing
    )
    (plain / 7).backward()
    expected = model.gradients()

    loss = Projection(model.head, recomputes=recomputes).loss(lambda: model(STATES), POSITIONS, TARGETS, smoothing)
    (loss / 7).backward()

    assert plain.item() == pytest.approx(loss.item(), rel=1e-6)
    for one, other in zip(expected, model.gradients(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6 * float(one.abs().max()))


def test_scores_are_those_of_all_logits():
    """Each position's loss, and whether the highest logit is the target's."""
    model = Model(bias=True)
    logits = model(STATES).logits.flatten(0, 1)[POSITIONS]
    best = logits.argmax(-1)
    targets = torch.where(torch.arange(7) < 3, best, TARGETS)

    scored = Projection(model.head).score(lambda: model(STATES), POSITIONS, targets)

    torch.testing.assert_close(scored.losses, functional.cross_entropy(logits, targets, reduction="none"))
    assert (best == targets).tolist() == scored.is_correct.tolist()


def test_no_tensor_is_as_large_as_all_logits(monkeypatch):
    """Of 22 positions, 7 of them trained, in chunks of 3: nothing has more elements than 3 rows of logits or the weight."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 3 * VOCABULARY)
    monkeypatch.setattr(chunks, "MIN_ROWS", 1)
    model = Model(bias=False)
    with Largest() as largest:
        Projection(model.head).loss(lambda: model(STATES), POSITIONS, TARGETS).backward()

    assert VOCABULARY * HIDDEN == largest.elements


class Largest(TorchDispatchMode):
    """The most elements that any operation's result had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, list | tuple) else [out]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return out


class Alive(TorchDispatchMode):
    """The most results of one size that were there at once."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.alive, self.most = elements, set[int](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() == self.elements:
            storage = out.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive.add(storage._cdata)
                weakref.finalize(storage, self.alive.discard, storage._cdata)
            self.most = max(self.most, len(self.alive))
        return out


def test_one_chunk_of_logits_is_there_at_once(monkeypatch):
    """In fp32 they become their gradient in place, which is gone before the next chunk."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 3 * VOCABULARY)
    monkeypatch.setattr(chunks, "MIN_ROWS", 1)
    model = Model(bias=False)
    with Alive(3 * VOCABULARY) as alive:
        Projection(model.head).loss(lambda: model(STATES), POSITIONS, TARGETS)

    assert 1 == alive.most


def test_a_batch_without_a_trained_token_has_no_loss():
    """Its loss is 0, and its gradients are zeros, since others wait for them."""
    model = Model(bias=False)
    none = torch.zeros(0, dtype=torch.long)
    loss = Projection(model.head).loss(lambda: model(STATES), none, none)
    loss.backward()

    assert 0 == loss.item()
    assert all((gradient == 0).all() for gradient in model.gradients())


def llama(**more: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **more))


def other(kind: str, **more: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
        config = AutoConfig.for_model(kind, **sizes, **heads, **more)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")

    return make


def checkpointed() -> nn.Module:
    model = llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    return model


OTHERS = {
    "eager": lambda: llama(attn_implementation="eager"),
    "tied": lambda: llama(tie_word_embeddings=True),
    "checkpointed": checkpointed,
    "gemma2 (capped)": other("gemma2"),
    "cohere (scaled)": other("cohere"),
    "qwen3 with experts": other("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "mistral with windows": other("mistral", sliding_window=4),
}


@pytest.mark.parametrize("make", [llama, *(pytest.param(m, marks=pytest.mark.slow, id=k) for k, m in OTHERS.items())])
def test_packed_and_padded_train_the_same(make):
    """Packed, padded, and each row alone through the model as it comes: one loss (1e-5 relative) and one gradient, in fp32."""
    model = make()
    model.train()
    total = sum(
        functional.cross_entropy(
            model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1],
            torch.tensor(
                [token if use else -100 for token, use in zip(row["input_ids"], row["trained"], strict=True)][1:]
            ),
            reduction="sum",
        )
        for row in ROWS
    )
    total.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    task = Sft(Projection(model.get_output_embeddings()), 0, 4)

    for rows in (ROWS, [[ROWS[2], ROWS[0]], [ROWS[3], ROWS[1]]]):
        model.zero_grad(set_to_none=True)
        batch = task.collate(rows)
        loss = task.losses(model, batch)
        loss.backward()
        assert 9 == task.count(batch)
        assert total.item() == pytest.approx(loss.item(), rel=1e-5)
        for name, p in model.named_parameters():
            size = float(expected[name].abs().max())
            torch.testing.assert_close(p.grad, expected[name], rtol=0, atol=1e-5 * size, msg=name)


def test_an_evaluation_counts_by_row():
    """Of each row: its correct tokens, its loss in float64, and its trained tokens; the same in another batch."""
    model = llama().eval()
    task = Sft(Projection(model.get_output_embeddings()), 0, 1)
    whole = task.evaluate(model, task.collate(ROWS))
    alone = [task.evaluate(model, task.collate([row])) for row in ROWS]

    assert [2, 2, 4, 1] == whole.counts.tolist()
    assert torch.float64 == whole.losses.dtype
    torch.testing.assert_close(whole.losses, torch.cat([one.losses for one in alone]), rtol=1e-6, atol=0)
    assert whole.columns["correct"].tolist() == [one.columns["correct"].item() for one in alone]


def checks(model: nn.Module) -> None:
    task = Sft(Projection(model.get_output_embeddings()), 0, 1, packs_rows=True)  # type: ignore[operator]
    task.check(model, torch.device("cpu"))


def test_a_model_that_keeps_rows_apart_may_be_packed():
    """A Llama's rows see nothing of each other."""
    checks(llama())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bloom", "jamba", "gpt_oss"])
def test_a_model_that_mixes_rows_is_not_packed(kind):
    """Attention that knows no blocks, a recurrent state, positions that go on: each is refused, by its hidden states."""
    from launcher.errors import LaunchError

    more = {"num_local_experts": 4} if kind == "gpt_oss" else {}
    with pytest.raises(LaunchError, match="rows that share a sequence change each other"):
        checks(other(kind, **more)())


def noisy(packs: list[list[dict[str, Any]]], step: int = 3) -> list[torch.Tensor]:
    """The noise of each row of ROWS that a batch has."""
    embedding = nn.Embedding(VOCABULARY, HIDDEN)
    plain = embedding.weight.detach()
    noise = Noise(embedding, 5.0, seed=42, step=lambda: step)
    batch = batch_of(packs, 0, 8, flat=False)
    noise.take(batch)
    states = (embedding(batch["input_ids"]) - plain[batch["input_ids"]]).detach()
    found = {}
    for sequence, rows in enumerate(packs):
        start = 0
        for row in rows:
            end = start + len(row["input_ids"])
            found[ROWS.index(row)] = states[sequence, start:end]
            start = end
        assert not states[sequence, start:].any()
    return [found[number] for number in sorted(found)]


def test_neftunes_noise_is_a_rows_own():
    """The same in a pack and padded, whatever is beside it; within alpha / sqrt(its length x width); another in each step."""
    padded, packed = noisy([[row] for row in ROWS]), noisy([[ROWS[2], ROWS[0]], [ROWS[3], ROWS[1]]])

    for row, one, other in zip(ROWS, padded, packed, strict=True):
        bound = 5.0 / (len(row["input_ids"]) * HIDDEN) ** 0.5
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert 0.8 * bound < one.abs().max() <= bound + 1e-6
        assert abs(one.mean()) < bound / 4
    assert not torch.allclose(padded[0], noisy([[ROWS[0]]], step=4)[0])
