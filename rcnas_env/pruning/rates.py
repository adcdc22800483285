"""How many weights each layer keeps: HARP's hardware loss, and the whole numbers that shares come down to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rcnas_env.pruning.mask import RatedMask

GAMMA = 0.01
"""Weight of the hardware loss in the first epoch, and what each further epoch adds to it (HARP, CIFAR-10 and SVHN)."""

REACHED = 0.5e-4
"""The hardware loss below which its weight grows no more (HARP's published code: it rounds to 0 at four digits)."""

_SHIFT_BOUND = 60.0
_BISECTIONS = 100


class HardwareLoss:
    """HARP's second term, γ_t · max(0, Σ_l k_l n_l / (K Σ_l n_l) − 1), with K the share aimed at.

    γ_t = 0.01 · t in the t-th epoch, until the loss is reached (is 0) at an epoch's end: from then on γ_t stays.
    The step-wise growth favours accuracy first and size later.

    Call it once an optimizer step: it counts its calls to know the epoch.

    Args:
        masks: one a layer.
        keep: K, in (0, 1].
        steps_per_epoch: optimizer steps.
    """

    def __init__(self, masks: Sequence[RatedMask], keep: float, steps_per_epoch: int) -> None:
        self._masks, self._keep, self._steps_per_epoch = tuple(masks), keep, steps_per_epoch
        self._total = sum(mask.scores.numel() for mask in masks)
        self._calls, self._multiple, self._reached = 0, 1, False

    @property
    def gamma(self) -> float:
        """γ_t of the present epoch."""
        return GAMMA * self._multiple

    def excess(self) -> Tensor:
        """max(0, share kept / K − 1), a scalar with gradients to all shares."""
        kept = torch.stack([mask.scores.numel() * mask.rate() for mask in self._masks]).sum()
        return torch.clamp(kept / (self._keep * self._total) - 1.0, min=0.0)

    def __call__(self) -> Tensor:
        """The term of one optimizer step, a scalar."""
        excess = self.excess()
        if self._calls and self._calls % self._steps_per_epoch == 0 and not self._reached:
            self._reached = excess.item() < REACHED
            self._multiple += not self._reached
        self._calls += 1
        return self.gamma * excess


def uniform_counts(sizes: Sequence[int], keep: float) -> list[int]:
    """HYDRA's numbers of kept weights: round(keep · n) of each layer's n, at least one."""
    return [max(1, round(keep * size)) for size in sizes]


def learnt_counts(sizes: Sequence[int], logits: Sequence[float], floor: float, keep: float) -> list[int]:
    """HARP's numbers of kept weights, which add up to round(keep · Σ n), at least one a layer.

    The learnt shares k_l = k_min + (1 − k_min) σ(r_l) meet the share aimed at only nearly, and on the side of a
    hinge. To keep exactly that share, one and the same shift is added to all logits r_l, which keeps their order and
    the floor; the fractions that rounding down leaves go to the layers where they are largest. The published code
    takes the learnt shares as they are.

    Args:
        sizes: weights of each layer.
        logits: learnt r_l, finite.
        floor: k_min, the least share of a layer.
        keep: the share aimed at, in (0, 1].
    """
    total = max(round(keep * sum(sizes)), len(sizes))

    def wanted(shift: float) -> list[float]:
        """How many weights each layer would keep, not yet whole numbers, with all logits shifted by `shift`."""
        return [n * (floor + (1 - floor) * _sigmoid(logit + shift)) for n, logit in zip(sizes, logits, strict=True)]

    low, high = -_SHIFT_BOUND - max(logits), _SHIFT_BOUND - min(logits)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(wanted(middle)) < total else (low, middle)
    return _whole_numbers(wanted(high), sizes, total)


def _whole_numbers(wanted: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers near `wanted` that add up to `total`, each from 1 to the layer's size (largest remainders)."""
    counts = [min(max(1, math.floor(value)), size) for value, size in zip(wanted, sizes, strict=True)]
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        free = [i for i, n in enumerate(counts) if 1 <= n + step <= sizes[i]]
        free.sort(key=lambda i: step * (counts[i] - wanted[i]))
        for i in free[: abs(missing)]:
            counts[i] += step
    return counts


def _sigmoid(x: float) -> float:
    """1 / (1 + e^−x) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
