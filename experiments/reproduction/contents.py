"""What each of the paper's tables compares: its rows, columns, data sets and budget groups.

A row is a fixed network, the student that a search found, or a teacher trained or pruned by another method. Roles and
column keys are those of the reported tables (`experiments.reported_tables`), so that figures meet their counterparts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from experiments.reproduction.networks import TEACHER
from experiments.reproduction.scale import ATTACKS, Scale

VARIANTS = ("rc-nas", "r-nas", "no-lips", "no-cost", "no-annealing")
"""Searches: meta-trained and fine-tuned; not meta-trained; and RC-NAS without one of its components each."""


@dataclass(frozen=True)
class Entry:
    """One row of every group of a table.

    role: the part of the row's role after the group, as the reported tables have it.
    label: first label of the row; None for the network's own name.
    source: "network" (fixed, by its role), "search" (the student that `variant` found for the column's task),
        "pruned" (the teacher, its weights zeroed).
    network: role of the fixed network.
    variant: of the search.
    method: of training; of pruning where the source is "pruned".
    """

    role: str
    label: str | None = None
    source: Literal["network", "search", "pruned"] = "network"
    network: str = TEACHER
    variant: str = ""
    method: str = "trades"


@dataclass(frozen=True)
class ColumnSpec:
    """A column of every data set of a table.

    attack: the attack measured, as registered.
    key: the part of the column's key after the data set.
    heading: of the column.
    searched: the attack under which the row's student was searched; the column's own if None.
    epsilon_factor: radius as a multiple of the data set's.
    """

    attack: str
    key: str
    heading: str
    searched: str | None = None
    epsilon_factor: float = 1.0


@dataclass(frozen=True)
class TableSpec:
    """A table: `entries` for each group, `columns` for each place, parameters and MACs first where `sizes`."""

    name: str
    caption: str
    places: tuple[str, ...]
    groups: tuple[str, ...]
    entries: tuple[Entry, ...]
    columns: tuple[ColumnSpec, ...]
    label_headings: tuple[str, ...] = ("Model", "Budget")
    sizes: bool = False
    grouped_roles: bool = True

    def role(self, group: str, entry: Entry) -> str:
        """The role of a row, as the reported table has it: with the group before it where there are several."""
        return f"{group}/{entry.role}" if self.grouped_roles else entry.role


HEADINGS = {"clean": "Clean", "pgd-20": "PGD-20", "cw-40": "CW-40", "autoattack": "AutoAttack"}
MAIN_COLUMNS = tuple(ColumnSpec(attack, attack, HEADINGS[attack]) for attack in ATTACKS)
EPSILONS = {"4/255": 0.5, "8/255": 1.0, "12/255": 1.5, "16/255": 2.0}
"""Table 2's radii at CIFAR; elsewhere the same multiples of the data set's radius."""
NEWER_ATTACKS = {
    "autoattack": ("autoattack", "AutoAttack"),
    "boundary": ("boundary-substitute", "Boundary"),
    "neuron": ("naa", "Neuron (NAA)"),
    "a3-discovered": ("discovered-reduced", "A^3, reduced"),
    "a3": ("a3", "A3"),
}
"""Column of Table 3 → (registered attack that stands for it, heading)."""

RC_NAS = Entry("rc-nas", "RC-NAS", "search", variant="rc-nas")
R_NAS = Entry("r-nas", "R-NAS", "search", variant="r-nas")
RULE = Entry("robustresnet", None, network="robustresnet")
RIVALS = (
    Entry("teacher"),
    *(Entry(role, None, network=role) for role in ("robnet-large-v2", "wrn-34-r", "advrush", "racl")),
    RULE,
    RC_NAS,
)
METHODS = (
    *(Entry(method, method.upper(), method=method) for method in ("trades", "mart", "sat")),
    *(Entry(method, name, "pruned", method=method) for method, name in (("hydra", "Hydra"), ("harp", "HARP"))),
    R_NAS,
    RC_NAS,
)
COMPONENTS = (
    Entry("no-lips", "without LIPS", "search", variant="no-lips"),
    Entry("no-cost", "without Cost", "search", variant="no-cost"),
    Entry("no-annealing", "without annealing", "search", variant="no-annealing"),
    Entry("full", "all of them", "search", variant="rc-nas"),
)

_CIFAR, _TINY, _ALL = ("cifar10", "cifar100"), ("tiny-imagenet",), ("5G", "10G", "20G", "40G")

TABLES = {
    spec.name: spec
    for spec in (
        TableSpec("table1", "Baseline comparison", _CIFAR, _ALL, RIVALS, MAIN_COLUMNS, sizes=True),
        TableSpec(
            "table2",
            "Robustness against different PGD attack levels",
            ("cifar10",),
            ("5G", "10G"),
            (RC_NAS, RULE),
            tuple(
                ColumnSpec("pgd-20", f"pgd-20@{radius}", f"PGD-20, {factor:g} × radius", "pgd-20", factor)
                for radius, factor in EPSILONS.items()
            ),
        ),
        TableSpec(
            "table3",
            "Robustness against newer attacks",
            ("cifar10",),
            ("5G",),
            (RC_NAS, RULE),
            tuple(ColumnSpec(attack, key, heading) for key, (attack, heading) in NEWER_ATTACKS.items()),
        ),
        TableSpec("table5", "Baseline comparison at Tiny-ImageNet's place", _TINY, ("20G", "40G"), RIVALS,
                  MAIN_COLUMNS, sizes=True),
        TableSpec("table6", "RL against pruning and adversarial training", _TINY, ("20G", "40G"), METHODS,
                  MAIN_COLUMNS, ("Method", "Budget")),
        TableSpec("table7", "Effectiveness of key components", _TINY, ("20G",), COMPONENTS, MAIN_COLUMNS,
                  ("Components", "Budget"), grouped_roles=False),
        TableSpec("table9", "RL against pruning and adversarial training", _CIFAR, ("5G", "10G"), METHODS,
                  MAIN_COLUMNS, ("Method", "Budget")),
        TableSpec("table10", "Design component ablations", _CIFAR, ("10G",), COMPONENTS, MAIN_COLUMNS,
                  ("Components", "Budget"), grouped_roles=False),
    )
}  # fmt: skip
"""By name. Table 4 is of times, and has neither entries nor columns of accuracies: `experiments.reproduction.building`.
Table 8 is the paper's list of notations."""

FIGURES = {
    "figure1": (("tiny-imagenet",), ("20G", "40G"), ("clean", "autoattack")),
    "figure3": (("tiny-imagenet",), ("20G",), ("autoattack",)),
    "figure4": (("cifar10", "cifar100"), ("5G", "10G"), ("autoattack",)),
    "figure6": (("cifar10", "cifar100"), ("5G", "10G", "20G"), ("clean", "autoattack")),
}
"""Figure → (data sets, groups, attacks) whose searches it draws. Figures 2 and 5 are diagrams of the method."""

TARGETS = ("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table9", "table10", *FIGURES)
"""All that can be reproduced, in the paper's order."""


def groups_of(scale: Scale, name: str, groups: Sequence[str]) -> tuple[str, ...]:
    """The groups that a table or figure has at this scale."""
    return tuple(group for group in scale.table_groups.get(name, groups) if group in groups and group in scale.groups)


def places_of(scale: Scale, name: str, places: Sequence[str], missing: Sequence[str] = ()) -> tuple[str, ...]:
    """The places that a table or figure has at this scale, without those whose data set is among `missing`."""
    here = tuple(place for place in scale.table_places.get(name, places) if place in places and place in scale.datasets)
    return tuple(place for place in here if scale.datasets[place] not in missing)


def reason_left_out(scale: Scale, name: str, missing: Sequence[str] = ()) -> str:
    """Why a target cannot be made, such as the data set that is not there; empty where it can."""
    places, groups = _extent(name)
    here = places_of(scale, name, places)
    if not here:
        return f"scale {scale.name} has no data set at the place of {' or '.join(places)}"
    if not groups_of(scale, name, groups):
        return f"scale {scale.name} has none of its budget groups ({', '.join(groups)})"
    if not places_of(scale, name, places, missing):
        needed = dict.fromkeys(scale.datasets[place] for place in here)
        return f"it needs {' or '.join(needed)}, which is not wanted or not here (docs/data.md)"
    return ""


def _extent(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Places and budget groups of a target in the paper; Table 4 has all of both."""
    if name in TABLES:
        return TABLES[name].places, TABLES[name].groups
    if name in FIGURES:
        return FIGURES[name][:2]
    return _CIFAR + _TINY, _ALL
