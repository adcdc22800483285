"""Class-balanced, seeded splits."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from rcnas_env.validation import require_integer

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

    Raises:
        ValueError: count is out of range.
    """
    require_integer("count (of images to take)", count, 0, len(labels))
    order, rank = _shuffled_ranks(labels, seed)
    # round-robin over the classes: everybody's first image, then everybody's second, …
    by_round = torch.argsort(rank, stable=True)
    taken = order[by_round[:count]].sort().values
    rest = order[by_round[count:]].sort().values
    return taken, rest


def share_of_class(count: int, one_in: int) -> int:
    """How many images of a class of `count` make up one in `one_in`: rounded down, but at least 1."""
    return max(1, count // one_in)


def take_share(labels: Tensor, one_in: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose one in `one_in` indices of each class, whatever its size: `share_of_class` of each.

    Args:
        labels: int64 (N,), each class at least twice if each is to have a rest.
        one_in: at least 1.
        seed: of the shuffle.

    Returns:
        (taken, rest): int64 index tensors, sorted, disjoint, together 0 … N−1.
    """
    order, rank = _shuffled_ranks(labels, seed)
    shares = {label: share_of_class(count, one_in) for label, count in Counter(labels.tolist()).items()}
    share = torch.tensor([shares[label] for label in labels[order].tolist()], dtype=torch.int64)
    return order[rank < share].sort().values, order[rank >= share].sort().values


def _shuffled_ranks(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(order, rank): a random order of all indices, and which of its class each is in that order, from 0."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = (shuffled == label).nonzero().flatten()
        rank[members] = torch.arange(len(members))
    return order, rank
