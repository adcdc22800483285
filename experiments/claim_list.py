"""What the paper claims, as comparisons of rows of its tables: none of its figures enters, only where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from experiments.reported_tables import load_reported
from experiments.result_markdown import PERCENT
from experiments.result_table import ResultTable

ACCURACIES, COSTS, HOURS = (PERCENT,), ("M", "G"), ("h",)
"""Units of the columns that a claim is about: accuracies in percent; parameters and MACs; times."""


@dataclass(frozen=True)
class Comparison:
    """`role` is to be better than `rival` in column `key` of a table: higher if an accuracy, else lower.

    unit: of that column in the paper: "%" for an accuracy, else a cost.
    share: of the rival's figure below which a cost must be; 1 for accuracies.
    """

    table: str
    role: str
    rival: str
    key: str
    unit: str
    share: float = 1.0

    @property
    def trainings(self) -> tuple[str, str]:
        """Budget group and data set ("" for a cost): comparisons that share both may be of the same networks."""
        return self.role.rpartition("/")[0], self.key.partition("/")[0] if "/" in self.key else ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: in all `tables` and budget groups, `rows` are better than `rivals` in columns of `units`.

    id: short name.
    section: where the paper makes it.
    statement: in our words.
    rows, rivals: ends of roles, "rc-nas" for "5G/rc-nas" …; a rival is looked up in the row's budget group, then as it
        is. A claim without any is not about tables (`experiments.paper_claims` says how it is judged).
    share: of the rival's cost below which the row's must be.
    untested: why nothing here can test it; empty where something can.
    """

    id: str
    section: str
    statement: str
    tables: tuple[str, ...] = ()
    rows: tuple[str, ...] = ("rc-nas",)
    rivals: tuple[str, ...] = ()
    units: tuple[str, ...] = ACCURACIES
    share: float = 1.0
    untested: str = ""

    def comparisons(self) -> tuple[Comparison, ...]:
        """Every comparison that the paper's tables hold for the claim."""
        return tuple(each for name in self.tables for each in self._within(load_reported(name)))

    def _within(self, table: ResultTable) -> Iterator[Comparison]:
        for row in table.rows:
            if row.role.rpartition("/")[2] not in self.rows:
                continue
            for rival in self.rivals:
                role = f"{row.group}/{rival}" if table.row(f"{row.group}/{rival}") else rival
                for column in table.columns if table.row(role) else ():
                    if column.unit in self.units:
                        yield Comparison(table.name, row.role, role, column.key, column.unit, self.share)


CURVES = "converges-earlier"
"""Id of the claim about Figure 3."""
KEEPS_FIRST, SHRINKS_LAST = "harder-attack-keeps-first-stages", "harder-attack-shrinks-last-stage"
LARGER_SHRINKS = "larger-teacher-shrinks-more"
LAST_WIDTH, WIDTH_FOR_DEPTH = "smaller-teacher-keeps-last-width", "smaller-teacher-wide-for-its-depth"
"""Ids of the claims about what the students look like (`experiments.topology_claims`)."""
LEMMA, THEOREM = "lemma-3.1", "theorem-3.2"
"""Ids of the claims that `experiments.theory_check` measures (`experiments.theory_claims`)."""

SMALL_PART = 0.25
"""Of meta-training's time: the paper's own times are from 7 % to 21 % of its 45 hours."""

CLAIMS = (
    Claim(
        KEEPS_FIRST,
        "1, Figure 1",
        "Under AutoAttack the first two stages are compressed less than for clean images.",
    ),
    Claim(SHRINKS_LAST, "1, Figure 1", "Under AutoAttack the last stage is compressed more than for clean images."),
    Claim(LARGER_SHRINKS, "1, Figure 1", "A larger teacher is compressed more."),
    Claim(LEMMA, "3.4, E.2", "A compressed network's gradients move no more than the full one's (Lemma 3.1)."),
    Claim(THEOREM, "3.4, E.3", "Its largest dense mixture is no larger than the full one's (Theorem 3.2)."),
    Claim(
        "above-robustresnet",
        "4.1",
        "At equal budget RC-NAS is more accurate than RobustResNet, clean and under each attack.",
        ("table1", "table5"),
        rivals=("robustresnet",),
    ),
    Claim(
        "above-teacher",
        "4.1",
        "RC-NAS is more accurate than the teacher that it compresses, clean and under each attack.",
        ("table1", "table5"),
        rivals=("teacher",),
    ),
    Claim(
        "above-cell-networks",
        "4.1",
        "At equal budget RC-NAS is more accurate than searched cell networks (RobNet, AdvRush, RACL).",
        ("table1", "table5"),
        rivals=("robnet-large-v2", "advrush", "racl"),
    ),
    Claim(
        "above-wrn-34-r",
        "4.1",
        "RC-NAS is more accurate than WRN-34-R.",
        ("table1",),
        rivals=("wrn-34-r",),
    ),
    Claim(
        "smaller-than-teacher",
        "4.1",
        "RC-NAS's student has fewer parameters and fewer MACs than its teacher.",
        ("table1", "table5"),
        rivals=("teacher",),
        units=COSTS,
    ),
    Claim(
        "smaller-than-rivals",
        "4.1",
        "RC-NAS's student has fewer parameters and fewer MACs than every rival of its budget.",
        ("table1", "table5"),
        rivals=("robnet-large-v2", "wrn-34-r", "advrush", "racl", "robustresnet"),
        units=COSTS,
    ),
    Claim(
        "above-at-every-radius",
        "4.1, remark",
        "RC-NAS is more accurate than RobustResNet under PGD at every radius from 4/255 to 16/255.",
        ("table2",),
        rivals=("robustresnet",),
    ),
    Claim(
        "above-under-newer-attacks",
        "4.2",
        "RC-NAS is more accurate than RobustResNet under boundary, neuron-based and adaptive attacks.",
        ("table3",),
        rivals=("robustresnet",),
    ),
    Claim(
        "fine-tuning-is-cheap",
        "4.3",
        f"Fine-tuning to a task takes a small part (here: under {SMALL_PART:.0%}) of meta-training's time.",
        ("table4",),
        rows=("5G", "10G", "20G", "40G"),
        rivals=("meta-training",),
        units=HOURS,
        share=SMALL_PART,
    ),
    Claim(
        "cheaper-than-random-networks",
        "4.3",
        "Sampling 1,000 random networks, as RobustResNet did, takes longer (over 75 hours) than RC-NAS.",
        untested="nobody sampled and trained 1,000 networks here; Table 4's times are compared with meta-training's.",
    ),
    Claim(
        "above-adversarial-training",
        "4.4.1, F.2",
        "RC-NAS's student is more accurate than the teacher trained by TRADES, SAT or MART.",
        ("table6", "table9"),
        rivals=("trades", "sat", "mart"),
    ),
    Claim(
        "above-pruning",
        "4.4.1, F.2",
        "RC-NAS's student is more accurate than the teacher pruned by HYDRA or HARP.",
        ("table6", "table9"),
        rivals=("hydra", "harp"),
    ),
    Claim(
        "meta-training-helps",
        "4.4.2, F.2",
        "RC-NAS's student is more accurate than that of R-NAS, the same agent without meta-training.",
        ("table6", "table9"),
        rivals=("r-nas",),
    ),
    Claim(
        "lower-variance",
        "4.4.2",
        "RC-NAS's accuracies vary less than those of R-NAS.",
        untested="this takes several meta-trainings and searches of each task; here there is one, and deviations in the"
        " tables are of final trainings of one student.",
    ),
    Claim(
        CURVES,
        "4.4.2, Figure 3",
        "On the target task, the meta-trained agent needs fewer evaluations than R-NAS to get as far.",
    ),
    *(
        Claim(
            f"{component.lower()}-helps",
            "4.4.3, F.3",
            f"Without {component} the student is less accurate.",
            ("table7", "table10"),
            rows=("full",),
            rivals=(f"no-{component.lower()}",),
        )
        for component in ("LIPS", "Cost", "annealing")
    ),
    Claim(
        LAST_WIDTH,
        "4.4.4, Figure 4",
        "Under AutoAttack the 5G student keeps more of its teacher's width in the last stage than the 10G student.",
    ),
    Claim(
        WIDTH_FOR_DEPTH,
        "4.4.4, Figure 4",
        "Under AutoAttack the 5G student keeps more width for the depth that it keeps than the 10G student.",
    ),
)
"""All that are judged, in the order of the sections."""
