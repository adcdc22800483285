"""Standard adversarial training (Madry et al. 2018): minimise CE(f(x̃), y), x̃ from the maximisation of the same."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sat_loss(perturbed_logits: Tensor, labels: Tensor) -> Tensor:
    """The outer loss, a scalar: cross-entropy on perturbed images, mean over images.

    Args:
        perturbed_logits: (N, classes).
        labels: int64 (N,).
    """
    return F.cross_entropy(perturbed_logits, labels)
