"""What an attack is: an L_inf radius and one or more perturbations, run in order.

Images are float32 in [0, 1], eps is in the same units, models return logits and hold their own normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rcnas_env.attacks.progress import AttackState, Notes, ProgressFile

BALL_TOLERANCE = 1e-6
"""How far beyond the ball or [0, 1] float32 rounding may carry an attack; more is an error."""


class Perturbation(Protocol):
    """Any function that perturbs one batch: what `register_attack` takes."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, /) -> Tensor:
        """Perturb `images`.

        Args:
            model: images → logits (N, classes), in eval mode.
            images: float32 in [0, 1], (N, channels, height, width).
            labels: int64 (N,).
            generator: the only source of randomness, on the images' device.

        Returns:
            A new tensor of the images' shape, in [0, 1] and within eps of `images`.
        """
        ...


class WholeSetPerturbation(Perturbation, Protocol):
    """A perturbation that must see every image to choose which to attack, and so batches for itself."""

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
        """Perturb `images`, all that are to be attacked; see `Perturbation`.

        Args:
            model: as there.
            images: as there.
            labels: as there.
            generator: as there.
            batch_size: images a forward pass, at least 1; None takes all at once.
            notes: where to keep what has been reached, and what an interrupted run kept; None keeps nothing.
        """
        ...


@dataclass(frozen=True)
class Component:
    """One perturbation of an attack.

    black_box: it uses no gradient: see `alarms.warn_if_black_box_wins`.
    settings: what tells it from another component of its name, such as how many iterations it has. An attack that was
        interrupted goes on only where they are the same.
    """

    name: str
    perturb: Perturbation
    black_box: bool = False
    settings: str = ""

    def batches(self, survivors: Tensor, batch_size: int) -> tuple[Tensor, ...]:
        """The indices `survivors`, int64 (M,), as they are handed to `candidates`: in batches."""
        return survivors.split(batch_size)

    def candidates(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        batch_size: int,
        notes: Notes,
    ) -> Tensor:
        """Perturb one of the `batches`; see `WholeSetPerturbation`, whose last two arguments are unused here."""
        return self.perturb(model, images, labels, generator)


@dataclass(frozen=True)
class WholeSetComponent(Component):
    """A component that is handed all survivors at once, with the batch size for its own forward passes."""

    perturb: WholeSetPerturbation

    def batches(self, survivors: Tensor, batch_size: int) -> tuple[Tensor, ...]:
        """All of `survivors`, int64 (M,), as the only batch."""
        return (survivors,)

    def candidates(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        batch_size: int,
        notes: Notes,
    ) -> Tensor:
        """Perturb all survivors; see `WholeSetPerturbation`."""
        return self.perturb(model, images, labels, generator, batch_size=batch_size, notes=notes)


@dataclass(frozen=True)
class Attack:
    """A callable (model, images, labels, generator) → adversarial images. `run_attack` is the safe way to call it.

    name: as in the registry.
    eps: radius of the L_inf ball, in [0, 1]; 0 returns the clean images.
    classes: how many logits the model returns.
    components: run in order; none at all is the "clean" attack. One that is a `WholeSetComponent` is handed all its
        images at once.
    perturb_wrong: True perturbs every image, correct or not (Eq. 1 needs that), and returns what the one component
        gives. False attacks each component's survivors only, regrouped into full batches, and returns the clean
        image wherever no component succeeds.
    alarms: look for the signs that a robustness figure is not to be trusted (`rcnas_env.attacks.alarms`).
    revision: of its code (`rcnas_env.attacks.catalogue.AttackEntry`).

    Raises:
        ValueError: several components with `perturb_wrong`: which of their images would it return?
    """

    name: str
    eps: float
    classes: int
    components: tuple[Component, ...]
    perturb_wrong: bool = True
    alarms: bool = False
    revision: int = 1

    def __post_init__(self) -> None:
        if self.perturb_wrong and len(self.components) > 1:
            names = ", ".join(component.name for component in self.components)
            raise ValueError(f"perturb_wrong must be False for an attack of several components, got True for {names}")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Attack one batch as it is: without the guard, in the mode that `model` is in. See `Perturbation`."""
        if not len(images):
            return images.clone()
        if self.perturb_wrong:
            standing = torch.ones_like(labels, dtype=torch.bool)
        else:
            with torch.no_grad():
                standing = is_correct(model(images), labels)
        return self.perturb(model, images, labels, standing, generator, len(images))[0]

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        standing: Tensor,
        generator: torch.Generator,
        batch_size: int,
        progress: ProgressFile | None = None,
        judge: nn.Module | None = None,
    ) -> tuple[Tensor, dict[str, int]]:
        """Attack in batches; `standing`, bool (N,), says which images are classified correctly to begin with.

        With `progress`, goes on from where that file says, and writes to it after every batch. `judge`, where it is not
        `model` itself, says which images stand (`run_attack`).

        Returns:
            (adversarial images, how many images each component broke; empty where `perturb_wrong`).

        Raises:
            ValueError: a component's images have another shape, are not finite, or leave the ball or [0, 1].
        """
        every = torch.arange(len(images), device=images.device)
        survivors = every if self.perturb_wrong else every[standing]
        state = AttackState(images.clone(), standing.clone(), survivors)
        if self.eps == 0.0:
            return state.adversarial, state.broken
        if progress is not None:
            progress.restore(state, generator)

        def keep(tensors: Mapping[str, Tensor]) -> None:
            """Take over a component's notes, and write them down where there is a file."""
            state.notes = dict(tensors)
            if progress is not None:
                progress.save(state, generator)

        while state.component < len(self.components) and len(state.survivors):
            component = self.components[state.component]
            for batch in component.batches(state.survivors, batch_size)[state.batch :]:
                x, y, notes = images[batch], labels[batch], Notes(state.notes, keep)
                candidates = component.candidates(model, x, y, generator, batch_size, notes)
                candidates = into_ball(component.name, candidates, x, self.eps)
                if self.perturb_wrong:
                    state.adversarial[batch] = candidates
                else:
                    stands = _stands(model if judge is None else judge, candidates, y, batch_size)
                    state.adversarial[batch[~stands]] = candidates[~stands]
                    state.standing[batch] = stands
                state.finish_batch()
                if progress is not None:
                    progress.save(state, generator)
            if not self.perturb_wrong:
                survivors = every[state.standing]
                state.broken[component.name] = len(state.survivors) - len(survivors)
            state.finish_component(survivors)
        return state.adversarial, state.broken


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of `logits` (N, classes) are highest at their label, bool (N,); a row with a NaN is not."""
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


def into_ball(name: str, candidates: Tensor, images: Tensor, eps: float) -> Tensor:
    """Project `candidates`, which may be off by rounding, onto the L_inf ball of `eps` around `images` and [0, 1].

    Raises:
        ValueError: another shape, or a pixel that is not finite or off by more than `BALL_TOLERANCE`.
    """
    if candidates.shape != images.shape:
        shape, wanted = tuple(candidates.shape), tuple(images.shape)
        raise ValueError(f"attack component {name!r} must return images of shape {wanted}, got {shape}")
    candidates = candidates.detach().to(images.dtype)
    inside = candidates.clamp(images - eps, images + eps).clamp(0.0, 1.0)
    excess = (candidates - inside).abs().max().item()
    if not excess <= BALL_TOLERANCE:  # so written, NaN is an error too
        raise ValueError(
            f"attack component {name!r} must stay in [0, 1] and within eps = {eps:g} of the images, "
            f"got pixels off by {excess:.3g}"
        )
    return inside


def _stands(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Which `images` the model still classifies correctly, bool (N,)."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    with torch.no_grad():
        return torch.cat([is_correct(model(each), own) for each, own in parts])
