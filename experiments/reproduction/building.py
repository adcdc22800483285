"""From searches and final figures to the paper's tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from experiments.reproduction.contents import TABLES, ColumnSpec, Entry, TableSpec, groups_of, places_of
from experiments.reproduction.finals import KEEP, Final, Measured
from experiments.reproduction.scale import ATTACKS, Scale
from experiments.reproduction.searches import SearchKey
from experiments.result_table import Cell, Column, ResultTable, Row

THROUGH_TEACHER = ("table1", "table5")
"""Tables that are measured once more with attacks computed on the teacher (the letter of Algorithm 2)."""
THROUGH_ATTACKS = ("pgd-20", "cw-40")
"""That table's columns: a clean image is no attack, and AutoAttack stops an image at the teacher's first mistake."""


def finals_of(scale: Scale, name: str, missing: Sequence[str] = (), attack_source: str = "student") -> Iterator[Final]:
    """Every cell of a table by every seed; rivals that a group does not have among them."""
    spec = TABLES[name]
    for place in places_of(scale, name, spec.places, missing):
        for group in groups_of(scale, name, spec.groups):
            for entry in spec.entries:
                for column in columns_of(spec, attack_source):
                    for seed in range(scale.seeds):
                        yield Final(entry, place, group, column, seed, attack_source)


def columns_of(spec: TableSpec, attack_source: str) -> tuple[ColumnSpec, ...]:
    """The table's columns under an attack source."""
    if attack_source == "student":
        return spec.columns
    return tuple(column for column in spec.columns if column.attack in THROUGH_ATTACKS)


def build_table(
    scale: Scale,
    name: str,
    measured: Mapping[Final, Measured],
    labels: Mapping[tuple[str, str, str], str],
    missing: Sequence[str] = (),
    attack_source: str = "student",
) -> ResultTable:
    """The table called `name` out of its measured cells.

    Args:
        measured: figures of the finals; those that are not there are left out.
        labels: (place, group, role of the network) → name of a fixed network.
    """
    spec = TABLES[name]
    places, groups = places_of(scale, name, spec.places, missing), groups_of(scale, name, spec.groups)
    counted = sizes_group(scale, groups, places)
    columns = [Column("params", "#P", counted, "M"), Column("macs", "#F", counted, "M MACs")] if spec.sizes else []
    for place in places:
        heading = scale.datasets[place]
        for column in columns_of(spec, attack_source):
            columns.append(Column(f"{place}/{column.key}", _heading(scale, column), heading))
    rows = []
    for group in groups:
        for entry in spec.entries:
            cells = _cells(scale, spec, entry, group, places, measured, attack_source)
            if cells:
                note = _over_budget(scale, entry, group, places, measured)
                rows.append(Row(spec.role(group, entry), _labels(scale, entry, group, places, labels), cells, note))
    left_out = [
        f"{place} ({scale.datasets[place]})" for place in spec.places if place in scale.datasets and place not in places
    ]
    note = f"; left out: {', '.join(left_out)}" if left_out else ""
    caption = f"{spec.caption}, scale {scale.name}{note}"
    title = name if attack_source == "student" else f"{name}-through-teacher"
    return ResultTable(title, caption, spec.label_headings, tuple(columns), tuple(rows), attack_source)


def sizes_group(scale: Scale, groups: Sequence[str], places: Sequence[str]) -> str:
    """The data sets whose networks parameters and MACs are counted on: those of the first one's budgets."""
    first = {group: _budgets(scale, group, places)[places[0]] for group in groups}
    alike = [place for place in places if all(_budgets(scale, g, places)[place] == first[g] for g in groups)]
    return ", ".join(dict.fromkeys(scale.datasets[place] for place in alike))


def _heading(scale: Scale, column: ColumnSpec) -> str:
    """The column's heading, with the attack that stands for it where that is another."""
    attack = scale.final_attack(column.attack)
    return column.heading if attack == column.attack else f"{column.heading} (by {attack})"


def _cells(
    scale: Scale,
    spec: TableSpec,
    entry: Entry,
    group: str,
    places: Sequence[str],
    measured: Mapping[Final, Measured],
    attack_source: str,
) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    sizes: list[Measured] = []
    budgets = _budgets(scale, group, places)
    for place in places:
        for column in columns_of(spec, attack_source):
            finals = (Final(entry, place, group, column, seed, attack_source) for seed in range(scale.seeds))
            there = [measured[final] for final in finals if final in measured]
            if there:
                cells[f"{place}/{column.key}"] = accuracy_cell(there)
                # larger images take more MACs: no mean over places of different budgets
                sizes += there if budgets[place] == budgets[places[0]] else ()
    if spec.sizes and sizes:  # of a searched row the mean over its tasks' students
        cells["params"] = Cell(statistics.mean(each.params for each in sizes) / 1e6)
        cells["macs"] = Cell(statistics.mean(each.macs for each in sizes) / 1e6)
    return cells


def _over_budget(
    scale: Scale, entry: Entry, group: str, places: Sequence[str], measured: Mapping[Final, Measured]
) -> str:
    """Says of a searched row for which attacks no student within the budget was found."""
    if entry.source != "search":
        return ""
    budgets = _budgets(scale, group, places)
    over = {
        f"{scale.datasets[final.place]} {final.column.heading}"
        for final, each in measured.items()
        if final.entry == entry and final.group == group and final.place in places and each.macs > budgets[final.place]
    }
    return f"over the budget, as all students tried: {', '.join(sorted(over))}" if over else ""


def _budgets(scale: Scale, group: str, places: Sequence[str]) -> dict[str, float]:
    """MACs an image at each place."""
    return {place: scale.task(place, group, "clean").budget for place in places}


def accuracy_cell(measured: Sequence[Measured]) -> Cell:
    """Mean in %, sample standard deviation over seeds (none for one seed), seeds, test images."""
    accuracies = [100 * each.accuracy for each in measured]
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return Cell(statistics.mean(accuracies), deviation, len(accuracies), measured[0].images)


def _labels(
    scale: Scale, entry: Entry, group: str, places: Sequence[str], labels: Mapping[tuple[str, str, str], str]
) -> tuple[str, ...]:
    budgets = _budgets(scale, group, places)
    named = {budget: scale.datasets[place] for place, budget in reversed(budgets.items())}  # one data set a budget
    listed = [
        f"{budget / 1e6:,.2f} M MACs" + (f" ({name})" if len(named) > 1 else "") for budget, name in named.items()
    ]
    budget = f"{group}: {', '.join(reversed(listed))}"
    if entry.label is not None:
        return entry.label, budget
    return labels[places[0], group, entry.network], budget


def network_labels(scale: Scale) -> dict[tuple[str, str, str], str]:
    """(place, group, role) → name of every fixed network."""
    found = {}
    for place in scale.datasets:
        for group, entry in scale.groups.items():
            found[place, group, "teacher"] = f"{entry.teacher} (teacher)"
            for role, name in entry.rivals.items():
                found[place, group, role] = "RobustResNet rule" if name == "rule" else name
    return found


def time_table(
    scale: Scale, seconds: Mapping[SearchKey, float], meta: Cell | None, missing: Sequence[str] = ()
) -> ResultTable:
    """Table 4: hours of one worker that fine-tuning took, mean and deviation over the attacks of Table 1.

    Evaluations count with the seconds they took when they were computed, whether or not the store had them: what
    fine-tuning costs on a machine that has never seen the task. Searches for other attacks, as Table 3's, do not enter:
    rows are of the same attacks.

    Args:
        seconds: of one worker that each search took.
        meta: hours of meta-training, the last row; none if None.
    """
    rows = []
    for place in places_of(scale, "table4", ("cifar10", "cifar100", "tiny-imagenet"), missing):
        for group in groups_of(scale, "table4", tuple(scale.groups)):
            hours = [
                seconds[key] / 3600
                for key in (SearchKey("rc-nas", place, group, attack) for attack in ATTACKS)
                if key in seconds
            ]
            if hours:
                deviation = statistics.stdev(hours) if len(hours) > 1 else None
                cell = Cell(statistics.mean(hours), deviation, len(hours))
                labels = (scale.datasets[place], scale.groups[group].teacher, group)
                rows.append(Row(f"{place}/{group}", labels, {"hours": cell}))
    if meta is not None:
        rows.append(Row("meta-training", ("all", "all", "all"), {"hours": meta}))
    caption = f"Fine-tuning time, hours of one worker, over Table 1's attacks (counted as seeds), scale {scale.name}"
    return ResultTable(
        "table4", caption, ("Data", "Teacher", "Budget"), (Column("hours", "Hours", "", "h"),), tuple(rows)
    )


PRUNING_NOTE = f"Hydra and HARP keep {KEEP:.0%} of the teacher's weights."
