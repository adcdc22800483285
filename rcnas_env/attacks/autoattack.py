"""AutoAttack, standard version, L_inf (Croce and Hein 2020), and its first two components alone as "auto-lite".

The components are the project's own, with the settings and the random numbers of the authors' code; their verdicts
agree with it sample by sample (tests/test_autoattack.py). They take fewer seconds: an image leaves a component as soon
as it is broken, and nothing is computed that cannot change a verdict.
"""

from __future__ import annotations

from rcnas_env.attacks.apgd import auto_pgd, targeted_auto_pgd
from rcnas_env.attacks.attack import Component
from rcnas_env.attacks.catalogue import register_attack
from rcnas_env.attacks.fab import targeted_fab
from rcnas_env.attacks.square import square_attack

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
        *_lite_components(eps, classes, iterations),
        Component("fab-t", targeted_fab(eps, targets, iterations), settings=f"{iterations} iterations"),
        Component("square", square_attack(eps, square_queries), True, f"{square_queries} queries"),
    )


def _lite_components(eps: float, classes: int, iterations: int = ITERATIONS) -> tuple[Component, Component]:
    targets = min(MOST_TARGETS, classes - 1)
    return (
        Component("apgd-ce", auto_pgd(eps, iterations), settings=f"{iterations} iterations"),
        Component("apgd-t", targeted_auto_pgd(eps, targets, iterations), settings=f"{iterations} iterations"),
    )


register_attack(
    "autoattack",
    autoattack_components,
    minimum_classes=MINIMUM_CLASSES,
    perturb_wrong=False,
    alarms=True,
    summary="APGD-CE, APGD-T, FAB-T and Square, each on the survivors of those before it",
)
register_attack(
    "auto-lite",
    _lite_components,
    minimum_classes=MINIMUM_CLASSES,
    perturb_wrong=False,
    alarms=True,
    summary="AutoAttack's APGD-CE and APGD-T only: for a search, not for final figures",
)
