"""Masks over a layer's weights: the learnt one, which keeps the largest importance scores, and the fixed one.

Both are parametrisations of torch.nn.utils.parametrize, weight → weight ⊙ mask, so that a network with masks is
called, trained and attacked as any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FAN_GAIN = 6.0
"""Numerator of the scale of initial scores (HYDRA's published code), as in He et al.'s uniform initialisation."""

LARGEST_START = 0.99
"""Largest σ(r) that a learnt share starts from (HARP's published code), where the sigmoid still has a slope."""


def initial_scores(weight: Tensor) -> Tensor:
    """HYDRA's scaled initialisation: √(6 / fan-in) · w / max |w|, of the shape of `weight` (output first).

    The ranking by |score| is that by |w| at first, so that an unlearnt mask is that of magnitude pruning. A weight
    that is zero everywhere gives zeros.
    """
    fan_in = weight[0].numel()
    return math.sqrt(FAN_GAIN / fan_in) * weight / weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)


def top_mask(scores: Tensor, count: int | Tensor) -> Tensor:
    """1 where |score| is among the `count` largest of the layer, else 0; of the shape and type of `scores`.

    Exactly `count` ones: among equal scores the first come first, on every device. `count` may be a scalar tensor
    on the scores' device, which spares a transfer.
    """
    flat = scores.detach().abs().flatten()
    order = torch.argsort(flat, descending=True, stable=True)
    kept = (torch.arange(len(flat), device=flat.device) < count).to(scores.dtype)
    return torch.zeros_like(flat).scatter_(0, order, kept).view(scores.shape)


class ScoredMask(nn.Module):
    """weight → weight ⊙ mask with learnable importance scores s, of the shape of the weight.

        mask_i = 1 if |s_i| is among the round(keep · n) largest of the layer's n, at least one; else 0

    The gradient passes straight through the ranking, ∂mask_i/∂|s_i| := 1 (Sehwag et al. 2020), so that
    ∂L/∂s_i = g_i w_i sign(s_i) with g the gradient at the masked weight.

    Args:
        weight: the layer's, which the scores are initialised from.
        keep: share of the weights kept, in (0, 1].
    """

    def __init__(self, weight: Tensor, keep: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(initial_scores(weight.detach()))
        self.keep = keep

    def count(self) -> int | Tensor:
        """How many weights are kept now."""
        return max(1, round(self.keep * self.scores.numel()))

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, of the shape of `weight`."""
        return weight * (top_mask(self.scores, self.count()) + _straight_through(self.scores.abs()))


class RatedMask(ScoredMask):
    """HARP's mask, whose share kept is learnt as well: k = k_min + (1 − k_min) σ(r) with the learnable logit r.

    The gradient passes straight through to the share too, ∂mask_i/∂k := 1 (Zhao & Wressnegger 2023), so that
    ∂L/∂k = Σ_i g_i w_i.

    Args:
        weight: the layer's, which the scores are initialised from.
        start: the first share, in (0, 1].
        floor: k_min, in [0, start).
    """

    def __init__(self, weight: Tensor, start: float, floor: float) -> None:
        super().__init__(weight, start)
        self.floor = floor
        position = min((start - floor) / (1 - floor), LARGEST_START)
        self.rate_logit = nn.Parameter(weight.new_tensor(math.log(position / (1 - position))))

    def rate(self) -> Tensor:
        """The share k kept, a scalar in (k_min, 1)."""
        return self.floor + (1 - self.floor) * torch.sigmoid(self.rate_logit)

    def count(self) -> Tensor:
        """How many weights are kept now, a scalar on the scores' device."""
        return (self.rate().detach() * self.scores.numel()).round().clamp(min=1)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, of the shape of `weight`."""
        return super().forward(weight) + weight * _straight_through(self.rate())


def _straight_through(value: Tensor) -> Tensor:
    """Zeros of the shape of `value` (finite) whose gradient goes to `value` as it is."""
    return value - value.detach()


class FixedMask(nn.Module):
    """weight → weight ⊙ mask with a mask that is no parameter: fine-tuning moves the surviving weights alone."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, of the shape of `weight`."""
        return weight * self.mask
