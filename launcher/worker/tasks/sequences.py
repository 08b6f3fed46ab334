"""Rows of tokens as one batch of sequences: a row each, several in a pack, or all of them one after the other.

Rows are padded on the right, where a causal model sees no padding from the tokens before it, so that no mask is needed.
In a pack positions begin anew with each row, by which transformers tells rows apart: for scaled_dot_product_attention and
eager attention it makes a mask of blocks, and the flash kernels get where each row begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]
FLASH = "flash_attention"
"""How transformers' kernels that take rows of any length in one sequence begin."""


def batch_of(packs: Sequence[Sequence[Row]], pad_id: int, multiple: int, *, flat: bool) -> dict[str, Tensor]:
    """Packs of rows (`input_ids`, `trained`) as tensors.

    Args:
        packs: the rows of each sequence.
        pad_id: what fills a sequence up.
        multiple: of which the length is one.
        flat: make one sequence of all.

    Returns:
        input_ids and attention_mask, (sequences, length); position_ids, where a sequence has several rows; and of each token
        that is to be predicted: `sources`, where it is predicted in the flattened ids; `targets`, the token; and `owners`,
        the number of its row in the batch. `row_lengths` are the rows' tokens.
    """
    sequences = [[row for pack in packs for row in pack]] if flat else packs
    sizes = [sum(len(row["input_ids"]) for row in rows) for rows in sequences]
    width = -(-max(sizes) // multiple) * multiple
    ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    places = torch.zeros((len(sequences), width), dtype=torch.long)
    sources, targets, owners = [], [], []
    numbers = itertools.count()
    for i, rows in enumerate(sequences):
        start = 0
        for row in rows:
            tokens = torch.as_tensor(row["input_ids"])
            end = start + len(tokens)
            ids[i, start:end] = tokens
            mask[i, start:end] = 1
            places[i, start:end] = torch.arange(len(tokens))
            trained = torch.as_tensor(row["trained"])[1:].nonzero().flatten()
            sources.append(i * width + start + trained)
            targets.append(tokens[trained + 1])
            owners.append(torch.full_like(trained, next(numbers)))
            start = end
        places[i, start:] = torch.arange(width - start)  # the padding is as a row of its own
    batch = {"input_ids": ids, "attention_mask": mask}
    if any(len(rows) > 1 for rows in sequences):
        batch["position_ids"] = places
    return batch | {
        "sources": torch.cat(sources),
        "targets": torch.cat(targets).long(),
        "owners": torch.cat(owners),
        "row_lengths": torch.tensor([len(row["input_ids"]) for rows in sequences for row in rows]),
    }
