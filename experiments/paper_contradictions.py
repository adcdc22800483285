"""Where figures of the paper contradict its claims or each other.

Each is stated as pairs of places whose figures stand in a relation that they should not, so that a test finds it in the
tables themselves. No figure is repeated here.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

from experiments.reported_tables import load_reported

Statistic = Literal["value", "deviation"]


@dataclass(frozen=True)
class Place:
    """A figure of the paper: table, role of the row, key of the column; its value or its deviation."""

    table: str
    role: str
    key: str
    statistic: Statistic = "value"

    @property
    def figure(self) -> float:
        """What the paper prints there.

        Raises:
            ValueError: it prints nothing there.
        """
        cell = load_reported(self.table).cell(self.role, self.key)
        figure = None if cell is None else getattr(cell, self.statistic)
        if figure is None:
            raise ValueError(f"{self} must be a figure of the paper, got none there")
        return float(figure)


@dataclass(frozen=True)
class Contradiction:
    """Pairs of figures that cannot both be right, or that deny a claim.

    id: short name.
    relation: "above": the first of each pair is above the second; "differs": they differ, though they are of the same.
    pairs: at least one.
    why: what they contradict.
    """

    id: str
    relation: Literal["above", "differs"]
    pairs: tuple[tuple[Place, Place], ...]
    why: str

    def holds(self) -> bool:
        """Whether the printed figures of every pair stand in the relation."""
        order = operator.gt if self.relation == "above" else operator.ne
        return all(order(first.figure, second.figure) for first, second in self.pairs)


ATTACKS = ("pgd-20", "cw-40", "autoattack")
METHODS = ("trades", "mart", "sat", "hydra", "harp", "r-nas", "rc-nas")
COMPONENTS = ("no-lips", "no-cost", "no-annealing", "full")
TINY_ROWS = (
    *(("table5", f"{group}/{role}") for group in ("20G", "40G") for role in ("robustresnet", "rc-nas")),
    *(("table6", f"{group}/{role}") for group in ("20G", "40G") for role in METHODS),
    *(("table7", role) for role in COMPONENTS),
)
"""Rows on Tiny-ImageNet but for the teachers and cell networks of Table 5."""


def _within(table: str, role: str, first: str, second: str) -> tuple[Place, Place]:
    return Place(table, role, first), Place(table, role, second)


def _rows(table: str, first: str, second: str, key: str, statistic: Statistic = "value") -> tuple[Place, Place]:
    return Place(table, first, key, statistic), Place(table, second, key, statistic)


CONTRADICTIONS = (
    Contradiction(
        "more-robust-at-larger-radius",
        "above",
        tuple(
            _within("table2", "10G/robustresnet", f"cifar10/pgd-20@{larger}/255", f"cifar10/pgd-20@{smaller}/255")
            for larger in (12, 16)
            for smaller in (4, 8)
        ),
        "A ball of a larger radius holds the smaller: RobustResNet-A2 cannot be more accurate at 12/255 and 16/255 than"
        " at 4/255 and 8/255. With its figures at the larger radii, RC-NAS leads by less than half a point.",
    ),
    Contradiction(
        "autoattack-weaker-than-pgd",
        "above",
        tuple(_within(*row, "tiny-imagenet/autoattack", "tiny-imagenet/pgd-20") for row in TINY_ROWS),
        "AutoAttack counts an image as broken if any of its four attacks breaks it, two of which are stronger forms of"
        " PGD. Of white-box figures it is below PGD's, as in all of Tables 1, 9 and 10 and for the teachers and cell"
        " networks of Table 5.",
    ),
    Contradiction(
        "autoattack-weaker-than-cw",
        "above",
        (
            *(
                _within("table1", f"{group}/rc-nas", "cifar100/autoattack", "cifar100/cw-40")
                for group in ("10G", "40G")
            ),
            _within("table9", "10G/r-nas", "cifar100/autoattack", "cifar100/cw-40"),
            *(
                _within("table6", f"{group}/{role}", "tiny-imagenet/autoattack", "tiny-imagenet/cw-40")
                for group, roles in (
                    ("20G", ("trades", "mart", "sat", "r-nas")),
                    ("40G", ("trades", "mart", "sat", "hydra", "harp", "r-nas")),
                )
                for role in roles
            ),
        ),
        "As above: AutoAttack's targeted attack is a stronger form of CW's loss under projected steps.",
    ),
    Contradiction(
        "cw-weaker-than-pgd",
        "above",
        (
            *(
                _within("table5", f"{group}/{role}", "tiny-imagenet/cw-40", "tiny-imagenet/pgd-20")
                for group in ("20G", "40G")
                for role in ("teacher", "advrush", "racl")
            ),
            *(_within(*row, "tiny-imagenet/cw-40", "tiny-imagenet/pgd-20") for row in TINY_ROWS),
            *(
                _within("table9", f"{group}/{role}", "cifar10/cw-40", "cifar10/pgd-20")
                for group in ("5G", "10G")
                for role in ("hydra", "harp")
            ),
            *(_within("table10", role, "cifar10/cw-40", "cifar10/pgd-20") for role in COMPONENTS[:-1]),
        ),
        "In every other row CW with 40 steps is the stronger of the two; here PGD with 20 is, by up to nine points.",
    ),
    Contradiction(
        "r-nas-at-10g",
        "above",
        (_rows("table9", "5G/r-nas", "10G/r-nas", "cifar10/autoattack"),),
        "From 5G to 10G R-NAS gains under PGD and CW, its clean accuracy and all four deviations stay the same to the"
        " digit, and under AutoAttack it loses ten points: it reads like a slip of one digit.",
    ),
    Contradiction(
        "pruning-above-rc-nas",
        "above",
        (
            _rows("table9", "5G/hydra", "5G/rc-nas", "cifar10/cw-40"),
            _rows("table9", "10G/hydra", "10G/rc-nas", "cifar100/cw-40"),
        ),
        "Appendix F.2: RC-NAS is consistently better than all that is not RL. Table 9 prints RC-NAS bold all the same.",
    ),
    Contradiction(
        "r-nas-above-rc-nas",
        "above",
        (_rows("table9", "10G/r-nas", "10G/rc-nas", "cifar10/pgd-20"),),
        "Sections 4.4.2 and F.2: meta-training consistently helps.",
    ),
    Contradiction(
        "r-nas-varies-less",
        "above",
        tuple(
            _rows("table9", f"{group}/rc-nas", f"{group}/r-nas", key, "deviation")
            for group, key in (
                ("5G", "cifar10/cw-40"),
                ("5G", "cifar10/autoattack"),
                ("5G", "cifar100/cw-40"),
                ("10G", "cifar10/pgd-20"),
                ("10G", "cifar10/cw-40"),
                *(("10G", f"cifar100/{attack}") for attack in ("clean", *ATTACKS)),
            )
        ),
        "Section 4.4.2: meta-training lowers the variance. It does in Table 6, but in 9 of the 16 places of Table 9 it"
        " is higher.",
    ),
    Contradiction(
        "trades-is-not-the-teacher",
        "differs",
        tuple(
            (Place(table, f"{group}/trades", f"{data}/{attack}"), Place(other, f"{group}/teacher", f"{data}/{attack}"))
            for table, other, group, data in (
                ("table6", "table5", "20G", "tiny-imagenet"),
                ("table6", "table5", "40G", "tiny-imagenet"),
                ("table9", "table1", "5G", "cifar100"),
                ("table9", "table1", "10G", "cifar10"),
                ("table9", "table1", "10G", "cifar100"),
            )
            for attack in ("clean", *ATTACKS)
        ),
        "The teacher trained by TRADES is what the teacher's rows of Tables 1 and 5 are too (section 4). Only the four"
        " figures on CIFAR-10 at 5G agree; on Tiny-ImageNet they are up to ten points apart, in both directions.",
    ),
    Contradiction(
        "not-the-cheapest",
        "above",
        (
            _rows("table1", "10G/rc-nas", "10G/teacher", "macs"),
            _rows("table5", "40G/rc-nas", "40G/teacher", "macs"),
            _rows("table1", "5G/rc-nas", "5G/advrush", "macs"),
            _rows("table1", "5G/rc-nas", "5G/racl", "macs"),
        ),
        "Section 4.1: RC-NAS's network is also the faster one, by #F(G).",
    ),
    Contradiction(
        "unequal-budgets",
        "above",
        tuple(_rows("table1", f"10G/{role}", "10G/teacher", "macs") for role in ("wrn-34-r", "advrush", "racl")),
        "Section 4 says that rivals are aligned to the budgets; these three have 18 to 19 G in the group of 10G.",
    ),
    Contradiction(
        "one-network-two-costs",
        "differs",
        tuple(
            (Place("table1", f"20G/{role}", "macs"), Place("table5", f"20G/{role}", "macs"))
            for role in ("teacher", "advrush", "racl")
        ),
        "The same networks on CIFAR and on Tiny-ImageNet. A WRN has the same MACs on both to 0.001 % if its stem has"
        " stride 2; here those of WRN-46-14 grow by 1.2 G and those of the cell networks fall by 1 to 1.5 G.",
    ),
    Contradiction(
        "better-without-cost",
        "above",
        (_rows("table10", "no-cost", "full", "cifar100/clean"),),
        "Section 4.4.3: every component helps. Table 10 prints the full agent bold all the same.",
    ),
)
"""All that were found; tests look for more of the kinds that can be looked for."""

SHOWN_PAIRS = 3


def contradictions_markdown() -> str:
    """A list item a contradiction: what the figures deny, and the first pairs of them."""
    lines = []
    for each in CONTRADICTIONS:
        shown = "; ".join(_pair(each, *pair) for pair in each.pairs[:SHOWN_PAIRS])
        more = len(each.pairs) - SHOWN_PAIRS
        lines.append(f"- **{each.id}**: {each.why} {shown}{f'; and {more} more' if more > 0 else ''}.\n")
    return "".join(lines)


def _pair(contradiction: Contradiction, first: Place, second: Place) -> str:
    verb = "above" if contradiction.relation == "above" else "but"
    return f"{_place(first)} {verb} {_place(second)}"


def _place(place: Place) -> str:
    column = load_reported(place.table).column(place.key)
    unit = "" if column is None or column.unit == "%" else f" {column.unit}"
    what = "±" if place.statistic == "deviation" else ""
    return f"{place.table} {place.role} {place.key} {what}{place.figure:g}{unit}"
