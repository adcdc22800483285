"""What a decision-based attack learns of a model: the class of an image, under a budget of queries that is counted.

A query is one image through the attacked model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FEWEST_HALVINGS, MOST_HALVINGS = 8, 20
"""Of a binary search, and the most of a step: beyond 20, float32 does not tell the points apart."""

FORWARD_IMAGES = 512
"""Images a forward pass, unless the batch has more."""

NOT_ASKED, NOT_A_NUMBER = -1, -2
"""What `Decisions.classes` gives for a query that was not made, and for logits with a NaN."""


class Decisions:
    """The classes that a model gives, under a budget of queries an image.

    model: images → logits (N, classes), in eval mode.
    labels: int64 (N,), the true classes of the attacked images.
    left: int64 (N,), the queries that each image has left, `queries` at first.
    """

    def __init__(self, model: nn.Module, labels: Tensor, queries: int) -> None:
        self.model = model
        self.labels = labels
        self.left = torch.full_like(labels, queries)

    @torch.no_grad()
    def classes(self, rows: Tensor, points: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Ask for the classes of k points an image, in their order until its queries are spent.

        Args:
            rows: int64 (n,), distinct: whose queries to spend.
            points: (n, k, channels, height, width).
            wanted: bool (n, k), the queries to make; all if None.

        Returns:
            int64 (n, k): a class, `NOT_ASKED` or `NOT_A_NUMBER`.
        """
        asked = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if wanted is None else wanted
        asked = asked & (asked.cumsum(dim=1) <= self.left[rows, None])
        self.left[rows] -= asked.sum(dim=1)
        found = torch.full(asked.shape, NOT_ASKED, dtype=torch.int64, device=points.device)
        queries = points[asked]
        if len(queries):
            batches = queries.split(max(FORWARD_IMAGES, len(self.labels)))
            logits = torch.cat([self.model(batch).float() for batch in batches])
            found[asked] = logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), NOT_A_NUMBER)
        return found

    def adversarial(self, rows: Tensor, points: Tensor) -> Tensor:
        """Which of `points` (n, channels, height, width) are classified wrongly, bool (n,); False if not asked."""
        found = self.classes(rows, points[:, None])[:, 0]
        return (found != self.labels[rows]) & (found != NOT_ASKED)


def linf_distance(points: Tensor, images: Tensor) -> Tensor:
    """The largest |points − images| of every image, (n,)."""
    return (points - images).abs().flatten(1).amax(dim=1)


def per_image(values: Tensor) -> Tensor:
    """`values` (n,) as (n, 1, 1, 1)."""
    return values[:, None, None, None]


def search_halvings(pixels: int) -> int:
    """Queries of one binary search to the paper's tolerance, `pixels`^−2 of the distance, within the limits above."""
    return max(FEWEST_HALVINGS, min(MOST_HALVINGS, math.ceil(2 * math.log2(pixels))))


def to_boundary(
    decisions: Decisions, rows: Tensor, images: Tensor, points: Tensor, halvings: int, enough: float = 0.0
) -> Tensor:
    """Binary search for the smallest ball around `images` onto which `points` can be projected and stay adversarial.

    Args:
        rows: int64 (n,), of `decisions`.
        images: (n, channels, height, width), not adversarial.
        points: of the same shape, adversarial.
        halvings: queries an image.
        enough: a radius at which the search of an image ends. A point next to the boundary is adversarial by a margin
            of rounding errors, and another implementation of the same network may say otherwise.

    Returns:
        Adversarial points, no farther from the images; a search cut short by the budget ends where it is.
    """
    high = linf_distance(points, images)
    low, nearest = torch.zeros_like(high), points
    nearest = nearest.clone()
    for _ in range(halvings):
        going = (high > enough).nonzero().squeeze(1)
        if not len(going):
            break
        middle, x = (low[going] + high[going]) / 2, images[going]
        candidates = points[going].clamp(x - per_image(middle), x + per_image(middle))
        adversarial = decisions.adversarial(rows[going], candidates)
        nearest[going[adversarial]] = candidates[adversarial]
        high[going[adversarial]], low[going[~adversarial]] = middle[adversarial], middle[~adversarial]
    return nearest
