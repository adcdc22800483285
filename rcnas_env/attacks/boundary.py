"""A decision-based attack guided by a substitute, after Shen et al. (TDSC 2023, "adaptive boundary learning").

There is no public code of theirs, and this is no reproduction of their figures: it is what the text describes. A
small network learns the attacked model's hard labels near the boundary, and its gradients propose the moves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks.attack import Component
from rcnas_env.attacks.catalogue import register_attack
from rcnas_env.attacks.decisions import NOT_ASKED, Decisions, linf_distance, per_image, to_boundary
from rcnas_env.attacks.gradient import input_gradient, margins
from rcnas_env.validation import require_integer

QUERIES = 1_000
"""Model queries an image, as for HopSkipJump."""

SUBSTITUTE_CHANNELS = (16, 32)
"""Of the substitute's two strided convolutions."""

LEARNING_RATE, BATCH = 3e-3, 64
"""Of Adam on the queried points."""

FIRST_UPDATES, REFIT_UPDATES = 200, 30
"""The most updates of the substitute before the transfer, and in each round after it."""

MOST_EPOCHS = 50
"""Of one fit: a small batch of images gives few points to learn from."""

EXPLORED_SHARE = 0.05
"""The part of the queries that teaches the substitute before the transfer."""

PROBES, PROPOSALS = 20, 30
"""Queries an image and round: random ones about its boundary point, then moves of the substitute."""

PROBE_REACH = 0.25
"""Half the side of the cube that probes are drawn from, as a share of the distance."""

TRANSFER_STEPS, MOVE_STEPS = 10, 2
"""Signed gradient steps on the substitute, in the transfer and in a move."""

HALVINGS = 10
"""Of a binary search: the last digits would cost queries that moves use better."""

FIRST_SHRINK, MOST_SHRINK, LEAST_SHRINK, SHRINK_FACTOR = 0.1, 0.5, 0.01, 1.5
"""How much closer a move tries to come, as a share of the distance: more after each success, less after a failure."""

MEMORY = 20_000
"""The newest queried points are kept, so many."""


class Substitute(nn.Module):
    """Two strided 3×3 convolutions with ReLU and a linear layer: images (N, channels, H, W) → logits (N, classes).

    Its weights are drawn from `generator`, on the generator's device: He-normal, biases 0.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = shape
        first, second = SUBSTITUTE_CHANNELS
        # On the meta device the layers' own initialisation, which would draw from the global generator, does nothing.
        with torch.device("meta"):
            self.layers = nn.Sequential(
                nn.Conv2d(channels, first, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(second * math.ceil(height / 4) * math.ceil(width / 4), classes),
            )
        self.to_empty(device=generator.device)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.layers(images)


class BoundaryPursuit:
    """The attack on one batch: what was asked, the substitute, and the nearest adversarial point of every image.

    nearest: (N, channels, height, width), the clean image where no adversarial point is known.
    distances: L_inf, (N,), infinite there.
    """

    def __init__(
        self, decisions: Decisions, images: Tensor, classes: int, eps: float, generator: torch.Generator
    ) -> None:
        self.decisions = decisions
        self.images = images
        self.eps = eps
        self.generator = generator
        self.nearest = images.clone()
        self.distances = torch.full_like(images[:, 0, 0, 0], math.inf)
        self._shrink = torch.full_like(self.distances, FIRST_SHRINK)
        size = min(MEMORY, int(decisions.left.sum()) + len(images))
        self._points, self._classes = images.new_empty(size, *images.shape[1:]), decisions.labels.new_empty(size)
        self._written = 0
        self._remember(images, decisions.labels)
        _, channels, height, width = images.shape
        self._substitute = Substitute((channels, height, width), classes, generator)
        self._optimizer = torch.optim.Adam(self._substitute.parameters(), lr=LEARNING_RATE)

    def run(self, explored: int) -> None:
        """Explore with `explored` queries an image, transfer, then rounds until all are within eps or out of queries.

        A round asks about random points near the boundary, refits the substitute, and moves.
        """
        self._explore(explored)
        self._refit(FIRST_UPDATES)
        self._transfer()
        rows = self._unfinished()
        self._search_boundary(rows)
        while len(rows := self._unfinished()):
            reach = PROBE_REACH * self.distances[rows]
            self._ask(rows, self._noisy(self.nearest[rows], reach, PROBES))
            self._refit(REFIT_UPDATES)
            for _ in range(PROPOSALS):
                if len(rows := self._unfinished()):
                    self._move(rows)

    def _unfinished(self) -> Tensor:
        """Rows with an adversarial point, but none within eps, and with queries left."""
        known = self.distances.isfinite() & (self.distances > self.eps)
        return (known & (self.decisions.left > 0)).nonzero().squeeze(1)

    def _ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Query `points` (n, k, …), remember the answers, keep what is nearest; bool (n, k): which are adversarial."""
        found = self.decisions.classes(rows, points)
        adversarial = (found != self.decisions.labels[rows, None]) & (found != NOT_ASKED)
        learnt = found >= 0  # no class can be learnt from a NaN
        self._remember(points[learnt], found[learnt])
        far = (points - self.images[rows, None]).abs().flatten(2).amax(dim=2).masked_fill(~adversarial, math.inf)
        distance, which = far.min(dim=1)
        closer = distance < self.distances[rows]
        self.distances[rows[closer]] = distance[closer]
        self.nearest[rows[closer]] = points[closer, which[closer]]
        return adversarial

    def _remember(self, points: Tensor, classes: Tensor) -> None:
        """Keep queried points (n, …) and their classes, in place of the oldest where the memory is full."""
        size = len(self._points)
        slots = torch.arange(self._written, self._written + len(points), device=points.device)[-size:] % size
        self._points[slots], self._classes[slots] = points[-size:], classes[-size:]
        self._written += len(points)

    def _explore(self, queries: int) -> None:
        """Ask about random blends of each image, half with uniform noise and half with another image of the batch."""
        rows = torch.arange(len(self.images), device=self.images.device)
        for query in range(queries):
            target = self._uniform(self.images)
            if query % 2 and len(rows) > 1:
                target = self.images.roll(1 + query // 2 % (len(rows) - 1), dims=0)
            share = per_image(self._uniform(self.distances))
            self._ask(rows, (self.images + share * (target - self.images)).clamp(0.0, 1.0)[:, None])

    def _transfer(self) -> None:
        """PGD on the substitute within eps, and where that fails within 2 eps, 4 eps … up to 1."""
        radius = self.eps
        while radius < 2.0 and len(rows := self._untransferred(radius)):
            x, ball = self.images[rows], torch.full_like(self.distances[rows], min(radius, 1.0))
            self._ask(rows, self._ascend(rows, x, ball, TRANSFER_STEPS)[:, None])
            radius *= 2.0

    def _untransferred(self, radius: float) -> Tensor:
        """Rows with no adversarial point within `radius`, and with queries left."""
        return ((self.distances > radius) & (self.decisions.left > 0)).nonzero().squeeze(1)

    def _search_boundary(self, rows: Tensor) -> None:
        """Take the nearest points of `rows` to the boundary."""
        x = self.images[rows]
        self.nearest[rows] = to_boundary(self.decisions, rows, x, self.nearest[rows], HALVINGS, self.eps)
        self.distances[rows] = linf_distance(self.nearest[rows], self.images[rows])

    def _move(self, rows: Tensor) -> None:
        """One move of every row into a smaller ball, along the substitute's margin; kept where adversarial."""
        radius = (1.0 - self._shrink[rows]) * self.distances[rows]
        start = self._noisy(self.nearest[rows], 0.1 * radius, 1)[:, 0]
        success = self._ask(rows, self._ascend(rows, start, radius, MOVE_STEPS)[:, None])[:, 0]
        factor = torch.where(success, SHRINK_FACTOR, 1.0 / SHRINK_FACTOR)
        self._shrink[rows] = (self._shrink[rows] * factor).clamp(LEAST_SHRINK, MOST_SHRINK)

    def _ascend(self, rows: Tensor, start: Tensor, radius: Tensor, steps: int) -> Tensor:
        """Signed steps of 2 · radius / steps against the substitute's margin, in the ball of `radius` (n,)."""
        x, labels = self.images[rows], self.decisions.labels[rows]
        low, high = (x - per_image(radius)).clamp(min=0.0), (x + per_image(radius)).clamp(max=1.0)
        point = start.clamp(low, high)
        for _ in range(steps):
            gradient = input_gradient(self._substitute, point, labels, lambda z, y: margins(z, y).sum())
            point = (point - per_image(2.0 * radius / steps) * gradient.sign()).clamp(low, high)
        return point

    def _refit(self, updates: int) -> None:
        """Train the substitute on, on uniformly drawn batches of the queried points, while there is a use for it."""
        if not len(self._untransferred(self.eps)):
            return
        kept = min(self._written, len(self._points))
        for _ in range(min(updates, math.ceil(MOST_EPOCHS * kept / BATCH))):
            batch = torch.randint(kept, (BATCH,), generator=self.generator, device=self.images.device)
            self._optimizer.zero_grad()
            with torch.enable_grad():
                F.cross_entropy(self._substitute(self._points[batch]), self._classes[batch]).backward()
            self._optimizer.step()

    def _noisy(self, points: Tensor, reach: Tensor, count: int) -> Tensor:
        """`count` points of the cube of ±reach (n,) around each of `points`, in [0, 1]: (n, count, …)."""
        repeated = points[:, None].repeat(1, count, 1, 1, 1)
        noise = reach[:, None, None, None, None] * (2.0 * self._uniform(repeated) - 1.0)
        return (repeated + noise).clamp(0.0, 1.0)

    def _uniform(self, like: Tensor) -> Tensor:
        """Uniform draws from [0, 1), of the shape of `like`."""
        return torch.rand(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)


def substitute_guided_boundary(eps: float, classes: int, *, queries: int = QUERIES) -> tuple[Component, ...]:
    """The attack; succeeds on an image where its nearest adversarial point is within eps, else returns it as it is.

    An image spends at most `queries` queries, fewer where it succeeds. All images of a batch teach one substitute, so
    that larger batches are stronger. What `run_attack` asks before and after is not counted, as in `hop_skip_jump`.

    Raises:
        ValueError: queries are below 1.
    """
    queries = require_integer("queries", queries, 1)

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The nearest adversarial images within eps, else the clean ones; see `Perturbation`."""
        pursuit = BoundaryPursuit(Decisions(model, labels, queries), images, classes, eps, generator)
        pursuit.run(math.ceil(EXPLORED_SHARE * queries))
        return torch.where(per_image(pursuit.distances <= eps), pursuit.nearest, images)

    return (Component("boundary-substitute", perturb, True, f"{queries} queries"),)


register_attack(
    "boundary-substitute",
    substitute_guided_boundary,
    perturb_wrong=False,
    summary=f"decision-based with a learnt substitute, {QUERIES:,} queries an image (after Shen et al. 2023)",
)
