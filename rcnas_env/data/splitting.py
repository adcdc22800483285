"""Class-balanced, seeded splits."""

from __future__ import annotations

import torch
from torch import Tensor

SPLIT_SEED = 20241
"""One fixed seed for all splits: which images are held out is part of the task, not of a run."""


def take_per_class(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `count` indices with class counts that differ by at most one where the classes allow it.

    Args:
        labels: int64 (N,).
        count: how many to take, from 0 to N.
        seed: of the shuffle.

    Returns:
        (taken, rest): int64 index tensors, sorted, disjoint, together 0 … N−1.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = (shuffled == label).nonzero().flatten()
        rank[members] = torch.arange(len(members))
    # round-robin over the classes: everybody's first image, then everybody's second, …
    by_round = torch.argsort(rank, stable=True)
    taken = order[by_round[:count]].sort().values
    rest = order[by_round[count:]].sort().values
    return taken, rest
