"""Auto-PGD in the L_inf ball, on cross-entropy or on the targeted DLR loss (Croce and Hein 2020, sections 3 and 4).

A step is z = P(x_k + η sign ∇L(x_k)), x_{k+1} = P(x_k + 0.75 (z − x_k) + 0.25 (x_k − x_{k−1})), P the projection onto
the ball and [0, 1]. η starts at 2 eps. At each checkpoint it is halved, and the search goes back to the best point so
far, where the loss rose in too few of the steps since the last one, or neither η nor the best loss has changed since.

An image is done as soon as one iterate misleads the model; the authors' code carries it to the last iteration. No
image's path depends on another's, so those that stay go where they go there, and the verdicts are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks.attack import Perturbation, is_correct

FIRST_WINDOW, SHRINKAGE, SHORTEST_WINDOW = 0.22, 0.03, 0.06
"""Steps up to the first checkpoint, by how many each window is shorter than the last, and the fewest; shares of all."""

RHO = 0.75
"""η is halved where the loss rose in no more than this share of a window's steps."""

MOMENTUM = 0.25
"""Weight 1 − α of the last move."""

COMPACT_AT = 0.9
"""Done images leave the working set once no more than this share of it is left: not one by one, since kernels are
planned, and models compiled, for a batch size."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (N, classes), labels (N,), targets (N,)) → what to ascend, (N,)."""


class Ascent(NamedTuple):
    """Where `ascend` ended, for N images.

    points: (N, channels, height, width), the first iterate that misled the model, the image itself where none did.
    broken: bool (N,), whether one did.
    best_loss: (N,), the highest loss met; of a broken image, up to where it left the working set.
    """

    points: Tensor
    broken: Tensor
    best_loss: Tensor


def auto_pgd(eps: float, iterations: int) -> Perturbation:
    """APGD-CE: one restart. Images that are wrong from the start come back as they are."""

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Ascend CE from a random start, for the images that are correct to begin with; see `Perturbation`."""
        with torch.no_grad():
            rows = is_correct(model(images), labels).nonzero().squeeze(1)
        adversarial = images.clone()
        if len(rows):
            x, y = images[rows], labels[rows]
            start = random_start(x, eps, _stream(generator))
            adversarial[rows] = ascend(model, x, y, y, start, eps, iterations, cross_entropy).points
        return adversarial

    return perturb


def targeted_auto_pgd(eps: float, targets: int, iterations: int) -> Perturbation:
    """APGD-T: one restart on each of the `targets` most likely wrong classes in turn, each for the images left.

    Images that are wrong from the start come back as they are.
    """

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Each run from a random start of its own, for the images no run has broken; see `Perturbation`."""
        with torch.no_grad():
            logits = model(images)
        rows, stream = is_correct(logits, labels).nonzero().squeeze(1), _stream(generator)
        ranked = logits.sort(dim=1).indices
        adversarial = images.clone()
        for rank in range(2, targets + 2):
            if not len(rows):
                break
            x, y = images[rows], labels[rows]
            start = random_start(x, eps, stream)
            ascent = ascend(model, x, y, ranked[rows, -rank], start, eps, iterations, targeted_dlr)
            adversarial[rows] = ascent.points
            rows = rows[~ascent.broken]
        return adversarial

    return perturb


def random_start(images: Tensor, eps: float, stream: torch.Generator) -> Tensor:
    """The points x + eps · u / ‖u‖_∞, u uniform in [−1, 1], clipped to [0, 1]; `stream` is the CPU's."""
    uniform = 2.0 * torch.rand(images.shape, generator=stream).to(images.device) - 1.0
    largest = uniform.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    return (images + eps * (uniform / (largest + 1e-12))).clamp(0.0, 1.0)


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(z)_y, (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """−(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2), (N,): Eq. 7 of Croce and Hein 2020. Needs 4 classes."""
    # In another order of summation an image in some hundreds goes another way than in the authors' code.
    ranked = logits.topk(4, dim=1).values
    spread = ranked[:, 0] - 0.5 * (ranked[:, 2] + ranked[:, 3]) + 1e-12
    pair = logits.gather(1, torch.stack((labels, targets), dim=1))
    return -(pair[:, 0] - pair[:, 1]) / spread


def checkpoints(iterations: int) -> dict[int, int]:
    """Step at whose end η is reviewed, from 1 → how many steps the review looks back: p_j of section 3.1, in steps."""
    window, shrinkage, shortest = (max(int(s * iterations), 1) for s in (FIRST_WINDOW, SHRINKAGE, SHORTEST_WINDOW))
    reviews, step = dict[int, int](), window
    while step <= iterations:
        reviews[step] = window
        window = max(window - shrinkage, shortest)
        step += window
    return reviews


def ascend(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    start: Tensor,
    eps: float,
    iterations: int,
    loss: Loss,
) -> Ascent:
    """Climb `loss` from `start` for `iterations` steps, or until the model is misled.

    Args:
        model: images → logits (N, classes), in eval mode.
        images: float32 in [0, 1], (N, channels, height, width), N at least 1: the centres of the balls.
        labels: int64 (N,).
        targets: int64 (N,), handed to `loss`.
        start: the images' shape, in the ball and [0, 1].
        eps: radius of the ball, above 0.
        iterations: at least 1; the model runs forward and back one time more.
        loss: what to climb.
    """
    reviews = checkpoints(iterations)
    found, broken = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    best_loss = images.new_empty(len(images))
    state = _begin(images, labels, targets, start, eps)
    for step in range(iterations + 1):
        if step:
            state.move(MOMENTUM if step > 1 else 0.0)
        misled = state.look(model, loss, first=step == 0)
        fresh = misled & state.standing
        if bool(fresh.any()):
            rows = state.rows[fresh]
            found[rows], broken[rows], best_loss[rows] = state.iterate[fresh], True, state.best_loss[fresh]
            state.standing &= ~misled
            left = int(state.standing.sum())
            if not left:
                return Ascent(found, broken, best_loss)
            if left <= COMPACT_AT * len(misled):
                state = state.select(state.standing)
        if step in reviews:
            state.review(reviews[step])
    best_loss[state.rows] = torch.where(state.standing, state.best_loss, best_loss[state.rows])
    return Ascent(found, broken, best_loss)


@dataclass
class _State:
    """The working set: of each of M images in it, what its path has come to; all tensors of M rows.

    rows: which of the N images it is; standing: not yet broken.
    low, high: the box that is ball and [0, 1] together.
    iterate, previous: x_k, x_{k−1}; gradient: ∇L(x_k); loss: L(x_k).
    best, best_gradient, best_loss: of the iterate of the highest loss.
    size: η, (M, 1, 1, 1).
    rises: in how many steps since the last review the loss rose; halved, last_review: whether η was halved then, and
        the best loss there.
    """

    rows: Tensor
    standing: Tensor
    labels: Tensor
    targets: Tensor
    low: Tensor
    high: Tensor
    iterate: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    size: Tensor
    rises: Tensor
    halved: Tensor
    last_review: Tensor

    def select(self, kept: Tensor) -> _State:
        """The working set of the rows that the mask `kept` keeps."""
        index = kept.nonzero().squeeze(1)
        return _State(*(getattr(self, field.name).index_select(0, index) for field in fields(self)))

    def move(self, momentum: float) -> None:
        """x_k → x_{k+1}."""
        # Sum by sum as the authors' code has it: to the last bit, or two paths part at the next vanishing gradient.
        ahead = (self.iterate + self.size * self.gradient.sign()).clamp_(self.low, self.high)
        ahead.sub_(self.iterate).mul_(1.0 - momentum).add_(self.iterate)
        ahead.add_((self.iterate - self.previous).mul_(momentum)).clamp_(self.low, self.high)
        self.previous, self.iterate = self.iterate, ahead

    def look(self, model: nn.Module, loss: Loss, *, first: bool) -> Tensor:
        """Run the model forward and back at x_k and note the loss; which images mislead it, bool (M,)."""
        with torch.enable_grad():
            inputs = self.iterate.detach().requires_grad_()
            logits = model(inputs).float()
            values = loss(logits, self.labels, self.targets)
            (self.gradient,) = torch.autograd.grad(values.sum(), inputs)
        values = values.detach()
        if first:
            self.best_loss = self.last_review = values
            self.best_gradient = self.gradient
        else:
            self.rises += values > self.loss
            better = values > self.best_loss
            self.best_loss = torch.where(better, values, self.best_loss)
            pixels = better.view(-1, 1, 1, 1)
            self.best = torch.where(pixels, self.iterate, self.best)
            self.best_gradient = torch.where(pixels, self.gradient, self.best_gradient)
            self.loss = values
        return logits.detach().argmax(dim=1) != self.labels

    def review(self, window: int) -> None:
        """Halve η and go back to the best point where the last `window` steps came to little: both conditions of 3.1.

        x_{k−1} stays, as in the authors' code: the next move's momentum is taken from the best point.
        """
        stuck = ~self.halved & (self.last_review >= self.best_loss)
        self.halved = (self.rises <= RHO * window) | stuck
        self.last_review = self.best_loss
        self.rises = torch.zeros_like(self.rises)
        pixels = self.halved.view(-1, 1, 1, 1)
        self.size = torch.where(pixels, self.size / 2.0, self.size)
        self.iterate = torch.where(pixels, self.best, self.iterate)
        self.gradient = torch.where(pixels, self.best_gradient, self.gradient)


def _begin(images: Tensor, labels: Tensor, targets: Tensor, start: Tensor, eps: float) -> _State:
    zeros = images.new_zeros(len(images))
    return _State(
        rows=torch.arange(len(images), device=images.device),
        standing=torch.ones_like(labels, dtype=torch.bool),
        labels=labels,
        targets=targets,
        low=(images - eps).clamp_(min=0.0),
        high=(images + eps).clamp_(max=1.0),
        iterate=start,
        previous=start,
        gradient=start,
        loss=zeros,  # the authors' code too compares the first step's loss with 0, not with the start's
        best=start,
        best_gradient=start,
        best_loss=zeros,
        size=torch.full_like(zeros, 2.0 * eps).view(-1, 1, 1, 1),
        rises=torch.zeros_like(labels),
        halved=torch.ones_like(labels, dtype=torch.bool),
        last_review=zeros,
    )


def _stream(generator: torch.Generator) -> torch.Generator:
    """A CPU stream from the generator's seed: what the authors' code draws from, on any device."""
    return torch.Generator().manual_seed(generator.initial_seed())
