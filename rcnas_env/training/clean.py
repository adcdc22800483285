"""Training without an adversary: minimise CE(f(x), y)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def clean_loss(clean_logits: Tensor, labels: Tensor) -> Tensor:
    """The loss, a scalar: cross-entropy on clean images, mean over images.

    Args:
        clean_logits: (N, classes).
        labels: int64 (N,).
    """
    return F.cross_entropy(clean_logits, labels)
