"""Signs that a robust accuracy is not to be trusted, as AutoAttack's authors check for them (Croce and Hein 2020).

Each raises an `AttackWarning`, never an error: the figure is still the one that the attack measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from rcnas_env.attacks.gradient import input_gradient, margins

RANDOM_OUTPUT = 1e-4
"""Two forward passes of one model differ by less than this share of the logits' norm (AutoAttack's threshold)."""

PROBABILITY = 1e-5
"""Rows within this of [0, 1] and of the sum 1 are taken for probabilities (AutoAttack's threshold)."""

ZERO_GRADIENTS = 0.05
"""Share of images whose input gradient may vanish. AutoAttack warns from one image on: a dead corner is no defence."""

BLACK_BOX_SHARE = 0.002
"""Share of all images that a black box may break where white boxes could not (AutoAttack's threshold) …"""

BLACK_BOX_IMAGES = 2
"""… and number: of a few hundred images, the share alone would be less than one."""


class AttackWarning(UserWarning):
    """A robustness figure may be too high: the model hides its gradients, or the attack is misused."""


def warn_if_random(model: nn.Module, images: Tensor) -> None:
    """Warn where two forward passes of `images` (N, …) differ: gradients then mean little without averaging."""
    with torch.no_grad():
        first, second = model(images).float(), model(images).float()
    share = (first - second).norm(dim=1) / first.norm(dim=1).clamp_min(1e-10)
    if (share > RANDOM_OUTPUT).any():
        _warn(f"the model's output is random: two passes differ by {share.max().item():.2g} of the logits' norm")


def warn_if_probabilities(logits: Tensor) -> None:
    """Warn where all rows of `logits` (N, classes) look like probabilities: losses on logits then saturate."""
    sums = (logits.float().sum(dim=1) - 1.0).abs()
    inside = logits.min() > -PROBABILITY and logits.max() < 1.0 + PROBABILITY
    if inside and sums.max() < PROBABILITY:
        _warn("the model seems to return probabilities: attacks need logits, without a final softmax")


def warn_if_gradients_vanish(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Warn where the margin's gradient is exactly zero on more than `ZERO_GRADIENTS` of the `images` (N, …)."""
    gradient = input_gradient(model, images, labels, lambda logits, y: margins(logits, y).sum())
    zero = int((gradient.flatten(1) == 0).all(dim=1).sum())
    if zero > ZERO_GRADIENTS * len(images):
        _warn(f"the gradient is zero on {zero} of {len(images)} images: attacks that follow it will fail on them")


def warn_if_black_box_wins(broken: Mapping[str, int], black_boxes: Collection[str], images: int) -> None:
    """Warn where black boxes broke more than a few of the samples that the white boxes before them had left.

    Args:
        broken: component → how many images it broke, each component on the survivors of those before it.
        black_boxes: names of the components that use no gradient.
        images: how many images there are in all.
    """
    count = sum(number for name, number in broken.items() if name in black_boxes)
    if count > max(BLACK_BOX_IMAGES, BLACK_BOX_SHARE * images):
        _warn(f"{', '.join(black_boxes)} broke {count} of {images} images that gradient attacks could not break")


def _warn(sign: str) -> None:
    warnings.warn(f"{sign}; the robust accuracy may be too high", AttackWarning, stacklevel=3)
