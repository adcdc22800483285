"""Attacks as one would call torchattacks plainly: the baseline that ours are measured against.

The model is the network as it is, in eval mode; all images of a batch go through every step. Each call leaves the
model and the global random streams, which torchattacks draws from, as they were (`attack_guard`).
"""

from __future__ import annotations

import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.timing import Stopwatch
from rcnas_env.attacks import attack_guard
from rcnas_env.attacks.autoattack import MOST_TARGETS

STEPS_PER_RADIUS = 10


def perturb(name: str, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, seed: int = 0) -> Tensor:
    """`images` attacked by torchattacks' FGSM or PGD, or by CW-K written the same way (torchattacks' CW is of L2).

    Args:
        name: "clean", "fgsm", "pgd-K" or "cw-K", as `rcnas_env.attacks` defines them.
        model: images → logits.
        images: float32 in [0, 1], (N, channels, height, width).
        labels: int64 (N,).
        epsilon: L_inf radius.
        seed: of the random start.

    Raises:
        ValueError: another name.
    """
    family, _, steps = name.partition("-")
    with attack_guard(model, seed, images.device):
        if name == "clean":
            return images
        if name == "fgsm":
            return torchattacks.FGSM(model, eps=epsilon)(images, labels)
        if family == "pgd" and steps.isdigit():
            attack = torchattacks.PGD(model, eps=epsilon, alpha=epsilon / STEPS_PER_RADIUS, steps=int(steps))
            return attack(images, labels)
        if family == "cw" and steps.isdigit():
            return margin_steps(model, images, labels, epsilon, int(steps))
    raise ValueError(f"name must be clean, fgsm, pgd-K or cw-K, got {name!r}")


def margin_steps(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
    """CW-K: steps of epsilon / 10 up −Σ max(z_y − max_{i≠y} z_i, 0) from a uniform start, one restart."""
    own = nn.functional.one_hot(labels, model(images[:1]).shape[1]).bool()
    noise = torch.Generator(images.device).manual_seed(0)
    adversarial = images + torch.empty_like(images).uniform_(-epsilon, epsilon, generator=noise)
    adversarial = torch.clamp(adversarial, min=0, max=1).detach()
    for _ in range(steps):
        adversarial.requires_grad = True
        logits = model(adversarial)
        margin = logits[own] - logits.masked_fill(own, -torch.inf).max(dim=1).values
        (gradient,) = torch.autograd.grad(-torch.clamp(margin, min=0).sum(), adversarial)
        adversarial = adversarial.detach() + epsilon / STEPS_PER_RADIUS * gradient.sign()
        delta = torch.clamp(adversarial - images, min=-epsilon, max=epsilon)
        adversarial = torch.clamp(images + delta, min=0, max=1).detach()
    return adversarial


def auto_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    classes: int,
    *,
    iterations: int,
    square_queries: int,
    batch_size: int,
    seed: int = 0,
) -> tuple[Tensor, dict[str, float]]:
    """AutoAttack of torchattacks, its components set to the steps and targets of the authors' code.

    Batch by batch, and in it each component on the images that those before it left standing, as its MultiAttack
    does.

    Args:
        model: images → logits (N, classes).
        images: float32 in [0, 1], (N, channels, height, width).
        labels: int64 (N,).
        epsilon: L_inf radius.
        classes: at least 4.
        iterations: of APGD, APGD-T and FAB-T; 100 in the standard attack.
        square_queries: 5,000 in the standard attack.
        batch_size: images attacked together.
        seed: of every component, each batch anew.

    Returns:
        (adversarial images, the clean ones where no component succeeded; seconds by component).
    """
    components = _components(model, epsilon, classes, iterations, square_queries, seed)
    watch = Stopwatch(str(images.device))
    found = images.clone()
    with attack_guard(model, seed, images.device):
        for batch in torch.arange(len(images), device=images.device).split(batch_size):
            standing = batch
            for name, component in components.items():
                if not len(standing):
                    break
                with watch.part(name):
                    candidates = component(images[standing], labels[standing])
                    with torch.no_grad():
                        correct = model(candidates).argmax(dim=1) == labels[standing]
                found[standing[~correct]] = candidates[~correct].detach()
                standing = standing[correct]
    return found, watch.seconds


def _components(
    model: nn.Module, epsilon: float, classes: int, iterations: int, square_queries: int, seed: int
) -> dict[str, torchattacks.attack.Attack]:
    """The components by name.

    Left alone, torchattacks makes 10 iterations, rescales Square's schedule, and targets every wrong class.
    """
    shared = {"eps": epsilon, "norm": "Linf", "seed": seed, "n_restarts": 1}
    targeted = torchattacks.APGDT(model, steps=iterations, n_classes=classes, **shared)
    boundary = torchattacks.FAB(model, steps=iterations, n_classes=classes, multi_targeted=True, **shared)
    for attack in (targeted, boundary):
        attack.n_target_classes = min(MOST_TARGETS, classes - 1)
    return {
        "apgd-ce": torchattacks.APGD(model, steps=iterations, loss="ce", **shared),
        "apgd-t": targeted,
        "fab-t": boundary,
        "square": torchattacks.Square(model, n_queries=square_queries, resc_schedule=False, **shared),
    }
