"""AutoAttack, standard version, L_inf (Croce and Hein 2020), out of torchattacks' components.

torchattacks' own `AutoAttack` runs fewer steps and more targets than the reference: 41.0 % robust where the reference
finds 38.0 %. Here each component has the reference's settings, and agrees with it sample by sample
(tests/test_autoattack.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rcnas_env.attacks.attack import Component, Perturbation
from rcnas_env.attacks.catalogue import register_attack

ITERATIONS = 100
"""Of APGD, APGD-T and FAB-T, a restart and target."""

MOST_TARGETS = 9
"""Target classes of APGD-T and FAB-T: the most likely wrong ones."""

SQUARE_QUERIES = 5_000

MINIMUM_CLASSES = 4
"""The targeted DLR loss needs the four highest logits."""


def autoattack_components(
    eps: float, classes: int, *, iterations: int = ITERATIONS, square_queries: int = SQUARE_QUERIES
) -> tuple[Component, Component, Component, Component]:
    """APGD-CE, APGD-T, FAB-T and Square, each for the survivors of those before it.

    Each is deterministic given the generator's initial seed, with which the reference seeds every batch of every
    component. The batches matter too: the same survivors in other batches get other random starts.

    Args:
        eps: L_inf radius, above 0.
        classes: of the model, at least 4.
        iterations: of the first three, a target; fewer than 100 is not the standard attack.
        square_queries: forward passes an image that Square may spend; fewer than 5,000 is not the standard attack.
    """
    targets = min(MOST_TARGETS, classes - 1)
    return (
        Component("apgd-ce", _apgd_ce(eps, iterations)),
        Component("apgd-t", _apgd_targeted(eps, targets, iterations)),
        Component("fab-t", _fab_targeted(eps, targets, iterations)),
        Component("square", _square(eps, square_queries), black_box=True),
    )


def _apgd_ce(eps: float, iterations: int) -> Perturbation:
    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        seed = generator.initial_seed()
        attack = _torchattacks().APGD(model, eps=eps, steps=iterations, n_restarts=1, seed=seed, loss="ce", rho=0.75)
        return _run(attack, images, labels)

    return perturb


def _apgd_targeted(eps: float, targets: int, iterations: int) -> Perturbation:
    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        seed = generator.initial_seed()
        attack = _torchattacks().APGDT(
            model, eps=eps, steps=iterations, n_restarts=1, seed=seed, rho=0.75, n_classes=targets + 1
        )
        attack.dlr_loss_targeted = _targeted_dlr
        return _run(attack, images, labels)

    return perturb


def _fab_targeted(eps: float, targets: int, iterations: int) -> Perturbation:
    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        seed = generator.initial_seed()
        attack = _torchattacks().FAB(
            model, eps=eps, steps=iterations, n_restarts=1, seed=seed, multi_targeted=True, n_classes=targets + 1
        )
        return _run(attack, images, labels)

    return perturb


def _square(eps: float, queries: int) -> Perturbation:
    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        seed = generator.initial_seed()
        attack = _torchattacks().Square(
            model, eps=eps, n_queries=queries, n_restarts=1, p_init=0.8, seed=seed, loss="margin", resc_schedule=False
        )
        height, width = images.shape[2:]
        share, largest = attack.p_selection, min(height, width) ** 2 / (height * width)
        # On images that are not square its squares would be larger than the image; the reference caps their side.
        attack.p_selection = lambda iteration: min(share(iteration), largest)
        return _run(attack, images, labels)

    return perturb


def _targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """−(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2), (N,): the targeted DLR loss of Croce and Hein 2020.

    torchattacks sums the denominator in another order, which sends an image in some hundreds another way than the
    reference does.
    """
    rows = torch.arange(len(logits), device=logits.device)
    ranked = logits.sort(dim=1).values
    spread = ranked[:, -1] - 0.5 * (ranked[:, -3] + ranked[:, -4]) + 1e-12
    return -(logits[rows, labels] - logits[rows, targets]) / spread


def _run(attack: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Run a component of torchattacks on one batch."""
    attack.set_device(images.device)
    # `forward`, not the call: that would switch the train and eval modes of the model's whole module tree. FAB takes
    # views that need contiguous images.
    return attack.forward(images.contiguous(), labels)


def _torchattacks() -> Any:
    try:
        import torchattacks
    except ImportError as error:
        raise ImportError(
            "attack 'autoattack' needs the package torchattacks: pip install --no-deps torchattacks==3.5.1 "
            "(--no-deps, as it pins an old requests that it never imports)"
        ) from error
    return torchattacks


register_attack(
    "autoattack",
    autoattack_components,
    minimum_classes=MINIMUM_CLASSES,
    perturb_wrong=False,
    alarms=True,
    summary="APGD-CE, APGD-T, FAB-T and Square, each on the survivors of those before it",
)
