"""FAB-T in the L_inf ball: the targeted fast adaptive boundary attack (Croce and Hein 2020, "Minimally distorted …").

Each step linearises the gap z_t − z_y at the iterate, projects the iterate and the image onto the hyperplane where it
vanishes, inside [0, 1], and goes to a mixture of both, 5 % beyond; from an adversarial point it steps back by a tenth
of the way to the image. No random numbers: the standard attack starts from the image.

An image is done with the first adversarial point within eps of it. The authors' code goes on for a smaller
perturbation, which a verdict at a given eps does not need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_env.attacks.attack import Perturbation, is_correct

LARGEST_SHARE = 0.1
"""α_max: the most that the image's projection weighs beside the iterate's."""

OVERSHOOT = 1.05
"""η: how far towards and beyond the hyperplane a step goes, in distances to it."""

BACKWARD = 0.9
"""β: the share of an adversarial perturbation that the backward step keeps."""

COMPACT_AT = 0.9
"""Done images leave the working set once no more than this share of it is left, as in `apgd`."""


def targeted_fab(eps: float, targets: int, iterations: int) -> Perturbation:
    """FAB-T: one run towards each of the `targets` most likely wrong classes in turn, each for the images left.

    Images that are wrong from the start come back as they are.
    """

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Each run starts at the clean images; see `Perturbation`."""
        with torch.no_grad():
            logits = model(images)
            rows, ranked = is_correct(logits, labels).nonzero().squeeze(1), logits.sort(dim=1).indices
            adversarial = images.clone()
            for rank in range(2, targets + 2):
                if not len(rows):
                    break
                found, broken = approach(model, images[rows], labels[rows], ranked[rows, -rank], eps, iterations)
                adversarial[rows] = found
                rows = rows[~broken]
        return adversarial

    return perturb


def approach(
    model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, eps: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Look for an adversarial point within eps of each image near the boundary to its target class.

    Args:
        model: images → logits (N, classes), in eval mode.
        images: float32 in [0, 1], (N, channels, height, width), N at least 1, classified as `labels`.
        labels: int64 (N,).
        targets: int64 (N,), the classes to go towards; a point of any wrong class counts.
        eps: radius of the ball, above 0.
        iterations: at least 1.

    Returns:
        (points, broken): the first such point, the image itself where there is none; bool (N,), whether there is one.
    """
    found, broken = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    rows = torch.arange(len(images), device=images.device)
    iterate, standing = images, torch.ones_like(broken)
    for _ in range(iterations):
        gap, gradient = _linearised(model, iterate, labels, targets)
        iterate = _step(iterate, images, gap, gradient)
        with torch.no_grad():
            adversarial = model(iterate).argmax(dim=1) != labels
        offset = iterate - images
        fresh = adversarial & standing & (offset.abs().flatten(1).amax(1) <= eps)
        reached, iterate = iterate, torch.where(adversarial.view(-1, 1, 1, 1), images + offset * BACKWARD, iterate)
        if not bool(fresh.any()):
            continue
        done = rows[fresh]
        found[done], broken[done] = reached[fresh], True
        standing &= ~fresh
        left = int(standing.sum())
        if not left:
            break
        if left <= COMPACT_AT * len(standing):
            kept = standing.nonzero().squeeze(1)
            rows, images, labels, targets, iterate, standing = (
                each.index_select(0, kept) for each in (rows, images, labels, targets, iterate, standing)
            )
    return found, broken


def _linearised(model: nn.Module, points: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(z_t − z_y (N,), its gradient in the pixels) at `points`."""
    with torch.enable_grad():
        inputs = points.detach().requires_grad_()
        pair = model(inputs).float().gather(1, torch.stack((labels, targets), dim=1))
        gap = -(pair[:, 0] - pair[:, 1])
        (gradient,) = torch.autograd.grad(gap.sum(), inputs)
    return gap.detach(), gradient


def _step(iterate: Tensor, images: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
    """The next iterate, in [0, 1]: Eq. 10 of the paper."""
    normal = gradient.flatten(1)
    points = torch.stack((iterate.flatten(1), images.flatten(1)))
    # w·x − b at both points: the gap itself at the iterate, what its linearisation says at the image.
    excess = torch.stack((gap, gap + (normal * (points[1] - points[0])).sum(1)))
    moves = project(points, normal, excess)
    reach = moves.abs().amax(dim=2, keepdim=True).clamp_(min=1e-8)
    share = (reach[0] / (reach[0] + reach[1])).clamp_(0.0, LARGEST_SHARE)
    near, far = points + OVERSHOOT * moves
    return (near * (1.0 - share) + far * share).clamp_(0.0, 1.0).view_as(iterate)


def project(points: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """The moves of least L_inf norm from points in [0, 1]^d onto hyperplanes, without leaving [0, 1]^d.

    Every coordinate moves by min(λ, its room) against the excess, with λ the root of Σ |w_i| min(λ, room_i) = |excess|.
    The left side is concave and piecewise linear: Newton's method from 0 climbs to the root without overshooting and
    gets there once it meets no further kink, with no need to sort the d kinks. Out of reach, all rooms are used up.

    Args:
        points: (…, N, d), in [0, 1].
        normal: w, (N, d) or of the points' shape; a coordinate of weight 0 does not move.
        excess: w·x − b at the points, (…, N).

    Returns:
        The moves, of the points' shape.
    """
    weight = normal.abs()
    direction = -normal.sign() * torch.where(excess >= 0.0, 1.0, -1.0).unsqueeze(-1)
    room = (direction > 0.0).to(points.dtype) - direction * points
    target, reach = excess.abs().unsqueeze(-1), torch.zeros_like(excess).unsqueeze(-1)
    free = room > reach
    while True:
        slope = (weight * free).sum(-1, keepdim=True)
        missing = target - (weight * torch.minimum(room, reach)).sum(-1, keepdim=True)
        # Where no coordinate is free the quotient is beyond any room.
        reach = torch.maximum(reach, reach + missing / slope.clamp_min(torch.finfo(slope.dtype).tiny))
        before, free = free, free & (room > reach)
        if torch.equal(before, free):
            return direction * torch.minimum(room, reach)
