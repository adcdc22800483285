"""A3, the adaptive auto attack, L_inf (Liu et al., CVPR 2022): restarts that learn where to start, and drop the rest.

Each restart leads the images along a direction w of logits to a start of margin PGD (adaptive direction
initialisation). The first random directions show which w succeed on this model; later ones lean that way and name a
target class. Each round attacks only the images that came closest to breaking (statistics-based discarding), so that
they must all be in sight: a `WholeSetComponent`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from rcnas_env.attacks.adaptive_schedule import (
    DIRECTION_STEPS,
    LEARNING_ROUND,
    LEAST_IMAGES,
    ROUNDS,
    Round,
    lean_of_round,
    step_size,
    targets_in_turn,
)
from rcnas_env.attacks.attack import WholeSetComponent, is_correct
from rcnas_env.attacks.catalogue import register_attack
from rcnas_env.attacks.gradient import margins
from rcnas_env.attacks.progress import Notes


def adaptive_auto_attack(eps: float, classes: int, *, rounds: Sequence[Round] = ROUNDS) -> tuple[WholeSetComponent]:
    """A3 in the L_inf ball of `eps`, as the only component of an attack.

    The images that it could not break come back clean. A restart of S iterations costs an image S + 9 forward passes
    and one backward pass fewer, in round 0 each 7 fewer, and less where the image breaks on the way.

    Args:
        eps: L_inf radius, above 0.
        classes: of the model, at least 2.
        rounds: fewer than `ROUNDS` is not the standard attack.

    Raises:
        ValueError: there are no rounds.
    """
    if not rounds:
        raise ValueError("rounds must be at least one Round, got none")
    return (WholeSetComponent("a3", _AdaptiveAutoAttack(eps, classes, tuple(rounds)), settings=repr(tuple(rounds))),)


@dataclass
class _Images:
    """The M images under attack and what is known of them.

    images: float32 (M, channels, height, width), clean.
    labels: int64 (M,).
    adversarial: broken images as they broke, the others clean.
    standing: bool (M,).
    best: (M,), the highest max_{i ≠ y} z_i − z_y met so far in a restart.
    ranking: int64 (M, classes), the true class, then the others, the most likely first.
    leanings: (2,), s_y and s_w: see `lean_of_round`.
    restarts: (), done so far.
    """

    images: Tensor
    labels: Tensor
    adversarial: Tensor
    standing: Tensor
    best: Tensor
    ranking: Tensor
    leanings: Tensor
    restarts: Tensor

    @classmethod
    def untouched(cls, images: Tensor, labels: Tensor, classes: int) -> _Images:
        """Nothing tried yet."""
        return cls(
            images,
            labels,
            adversarial=images.clone(),
            standing=torch.ones_like(labels, dtype=torch.bool),
            best=images.new_full((len(images),), float("-inf")),
            ranking=labels.new_zeros(len(labels), classes),
            leanings=images.new_zeros(2),
            restarts=labels.new_zeros(()),
        )

    def findings(self) -> dict[str, Tensor]:
        """All but the images and labels, by name: the tensors themselves, so that they can be filled in too."""
        return {each.name: getattr(self, each.name) for each in fields(self)[2:]}

    def closest(self, share: float) -> Tensor:
        """Indices of the `share` of the standing images with the highest `best`, at least `LEAST_IMAGES`."""
        standing = self.standing.nonzero().squeeze(1)
        count = max(int(share * len(standing)), LEAST_IMAGES)
        order = self.best[standing].sort(descending=True, stable=True).indices
        return standing[order[:count]]

    def retire(self, broken: Tensor, adversarial: Tensor) -> None:
        """Enter that the images at the indices `broken` broke as `adversarial`."""
        self.adversarial[broken] = adversarial
        self.standing[broken] = False


@dataclass(frozen=True)
class _AdaptiveAutoAttack:
    """The perturbation of `adaptive_auto_attack`: a `WholeSetPerturbation`."""

    eps: float
    classes: int
    rounds: tuple[Round, ...]

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        /,
        batch_size: int | None = None,
        notes: Notes | None = None,
    ) -> Tensor:
        batch_size, notes = batch_size or max(len(images), 1), notes or Notes()
        known = _Images.untouched(images, labels, self.classes)
        if notes.found:
            for name, tensor in known.findings().items():
                tensor.copy_(notes.found[name])
        else:
            for batch in torch.arange(len(images), device=images.device).split(batch_size):
                self._rank(model, known, batch, generator)
        plan = [number for number, each in enumerate(self.rounds) for _ in range(each.repeats)]
        for number in plan[int(known.restarts) :]:
            if not known.standing.any():
                break
            for batch in known.closest(self.rounds[number].share).split(batch_size):
                self._restart(model, known, batch, number, generator)
            known.restarts += 1
            notes.keep(known.findings())
        return known.adversarial

    def _rank(self, model: nn.Module, known: _Images, batch: Tensor, generator: torch.Generator) -> None:
        """Break what breaks by x + eps · sign(u), u uniform, and rank the classes of the others there."""
        x, y = known.images[batch], known.labels[batch]
        attacked = (x + self.eps * _uniform(x.shape, -1.0, 1.0, x, generator).sign()).clamp(0.0, 1.0)
        with torch.no_grad():
            logits = model(attacked).float()
        stands = is_correct(logits, y)
        known.retire(batch[~stands], attacked[~stands])
        true_first = logits.scatter(1, y[:, None], float("inf"))
        known.ranking[batch] = true_first.argsort(dim=1, descending=True, stable=True)

    def _restart(
        self, model: nn.Module, known: _Images, batch: Tensor, number: int, generator: torch.Generator
    ) -> None:
        """One restart of round `number` on the images at the indices `batch`, which leave it as they break."""
        x = known.images[batch]
        low, high = (x - self.eps).clamp(min=0.0), (x + self.eps).clamp(max=1.0)
        directions = self._directions(known, batch, number, generator)
        iterate = (x + _uniform(x.shape, -self.eps, self.eps, x, generator)).clamp(low, high)
        iterations = self.rounds[number].iterations
        lead = 0 if directions is None else DIRECTION_STEPS
        sizes = [self.eps] * lead + [step_size(step, iterations, self.eps) for step in range(iterations + 1)]
        active = torch.arange(len(batch), device=batch.device)
        for step in range(len(sizes) + 1):
            labels = known.labels[batch[active]]
            weights = directions[active] if directions is not None and step < lead else None
            logits, gradient = _ascent(model, iterate, labels, weights, last=step == len(sizes))
            known.best[batch[active]] = known.best[batch[active]].fmax(-margins(logits, labels))
            stands = is_correct(logits, labels)
            known.retire(batch[active[~stands]], iterate[~stands])
            if number == LEARNING_ROUND and directions is not None:
                succeeded, ends = directions[active[~stands]], torch.stack([labels, logits.argmax(dim=1)], dim=1)
                known.leanings += succeeded.gather(1, ends[~stands]).sum(dim=0)
            active = active[stands]
            if step == len(sizes) or not len(active):
                return
            moved = iterate[stands] + sizes[step] * gradient[stands].sign()
            iterate = moved.clamp(low[active], high[active])

    def _directions(self, known: _Images, batch: Tensor, number: int, generator: torch.Generator) -> Tensor | None:
        """The w of a restart of round `number`, (B, classes); None in round 0."""
        if number < LEARNING_ROUND:
            return None
        directions = _uniform((len(batch), self.classes), -1.0, 1.0, known.best, generator)
        if number == LEARNING_ROUND:
            return directions
        lean = lean_of_round(number, *known.leanings.tolist())
        before = sum(each.repeats for each in self.rounds[: LEARNING_ROUND + 1])
        # The second-ranked class is the first target; the authors' count happens to begin with the third.
        turn = (int(known.restarts) - before) % targets_in_turn(number, self.classes)
        targets = known.ranking[batch, 1 + turn]
        own = _uniform((len(batch), 1), *lean.own, known.best, generator)
        directions.scatter_(1, known.labels[batch][:, None], own * self.classes / 10)
        return directions.scatter(1, targets[:, None], lean.target * self.classes / 10)


def _ascent(
    model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor | None, *, last: bool
) -> tuple[Tensor, Tensor]:
    """Logits of `images` and the gradient of Σ wᵀz, or without `weights` of Σ max_{i ≠ y} z_i − z_y, in one pass.

    Of the `last` images only the logits are of use: the gradient is the images themselves, untouched.
    """
    if last:
        with torch.no_grad():
            return model(images).float(), images
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = model(inputs).float()
        gain = -margins(logits, labels).sum() if weights is None else (weights * logits).sum()
        (gradient,) = torch.autograd.grad(gain, inputs)
    return logits.detach(), gradient


def _uniform(shape: Sequence[int], low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """U(low, high) of a shape, of the type and on the device of `like`."""
    drawn = torch.rand(tuple(shape), generator=generator, dtype=like.dtype, device=like.device)
    return low + (high - low) * drawn


register_attack(
    "a3",
    adaptive_auto_attack,
    perturb_wrong=False,
    alarms=True,
    summary="adaptive auto attack: margin PGD from learned directions, on the images closest to breaking",
)
