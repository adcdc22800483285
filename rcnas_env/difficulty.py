"""How hard an attacked eval set is for a network: the empirical Lipschitz coefficient (Eq. 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def lipschitz_coefficients(
    model: Callable[[Tensor], Tensor], images: Tensor, attacked: Tensor, batch_size: int = 256
) -> Tensor:
    """LIPS_i = ‖f(x̃_i) − f(x_i)‖₁ / ‖x̃_i − x_i‖_∞ (Eq. 1), one an image.

    An image that the attack left as it was has LIPS_i = 0: there 0/0 says nothing (docs/paper-notes.md).

    Args:
        model: images → logits, in eval mode.
        images: x, float32 in [0, 1], (N, channels, height, width).
        attacked: x̃, of the same shape.
        batch_size: images in one forward pass; both versions of an image are in the same pass.

    Returns:
        float32 (N,), logits per unit of image intensity, ≥ 0.
    """
    parts = []
    with torch.no_grad():
        for clean, changed in zip(images.split(batch_size), attacked.split(batch_size), strict=True):
            logits, changed_logits = model(torch.cat([clean, changed])).float().chunk(2)
            distance = (changed - clean).abs().flatten(1).amax(dim=1)
            response = (changed_logits - logits).abs().sum(dim=1)
            parts.append(torch.where(distance > 0, response / distance.clamp_min(1e-12), torch.zeros_like(distance)))
    return torch.cat(parts) if parts else images.new_zeros(0)
