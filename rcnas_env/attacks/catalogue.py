"""Attacks by name: look one up, check it against a data set, add one of your own.

>>> attack_entry("pgd-7").minimum_classes
2
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rcnas_env.attacks.attack import Attack, Component, Perturbation
from rcnas_env.registry import Registry, unknown_name
from rcnas_env.validation import require_integer, require_number

MAX_STEPS = 1_000
"""The most steps that the K of an iterated attack's name may ask for."""

Factory = Callable[[float, int], "Perturbation | Component | Sequence[Component]"]
"""(eps, classes) → one perturbation or component, or the components of an ensemble."""


@dataclass(frozen=True)
class AttackEntry:
    """A registered attack; cheap to look up: what the attack needs is imported when it is made.

    name: as looked up, "pgd-7" for instance.
    minimum_classes: the fewest classes that it works with.
    perturb_wrong: whether images that are classified wrongly are perturbed too, see `Attack`.
    alarms: whether a run looks for signs of an untrustworthy figure, see `Attack`.
    summary: one line for a table.
    revision: raised whenever a change to the attack's code changes what it returns, so that evaluations of before do
        not stand for it (`rcnas_env.evaluation.job.Job.key`); their trainings do.
    """

    name: str
    factory: Factory
    minimum_classes: int = 2
    perturb_wrong: bool = True
    alarms: bool = False
    summary: str = ""
    revision: int = 1

    def make(self, eps: float, classes: int) -> Attack:
        """The attack of L_inf radius `eps` (in [0, 1]) on models of `classes` logits.

        Raises:
            ValueError: eps is outside [0, 1], or classes are fewer than `minimum_classes`.
            ImportError: a package that the attack needs is missing (raised when the attack first runs).
        """
        radius = require_number("eps", eps, minimum=0.0, maximum=1.0)
        self.require_classes(classes)
        made = self.factory(radius, classes)
        if isinstance(made, Component):
            made = (made,)
        components = (Component(self.name, made),) if callable(made) else tuple(made)
        return Attack(self.name, radius, classes, components, self.perturb_wrong, self.alarms, self.revision)

    def require_classes(self, classes: int) -> None:
        """Check that the attack works with `classes` classes.

        Raises:
            ValueError: it needs more, or classes are fewer than 2.
        """
        if require_integer("classes", classes, 2) < self.minimum_classes:
            raise ValueError(
                f"attack {self.name!r} needs at least {self.minimum_classes} classes, got {classes} classes; "
                f"attack must be one that needs fewer, such as 'pgd-20'"
            )


_fixed: Registry[AttackEntry] = Registry("attack")
_iterated: Registry[Callable[[str, int], AttackEntry]] = Registry("attack")
_known: list[str] = []
_ITERATED_NAME = re.compile(r"(.+)-([0-9]+)")


def register_attack(
    name: str,
    factory: Factory,
    *,
    minimum_classes: int = 2,
    perturb_wrong: bool = True,
    alarms: bool = False,
    summary: str = "",
    revision: int = 1,
) -> AttackEntry:
    """Add an attack of your own; raise its `revision` when you change it.

    >>> def brighten(eps, classes):
    ...     return lambda model, images, labels, generator: (images + eps).clamp(max=1.0)
    >>> register_attack("brighten", brighten).name
    'brighten'

    Raises:
        ValueError: the name is taken, or of the form of an iterated attack (pgd-K); or revision is below 1.
    """
    require_integer("revision", revision, 1)
    if _split_iterated(name) is not None:
        raise ValueError(f"attack {name!r} is registered already, as one of a family")
    entry = AttackEntry(name, factory, minimum_classes, perturb_wrong, alarms, summary, revision)
    _fixed.register(name, entry)
    _known.append(name)
    return entry


def register_iterated_attack(
    family: str,
    factory: Callable[[float, int, int], Perturbation],
    *,
    canonical_steps: int,
    summary: str = "",
    revision: int = 1,
) -> None:
    """Add the attacks family-K, K from 1 to `MAX_STEPS`, made by factory(eps, classes, K).

    `known_attacks` lists the one with `canonical_steps`. Raise the `revision` when you change them.

    Raises:
        ValueError: the family is taken, canonical_steps are out of K's range, or revision is below 1.
    """
    require_integer("canonical_steps", canonical_steps, 1, MAX_STEPS)
    require_integer("revision", revision, 1)

    def entry(name: str, steps: int) -> AttackEntry:
        """The entry of the attack `name`, family-K with K = `steps`."""
        return AttackEntry(name, lambda eps, classes: factory(eps, classes, steps), summary=summary, revision=revision)

    _iterated.register(family, entry)
    _known.append(f"{family}-{canonical_steps}")


def known_attacks() -> tuple[str, ...]:
    """Names of all attacks, of an iterated one the canonical, in the order of registration."""
    return tuple(_known)


def attack_entry(name: str) -> AttackEntry:
    """The attack called `name`: "clean", "fgsm", "pgd-K", "cw-K", "autoattack", or a registered one.

    Raises:
        UnknownNameError: no such name; the message lists the known ones and the nearest.
        ValueError: the K of an iterated attack is outside 1 … `MAX_STEPS`, or has a leading zero.
    """
    iterated = _split_iterated(name)
    if iterated is not None:
        family, steps = iterated
        # A second spelling of one attack would be a second task, with another seed.
        if len(steps) > len(str(MAX_STEPS)) or not 1 <= int(steps) <= MAX_STEPS or steps.startswith("0"):
            raise ValueError(f"attack must be {family}-K with K an integer from 1 to {MAX_STEPS}, got {name!r}")
        return _iterated[family](name, int(steps))
    if name in _fixed:
        return _fixed[name]
    raise unknown_name("attack", name, [*_known, *(f"{family}-K" for family in _iterated)])


def validate_attack(name: str, classes: int) -> AttackEntry:
    """The attack called `name`, which works on a data set of `classes` classes.

    Raises:
        ValueError: there is no such attack (UnknownNameError), or it needs more classes.
    """
    entry = attack_entry(name)
    entry.require_classes(classes)
    return entry


def _split_iterated(name: object) -> tuple[str, str] | None:
    """(family, K as written) of an iterated attack's name, else None."""
    match = _ITERATED_NAME.fullmatch(name) if isinstance(name, str) else None
    return (match[1], match[2]) if match is not None and match[1] in _iterated else None
