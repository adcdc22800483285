"""Square Attack in the L_inf ball: random search with square windows (Andriushchenko et al. 2020), margin loss.

Every query sets one window of the perturbation, the same for all images, to ±2 eps a channel, clips to the ball, and
keeps that where the margin fell. Its side shrinks with the number of queries.

What cannot change anything is not asked, which on small images is most of it: a window that an image has already, and
a move that the image refused and that it has not changed since. A model that answers the same image twice alike, as
AutoAttack supposes, ends at the same image as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from rcnas_env.attacks.attack import Perturbation, is_correct
from rcnas_env.attacks.gradient import margins

FIRST_SHARE = 0.8
"""p: the window's share of the image at the first queries."""

HALVINGS = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)
"""p is halved after each of these queries: the paper's schedule for 10,000, which AutoAttack does not rescale."""

LONGEST_BLOCK = 64
"""The most queries tried at once."""


@dataclass(frozen=True)
class Moves:
    """Q moves in order, each for all images: a square window, and the sign it sets in each channel.

    side, row, column: int64 (Q,), of the window, in pixels; signs: (Q, channels), −1 or 1.
    repeats: int64 (Q,), the number, counted from 1, of the last move before that was the same; −1 if none was. An
        image that has not changed after that move has this one behind it too, refused or taken.
    """

    side: Tensor
    row: Tensor
    column: Tensor
    signs: Tensor
    repeats: Tensor

    def block(self, begin: int, end: int) -> Moves:
        """Moves begin … end − 1, counted from 0."""
        return Moves(*(getattr(self, field.name)[begin:end] for field in fields(self)))

    def changes(self, height: int, width: int) -> Tensor:
        """The signs inside the windows, 0 outside, (Q, channels, height, width)."""
        down, across = (
            (place >= start[:, None]) & (place < (start + self.side)[:, None])
            for place, start in (
                (torch.arange(height, device=self.row.device), self.row),
                (torch.arange(width, device=self.row.device), self.column),
            )
        )
        return self.signs[:, :, None, None] * (down[:, None, :, None] & across[:, None, None, :])


def square_attack(eps: float, queries: int) -> Perturbation:
    """Square Attack: one restart. Images that are wrong from the start come back as they are."""

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """What the search broke, else the clean image; draws on the CPU, by `generator`'s seed. See `Perturbation`."""
        stream = torch.Generator().manual_seed(generator.initial_seed())
        adversarial = images.clone()
        with torch.no_grad():
            rows = is_correct(model(images), labels).nonzero().squeeze(1)
            if len(rows):
                points, margin = search(model, images[rows], labels[rows], eps, queries, stream)
                # A margin of 0 or NaN ends the search too: the caller judges what the model makes of it.
                adversarial[rows] = torch.where((margin > 0.0).view(-1, 1, 1, 1), images[rows], points)
        return adversarial

    return perturb


def search(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, queries: int, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lower the margin z_y − max_{i ≠ y} z_i of each image until it is 0 or `queries` moves were tried.

    The moves do not depend on what they meet, so several can be tried at once: an image takes the first that lowers its
    margin and tries those after it again, from there. A forward pass holds at most N images, as at the start.

    Args:
        model: images → logits (N, classes), in eval mode and deterministic.
        images: float32 in [0, 1], (N, channels, height, width), N at least 1.
        labels: int64 (N,).
        eps: radius of the ball, above 0.
        queries: moves to try, at least 1; the model sees an image once more, for the start, or less often.
        stream: of random numbers, the CPU's.

    Returns:
        (best points, of the images' shape; their margins, (N,)).
    """
    stripes = torch.rand((*images.shape[:2], 1, images.shape[3]), generator=stream).to(images.device)
    points = (images + eps * torch.sign(2.0 * stripes - 1.0)).clamp_(0.0, 1.0)
    zeros = torch.zeros_like(labels)
    low, high = (images - eps).clamp_(min=0.0), (images + eps).clamp_(max=1.0)
    state = _State(points, margins(model(points).float(), labels), low, high, zeros, zeros.clone())
    moves = random_moves(queries, images.shape[1:], stream, images.device)
    begin, length = 0, 1
    while begin < queries and bool((state.margin > 0.0).any()):
        end = min(begin + length, queries)
        asked = _settle(moves.block(begin, end), begin, state, model, labels, eps)
        begin = end
        length = min(2 * length, LONGEST_BLOCK) if 2 * asked <= len(images) else max(length // 2, 1)
    return state.points, state.margin


@dataclass
class _State:
    """The search's N images: best points, their margins, and the box that is ball and [0, 1] together.

    changed: the query at which each last changed, 0 for the start; settled: up to which query it is through.
    """

    points: Tensor
    margin: Tensor
    low: Tensor
    high: Tensor
    changed: Tensor
    settled: Tensor


def _settle(moves: Moves, begin: int, state: _State, model: nn.Module, labels: Tensor, eps: float) -> int:
    """Take every image through `moves`, the first of which is number begin + 1.

    Returns:
        For how many pairs of move and image the answer was not known beforehand.
    """
    numbers = torch.arange(begin + 1, begin + 1 + len(moves.side), device=labels.device)
    steps = 2.0 * eps * moves.changes(*state.points.shape[2:])
    asked, most = -1, len(labels)
    while True:
        is_open = (state.settled < numbers[:, None]) & (state.changed > moves.repeats[:, None]) & (state.margin > 0.0)
        which, rows = is_open.nonzero().unbind(1)
        asked = len(rows) if asked < 0 else asked
        points = state.points[rows]
        candidates = (points + steps[which]).clamp_(state.low[rows], state.high[rows])
        differs = (candidates != points).flatten(1).any(dim=1).nonzero().squeeze(1)
        if not len(differs):
            return asked
        which, rows, candidates = which[differs], rows[differs], candidates[differs]
        batches = zip(candidates.split(most), rows.split(most), strict=True)
        reached = torch.cat([margins(model(batch).float(), labels[part]) for batch, part in batches])
        state.settled[rows] = numbers[-1]
        better = (reached < state.margin[rows]).nonzero().squeeze(1)
        if not len(better):
            return asked
        earliest = torch.full_like(labels, len(numbers)).scatter_reduce(0, rows[better], which[better], "amin")
        taken = better[which[better] == earliest[rows[better]]]
        rows = rows[taken]
        state.points[rows], state.margin[rows] = candidates[taken], reached[taken]
        state.changed[rows] = state.settled[rows] = numbers[which[taken]]


def random_moves(queries: int, shape: Sequence[int], stream: torch.Generator, device: torch.device) -> Moves:
    """`queries` moves on images of `shape` (channels, height, width), on `device`; `stream` is the CPU's.

    As in the authors' code, a window never reaches the last row and column unless it is as high or wide as the image.
    """
    channels, height, width = shape
    sides = torch.tensor([window_side(query, shape) for query in range(queries)])
    uniform = torch.rand((queries, 2 + channels), generator=stream)
    row, column = ((uniform[:, i] * (extent - sides)).long() for i, extent in enumerate((height, width)))
    signs = torch.sign(2.0 * uniform[:, 2:] - 1.0)
    repeats, last = list[int](), dict[tuple[float, ...], int]()
    for number, key in enumerate(zip(*(each.tolist() for each in (sides, row, column, *signs.T)), strict=True), 1):
        repeats.append(last.get(key, -1))
        last[key] = number
    return Moves(*(each.to(device) for each in (sides, row, column, signs, torch.tensor(repeats))))


def window_side(query: int, shape: Sequence[int]) -> int:
    """The window's side at `query`, from 0, in pixels: √(p · height · width), from 1 to the image's shorter side."""
    channels, height, width = shape
    share = FIRST_SHARE / 2 ** sum(query > halving for halving in HALVINGS)
    return min(max(round(math.sqrt(share * (channels * height * width) / channels)), 1), height, width)
