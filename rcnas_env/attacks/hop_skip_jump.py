"""HopSkipJump, L_inf (Chen, Jordan and Wainwright 2020): needs no more of a model than the class of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rcnas_env.attacks.attack import Component
from rcnas_env.attacks.catalogue import register_attack
from rcnas_env.attacks.decisions import (
    FORWARD_IMAGES,
    MOST_HALVINGS,
    NOT_ASKED,
    Decisions,
    linf_distance,
    per_image,
    search_halvings,
    to_boundary,
)
from rcnas_env.validation import require_integer

QUERIES = 1_000
"""Model queries an image. The paper's figures begin at 1,000 and end at 25,000."""

FIRST_PROBES = 100
"""B_0 of the paper: queries of the first gradient estimate; the t-th has B_0 √t."""

FIRST_RADIUS = 0.1
"""δ of the first gradient estimate, an L2 length in pixel units."""

START_DRAWS = 50
"""Uniform noise images to try before starting from other images of the batch."""


def find_starts(decisions: Decisions, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some adversarial point for every image: uniform noise, else another image of the batch with another label.

    Returns:
        (points of the images' shape, bool (N,) whether the point is adversarial: none may be found within the budget).
    """
    points, found = images.clone(), torch.zeros_like(decisions.labels, dtype=torch.bool)
    for _ in range(START_DRAWS):
        noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        _try_starts(decisions, noise, points, found)
        if found.all():
            return points, found
    for shift in range(1, len(images)):
        others = decisions.labels.roll(shift) != decisions.labels
        _try_starts(decisions, images.roll(shift, dims=0), points, found, others)
    return points, found


def _try_starts(
    decisions: Decisions, candidates: Tensor, points: Tensor, found: Tensor, only: Tensor | None = None
) -> None:
    """Ask about `candidates` of images without a start, and of `only` these; keep the adversarial ones in place."""
    missing = ~found if only is None else ~found & only
    rows = (missing & (decisions.left > 0)).nonzero().squeeze(1)
    rows = rows[decisions.adversarial(rows, candidates[rows])]
    points[rows], found[rows] = candidates[rows], True


def boundary_direction(
    decisions: Decisions, rows: Tensor, points: Tensor, radius: Tensor, probes: Tensor, generator: torch.Generator
) -> Tensor:
    """Estimate the boundary's normal at `points`, towards the adversarial side (section III of the paper).

    With u_b random of L2 length 1 and φ_b = 1 where x + δ u_b, clipped to [0, 1], is adversarial and else −1,

        Σ_b (φ_b − mean φ) u_b,    or Σ_b φ_b u_b where all φ_b agree.

    u_b is a uniform draw from [−1, 1]^d over its length, and what the clip leaves of it.

    Args:
        rows: int64 (n,), of `decisions`.
        points: (n, channels, height, width), next to the boundary.
        radius: δ, (n,).
        probes: int64 (n,), how many queries each image spends.

    Returns:
        A tensor of the points' shape and of any length.
    """
    signed, plain = torch.zeros_like(points), torch.zeros_like(points)
    balance = torch.zeros_like(radius)
    most, block = int(probes.max()), max(1, FORWARD_IMAGES // len(rows))
    for first in range(0, most, block):
        shape = (len(rows), min(block, most - first), *points.shape[1:])
        draws = 2.0 * torch.rand(shape, generator=generator, device=points.device, dtype=points.dtype) - 1.0
        draws = draws / draws.flatten(2).norm(dim=2).clamp(min=1e-12)[:, :, None, None, None]
        candidates = (points[:, None] + radius[:, None, None, None, None] * draws).clamp(0.0, 1.0)
        wanted = torch.arange(first, first + shape[1], device=points.device) < probes[:, None]
        found = decisions.classes(rows, candidates, wanted)
        side = torch.where(found != decisions.labels[rows, None], 1.0, -1.0) * (found != NOT_ASKED)
        moved = (candidates - points[:, None]) / radius.clamp(min=1e-12)[:, None, None, None, None]
        signed += (side[:, :, None, None, None] * moved).sum(dim=1)
        plain += ((found != NOT_ASKED)[:, :, None, None, None] * moved).sum(dim=1)
        balance += side.sum(dim=1)
    mean = balance / probes
    return signed - per_image(torch.where(mean.abs() == 1.0, 0.0, mean)) * plain


def nearest_adversarial(
    decisions: Decisions,
    images: Tensor,
    generator: torch.Generator,
    *,
    stop_at: float,
    first_probes: int = FIRST_PROBES,
) -> tuple[Tensor, Tensor]:
    """Algorithm 2 of the paper, for all images at once, until each has spent its queries or is within `stop_at`.

    Iteration t estimates the boundary's normal v with δ = (distance of the point) / d, d pixels, steps by
    distance / √t · sign v, halved until the point stays adversarial, and searches its way back to the boundary.

    Args:
        decisions: with the queries to spend.
        images: float32 in [0, 1], (N, channels, height, width), classified correctly.
        generator: on the images' device.
        stop_at: the L_inf distance at which an image is done; 0 spends all queries.
        first_probes: queries of the first gradient estimate.

    Returns:
        (the nearest adversarial points found, their L_inf distances (N,); infinite, with the clean image, where
        there is none).
    """
    pixels = images[0].numel()
    halvings = search_halvings(pixels)
    reserve = halvings + 2  # what a step and the search after it need
    points, found = find_starts(decisions, images, generator)
    rows = found.nonzero().squeeze(1)
    points[rows] = to_boundary(decisions, rows, images[rows], points[rows], halvings, stop_at)
    nearest, distances = points.clone(), linf_distance(points, images).masked_fill(~found, math.inf)
    iteration = 0
    while True:
        unfinished = found & (distances > stop_at) & (decisions.left > reserve)
        rows = unfinished.nonzero().squeeze(1)
        if not len(rows):
            return nearest, distances
        iteration += 1
        x, current = images[rows], points[rows]
        distance = linf_distance(current, x)
        radius = torch.full_like(distance, FIRST_RADIUS) if iteration == 1 else distance / pixels
        probes = (decisions.left[rows] - reserve).clamp(max=int(first_probes * math.sqrt(iteration)))
        direction = boundary_direction(decisions, rows, current, radius, probes, generator).sign()
        current = _step(decisions, rows, current, direction, distance / math.sqrt(iteration))
        current = to_boundary(decisions, rows, x, current, halvings, stop_at)
        points[rows] = current
        distance = linf_distance(current, x)
        closer = distance < distances[rows]
        nearest[rows[closer]], distances[rows[closer]] = current[closer], distance[closer]


def _step(decisions: Decisions, rows: Tensor, points: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    """Go by size · direction within [0, 1], the size halved until that is adversarial; else stay."""
    points, trying = points.clone(), torch.arange(len(rows), device=rows.device)
    for halving in range(MOST_HALVINGS):
        steps = per_image(size[trying] / 2**halving) * direction[trying]
        candidates = (points[trying] + steps).clamp(0.0, 1.0)
        adversarial = decisions.adversarial(rows[trying], candidates)
        points[trying[adversarial]] = candidates[adversarial]
        trying = trying[~adversarial]
        if not len(trying):
            break
    return points


def hop_skip_jump(eps: float, classes: int, *, queries: int = QUERIES) -> tuple[Component, ...]:
    """HopSkipJump; succeeds on an image where its nearest adversarial point is within eps, else returns it as it is.

    An image spends at most `queries` queries, fewer where it succeeds. The queries that find out which images are
    classified correctly to begin with, and the check of the result, are `run_attack`'s and not counted.

    Raises:
        ValueError: queries are below 1.
    """
    queries = require_integer("queries", queries, 1)

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The nearest adversarial images within eps, else the clean ones; see `Perturbation`."""
        nearest, distances = nearest_adversarial(Decisions(model, labels, queries), images, generator, stop_at=eps)
        return torch.where(per_image(distances <= eps), nearest, images)

    return (Component("hop-skip-jump", perturb, True, f"{queries} queries"),)


register_attack(
    "hop-skip-jump",
    hop_skip_jump,
    perturb_wrong=False,
    summary=f"decision-based, L_inf, {QUERIES:,} queries an image (Chen et al. 2020)",
)
