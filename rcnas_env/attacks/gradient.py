"""White-box attacks by signed gradient steps in the L_inf ball: FGSM, PGD-K and CW-K.

FGSM: Goodfellow et al. 2015. PGD: Madry et al. 2018. CW-K is projected gradient ascent on the margin loss of
Carlini and Wagner 2017, as adversarial training papers report it: not their L2 attack.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks.attack import Perturbation
from rcnas_env.attacks.catalogue import register_attack, register_iterated_attack

STEPS_PER_RADIUS = 10
"""An iterated attack's step is eps / 10."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, classes), labels (N,)) → what to ascend, a scalar: a sum, so that no image depends on its batch."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_i −log softmax(z_i)_{y_i}."""
    return F.cross_entropy(logits, labels, reduction="sum")


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_y − max_{i ≠ y} z_i of every row, (N,): positive where it is classified correctly."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return own.squeeze(1) - others.max(dim=1).values


def negative_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """−Σ_i max(z_y − max_{i ≠ y} z_i, 0): the loss of CW-K. It has no gradient where an image is already wrong."""
    return -margins(logits, labels).clamp(min=0.0).sum()


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """∂loss/∂images, of the images' shape. Works under no_grad; parameters get no gradient."""
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        value = loss(model(inputs).float(), labels)
        (gradient,) = torch.autograd.grad(value, inputs)
    return gradient  # of NaN, torch's sign is 0: such a pixel stays


def fast_gradient_sign(eps: float, classes: int) -> Perturbation:
    """FGSM: x̃ = clip(x + eps · sign ∇ CE(f(x), y)), clip to [0, 1]; no random start."""

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One step of eps, which draws nothing from `generator`; see `Perturbation`."""
        return (images + eps * input_gradient(model, images, labels, cross_entropy).sign()).clamp(0.0, 1.0)

    return perturb


def projected_gradient(eps: float, steps: int, loss: Loss) -> Perturbation:
    """`steps` steps of eps / 10 along sign ∇ loss from a uniform start in ±eps; one restart, the last iterate.

    The start and every step are projected onto the ball and [0, 1].
    """
    step_size = eps / STEPS_PER_RADIUS

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The last iterate; the start is drawn from `generator`. See `Perturbation`."""
        low, high = (images - eps).clamp(min=0.0), (images + eps).clamp(max=1.0)
        uniform = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        iterate = (images + eps * (2.0 * uniform - 1.0)).clamp(low, high)
        for _ in range(steps):
            gradient = input_gradient(model, iterate, labels, loss)
            iterate = (iterate + step_size * gradient.sign()).clamp(low, high)
        return iterate

    return perturb


register_attack("clean", lambda eps, classes: (), summary="no attack: the images as they are")
register_attack("fgsm", fast_gradient_sign, summary="cross-entropy, one step of eps, no random start")
register_iterated_attack(
    "pgd",
    lambda eps, classes, steps: projected_gradient(eps, steps, cross_entropy),
    canonical_steps=20,
    summary="cross-entropy, uniform start, K steps of eps / 10, one restart",
)
register_iterated_attack(
    "cw",
    lambda eps, classes, steps: projected_gradient(eps, steps, negative_margin),
    canonical_steps=40,
    summary="margin loss, uniform start, K steps of eps / 10, one restart",
)
