"""The inner maximisation of adversarial training: signed gradient ascent in the L_inf ball, for every method.

All methods here raise a soft cross-entropy −Σ_k t_k log p_k(x̃): TRADES with t the clean prediction, whose entropy is
constant, so that this is its KL divergence; SAT and MART with t the label, one-hot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnas_env.training.method import TrainingMethod

INITIAL_NOISE = 0.001
"""Standard deviation of the Gaussian start (TRADES' and MART's published code)."""

Model = Callable[[Tensor], Tensor]


def perturb(
    model: Model,
    images: Tensor,
    labels: Tensor,
    method: TrainingMethod,
    epsilon: float,
    step_size: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """The images that `method` trains on: those that `steps` steps from its start lead to.

    The caller puts the model into eval mode (as the published code does) and freezes its parameters. The clean
    prediction is computed once: in eval mode it is the same at every step.

    Args:
        model: images → logits (N, classes).
        images: float32 in [0, 1], (N, channels, height, width).
        labels: int64 (N,).
        method: one with an inner maximisation.
        epsilon: L_inf radius in image units.
        step_size: of one step, in image units.
        steps: number of steps.
        generator: of the start, on the images' device.

    Returns:
        Perturbed images within the radius and [0, 1]; no gradient attached.
    """
    with torch.no_grad():
        logits = model(images).float() if method.inner_target == "clean prediction" else None
        if method.start == "gaussian":
            noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            start = images + INITIAL_NOISE * noise
        else:
            uniform = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            start = (images + epsilon * (2 * uniform - 1)).clamp_(0, 1)
    target = labels if logits is None else F.softmax(logits, dim=1)
    return maximise(model, images, target, start, epsilon, step_size, steps)


def maximise(
    model: Model, images: Tensor, target: Tensor, start: Tensor, epsilon: float, step_size: float, steps: int
) -> Tensor:
    """Raise the cross-entropy with `target` by `steps` signed gradient steps from `start`, each projected.

    Args:
        model, images, epsilon, step_size, steps: see `perturb`.
        target: probabilities (N, classes), or labels int64 (N,).
        start: of the images' shape.

    Returns:
        See `perturb`.
    """
    lower, upper = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
    perturbed = start
    for _ in range(steps):
        perturbed = perturbed.detach().requires_grad_(True)
        loss = F.cross_entropy(model(perturbed).float(), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, perturbed)
        with torch.no_grad():
            perturbed = torch.clamp(perturbed + step_size * gradient.sign(), min=lower, max=upper)
    return perturbed.detach()
