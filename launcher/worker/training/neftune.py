"""NEFTune (arXiv 2310.05914): noise on the embeddings of a training, the same however its rows are shared out.

transformers draws one noise for a padded batch from the rank's random numbers, and scales it by the batch's width: the result
depends on the ranks, on the micro batch and on the padding. Here a row's noise follows from the seed, the step and the row's
tokens, and is scaled by the row's own length, as the paper has it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Row:
    """Where a row lies in a batch, and a number for its tokens."""

    sequence: int
    tokens: slice
    key: int


class Noise:
    """Adds noise of up to alpha / sqrt(length x width) to what a training's input embedding gives."""

    def __init__(self, embedding: torch.nn.Module, alpha: float, seed: int, step: Callable[[], int]) -> None:
        """
        Args:
            embedding: the model's, to which a hook is added.
            alpha: neftune_noise_alpha.
            seed: of the whole run.
            step: the number of the step that is under way.
        """
        self._alpha, self._seed, self._step = alpha, seed, step
        self._rows: list[_Row] = []
        embedding.register_forward_hook(self._add)

    def take(self, batch: Mapping[str, Tensor]) -> None:
        """The batch that goes through the model next, before it is on the device."""
        self._rows = list(_rows(batch))

    def _add(self, module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training or not self._rows:
            return output
        noise = torch.zeros_like(output)
        generator = torch.Generator(output.device)
        for row in self._rows:
            place = noise[row.sequence, row.tokens]
            generator.manual_seed(zlib.crc32(f"{self._seed} {self._step()} {row.key}".encode()))
            size = self._alpha / place.numel() ** 0.5
            place.copy_(torch.rand(place.shape, generator=generator, device=output.device) * (2 * size) - size)
        return output + noise


def _rows(batch: Mapping[str, Tensor]) -> Iterator[_Row]:
    """A row is a run of tokens that the mask has; in packs positions begin anew with each."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    places = batch.get("position_ids")
    for sequence, (tokens, used) in enumerate(zip(ids, mask.bool(), strict=True)):
        held = used.nonzero().flatten()
        starts = held[:1] if places is None else held[places[sequence, held] == 0]
        end = int(held[-1]) + 1 if len(held) else 0
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), end], strict=True):
            key = zlib.crc32(tokens[start:stop].contiguous().numpy().tobytes())
            yield _Row(sequence, slice(start, stop), key)
