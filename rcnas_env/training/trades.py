"""TRADES (Zhang et al. 2019): the inner maximisation and the outer loss, as pure functions of tensors.

minimise  CE(f(x), y) + β · KL(softmax f(x) ‖ softmax f(x̃)),   x̃ = argmax over ‖x̃ − x‖_∞ ≤ ε of the same KL.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

INITIAL_NOISE = 0.001
"""Standard deviation of the Gaussian start of the inner maximisation (TRADES' published code)."""


def trades_perturb(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    epsilon: float,
    step_size: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """The inner maximisation: `steps` signed gradient steps on the KL from the clean prediction.

    The caller puts the model into eval mode (as the published code does) and freezes its parameters. The
    clean prediction is computed once: in eval mode it is the same at every step.

    Args:
        model: images → logits (N, classes).
        images: float32 in [0, 1], (N, channels, height, width).
        epsilon: L_inf radius in image units.
        step_size: of one step, in image units.
        steps: number of steps.
        generator: of the Gaussian start, on the images' device.

    Returns:
        Perturbed images within the radius and [0, 1]; no gradient attached.
    """
    with torch.no_grad():
        target = F.softmax(model(images).float(), dim=1)
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        lower, upper = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
        perturbed = images + INITIAL_NOISE * noise
    for _ in range(steps):
        perturbed.requires_grad_(True)
        # the entropy of `target` is constant, so KL and soft cross-entropy have the same gradient
        loss = F.cross_entropy(model(perturbed).float(), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, perturbed)
        with torch.no_grad():
            perturbed = torch.clamp(perturbed + step_size * gradient.sign(), min=lower, max=upper)
    return perturbed.detach()


def trades_loss(clean_logits: Tensor, perturbed_logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The outer loss, a scalar: cross-entropy on clean images + β · KL(clean ‖ perturbed), mean over images.

    Gradients flow through both predictions.

    Args:
        clean_logits, perturbed_logits: (N, classes).
        labels: int64 (N,).
        beta: weight of the second term, 1/λ.
    """
    divergence = F.kl_div(F.log_softmax(perturbed_logits, dim=1), F.softmax(clean_logits, dim=1), reduction="batchmean")
    return F.cross_entropy(clean_logits, labels) + beta * divergence
