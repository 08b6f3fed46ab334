"""The loss of a causal language model over some of its positions, without logits of the others.

A vocabulary of 150,000 makes the logits of 2,048 tokens the largest tensor of a training by far, and of a conversation only
the answers are trained. So hidden states of the positions that are looked at are taken before the projection, and projected
in chunks.

The projection runs within the model's own forward, in the place of its last layer: there ZeRO-3 and FSDP2 have gathered
its weight, and a tied embedding, an adapter or a hook is what the model makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from launcher.models.chunks import chunk_rows

_MARK = 64.0
"""What the place of the logits is filled with: not 0, which scaling and capping leave as it is; exact in every type."""


class Scored(NamedTuple):
    """Of each position: its loss, fp32, and whether the token with the highest logit is its target."""

    losses: Tensor
    is_correct: Tensor


@dataclass
class _Asked:
    """What the last layer is to do in the forward pass that is running."""

    positions: Tensor
    answer: Callable[[Tensor], Any] | None
    """Of these positions' hidden states; None where logits are wanted."""
    has_gradient: bool = False
    result: Any = None
    was_called: bool = False


class Projection:
    """A model's last layer, which can answer with losses in place of logits."""

    def __init__(
        self,
        head: nn.Module,
        *,
        recomputes: bool = False,
        in_one_piece: bool = False,
        total: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Takes the layer's `forward` over; without a question it is what it was.

        Args:
            head: what makes logits of hidden states.
            recomputes: whether logits are made again in the backward pass, instead of gradients in the forward pass. In
                fp16 they must be: gradients that are not scaled up vanish in it.
            in_one_piece: whether a layer that consists of several (one with an adapter) is called once only, since each
                call gathers its weights and ranks have to gather equally often.
            total: of fp32 logits and targets, the sum of another loss than the cross entropy; logits are made again then.
        """
        self._head, self._plain = head, head.forward
        self._recomputes, self._in_one_piece = recomputes or total is not None, in_one_piece
        self._total = total
        self._asked: _Asked | None = None
        self._follows: bool | None = None
        """Whether the model leaves logits as they are, so that they need not be there; None before the first look."""
        head.forward = self._forward

    @property
    def vocabulary(self) -> int:
        return int(self._head.out_features)  # of adapters too

    def loss(self, call: Callable[[], Any], positions: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The sum of cross entropies, or of what the constructor was given, fp32, a scalar.

        Args:
            call: runs the model, whatever is wrapped around it, and returns its output.
            positions: (n,) of the flattened (rows, length) hidden states, each once.
            targets: (n,) the tokens that these positions predict.
        """
        if not self.is_last_word(call, positions):
            return self._sum(self._logits(call, positions), targets, smoothing)
        asked = _Asked(positions, lambda rows: self._loss(rows, targets, smoothing), has_gradient=True)
        output = self._ask(call, asked)
        # Engines hang what they do in the backward pass on the model's output.
        loss: Tensor = asked.result + 0.0 * output.logits.sum()
        return loss

    @torch.no_grad()
    def score(self, call: Callable[[], Any], positions: Tensor, targets: Tensor) -> Scored:
        """Of each of the positions; see `loss`."""
        if not self.is_last_word(call, positions):
            return _scored(self._logits(call, positions).float(), targets)
        asked = _Asked(positions, lambda rows: self._scores(rows, targets))
        self._ask(call, asked)
        scored: Scored = asked.result
        return scored

    @torch.no_grad()
    def hidden(self, call: Callable[[], Any], positions: Tensor) -> Tensor:
        """(n, hidden size): what is projected at these positions."""
        asked = _Asked(positions, lambda rows: rows)
        self._ask(call, asked)
        rows: Tensor = asked.result
        return rows

    @torch.no_grad()
    def is_last_word(self, call: Callable[[], Any], positions: Tensor) -> bool:
        """Whether the model leaves the projection's logits as they are. Some scale or cap them, and need them to be there.

        A forward pass of its own answers it, once, which every rank takes. Ask before the first step, in evaluation mode: in
        training one would draw from the random numbers, at another step in a resumed run than in a whole one.
        """
        if self._follows is None:
            output = self._ask(call, _Asked(positions, lambda rows: rows))
            self._follows = bool((output.logits == _MARK).all())
        return self._follows

    def _logits(self, call: Callable[[], Any], positions: Tensor) -> Tensor:
        logits: Tensor = self._ask(call, _Asked(positions, None)).logits
        return logits.reshape(-1, logits.shape[-1])

    def _ask(self, call: Callable[[], Any], asked: _Asked) -> Any:
        self._asked = asked
        try:
            output = call()
        finally:
            self._asked = None
        if not asked.was_called:
            raise RuntimeError(f"{type(self._head).__name__} makes this model's logits, and was not called")
        return output

    def _forward(self, hidden: Tensor, *args: Any, **options: Any) -> Any:
        asked = self._asked
        if asked is None:
            return self._plain(hidden, *args, **options)
        asked.was_called = True
        rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, asked.positions)
        if asked.answer is None:
            return self._plain(rows[None])
        asked.result = asked.answer(rows)
        if not asked.has_gradient:
            return hidden.new_full((1, 1, 1), _MARK)
        asked.result, place = _Both.apply(asked.result)
        return place

    def _scores(self, rows: Tensor, targets: Tensor) -> Scored:
        scored = [_scored(self._plain(part[None])[0].float(), wanted) for part, wanted in self._chunks(rows, targets)]
        return Scored(*map(torch.cat, zip(*scored, strict=True)))

    def _loss(self, rows: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        if _is_plain(self._head) and not self._recomputes:
            loss: Tensor = _Ahead.apply(rows, self._head.weight, self._head.bias, targets, smoothing)
            return loss
        chunks = self._chunks(rows, targets)
        if len(chunks) == 1:
            return self._chunk_loss(rows, targets, smoothing)
        losses = [checkpoint(self._chunk_loss, *chunk, smoothing, use_reentrant=False) for chunk in chunks]
        return torch.stack(losses).sum()

    def _chunk_loss(self, rows: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return self._sum(self._plain(rows[None])[0], targets, smoothing)

    def _sum(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        if self._total is None:
            return _cross_entropy(logits, targets, smoothing)
        return self._total(logits.float(), targets) if len(targets) else logits.float().sum()

    def _chunks(self, rows: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        if self._in_one_piece and not _is_plain(self._head):
            return [(rows, targets)]
        size = chunk_rows(self.vocabulary)
        return list(zip(rows.split(size), targets.split(size), strict=True))


def _is_plain(head: nn.Module) -> bool:
    """Whether it is a matrix product, and nothing else."""
    return type(head).forward is nn.Linear.forward and not any(True for _ in head.children())


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)


def _scored(logits: Tensor, targets: Tensor) -> Scored:
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return Scored(losses, logits.argmax(-1) == targets)


class _Both(torch.autograd.Function):
    """A loss, and what stands in the place of the logits; the backward pass comes to the loss after both."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> tuple[Tensor, Tensor]:
        return loss.clone(), loss.new_full((1, 1, 1), _MARK)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Ahead(torch.autograd.Function):
    """The summed cross entropy of a matrix product, whose gradients are made along with it, chunk by chunk.

    Logits are made once and overwritten by their gradient, so that neither is kept and nothing is computed twice. The
    gradient of a sum is that of the loss times one number, which the backward pass knows.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float
    ) -> Tensor:
        kind = rows.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wants = ctx.needs_input_grad[:3]
        ctx.dtypes = rows.dtype, weight.dtype
        with torch.autocast(kind, enabled=False):
            loss, gradients = _chunked(
                rows.to(low), weight.to(low), None if bias is None else bias.to(low), targets, smoothing, wants
            )
        # Not saved_tensors: the one reference to each is given away, so that no copy becomes the parameter's gradient.
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = upstream[0]
        types = (ctx.dtypes[0], ctx.dtypes[1], ctx.dtypes[1])
        given = [
            ctx.gradients.pop(0).mul_(factor).to(dtype) if wants else None
            for dtype, wants in zip(types, ctx.needs_input_grad, strict=False)
        ]
        return (*given, None, None)


def _chunked(
    rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float, wants: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients by rows, weight and bias, those that are wanted.

    A weight's gradient is summed over chunks in fp32, as one product would sum it inside.
    """
    size = chunk_rows(len(weight))
    by_rows = torch.empty_like(rows) if wants[0] else None
    is_one = len(rows) <= size
    by_weight = torch.zeros_like(weight, dtype=torch.float32) if wants[1] and not is_one else None
    by_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if wants[2] else None
    loss = torch.zeros((), dtype=torch.float32, device=rows.device)
    for part, wanted, at in zip(rows.split(size), targets.split(size), range(0, max(1, len(rows)), size), strict=True):
        logits = functional.linear(part, weight, bias).float()
        loss += _to_gradient(logits, wanted, smoothing)
        gradient = logits.to(weight.dtype)
        if by_rows is not None:
            torch.mm(gradient, weight, out=by_rows[at : at + len(part)])
        if by_bias is not None:
            by_bias += logits.sum(0)
        del logits
        if by_weight is not None:
            if by_weight.dtype == gradient.dtype:
                by_weight.addmm_(gradient.t(), part)
            else:
                by_weight += gradient.t() @ part
        elif wants[1]:
            by_weight = gradient.t() @ part
        del gradient  # before the next chunk's logits
    return loss, [gradient for gradient in (by_rows, by_weight, by_bias) if gradient is not None]


def _to_gradient(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The summed cross entropy; `logits`, fp32, become its gradient in place."""
    at = targets[:, None]
    logits -= logits.amax(-1, keepdim=True)
    picked = logits.gather(-1, at)
    mean = logits.mean(-1, keepdim=True) if smoothing else picked
    total = logits.exp_().sum(-1, keepdim=True)
    log_total = total.log()
    losses = log_total - (1 - smoothing) * picked - smoothing * mean
    logits /= total
    if smoothing:
        logits -= smoothing / logits.shape[-1]
    logits.scatter_add_(-1, at, torch.full_like(picked, smoothing - 1))
    return losses.sum()
