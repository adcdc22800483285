"""The paper's tables as data: all rows, columns and figures are there, and its contradictions are in them."""

from __future__ import annotations

import re

import pytest

from experiments.paper_contradictions import CONTRADICTIONS, Place, contradictions_markdown
from experiments.reported_tables import known_reported, load_reported
from experiments.result_table import ResultTable

NAMES = (*(f"table{number}" for number in range(1, 8)), "table9", "table10")
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny-ImageNet"}
MAIN_ATTACKS = ("clean", "pgd-20", "cw-40", "autoattack")
METHODS = ("trades", "mart", "sat", "hydra", "harp", "r-nas", "rc-nas")
COMPONENTS = ("no-lips", "no-cost", "no-annealing", "full")
RIVALS = {
    "5G": ("teacher", "robnet-large-v2", "advrush", "racl", "robustresnet", "rc-nas"),
    "10G": ("teacher", "wrn-34-r", "advrush", "racl", "robustresnet", "rc-nas"),
    "20G": ("teacher", "advrush", "racl", "robustresnet", "rc-nas"),
    "40G": ("teacher", "advrush", "racl", "robustresnet", "rc-nas"),
}
BUDGETS = tuple(RIVALS)


def roles(*groups: str, of: tuple[str, ...] | None = None) -> list[str]:
    return [f"{group}/{role}" for group in groups for role in (of or RIVALS[group])]


ROLES = {
    "table1": roles(*BUDGETS),
    "table2": roles("5G", "10G", of=("rc-nas", "robustresnet")),
    "table3": roles("5G", of=("rc-nas", "robustresnet")),
    "table4": [*(f"{data}/{budget}" for budget in BUDGETS for data in DATASETS), "meta-training"],
    "table5": roles("20G", "40G"),
    "table6": roles("20G", "40G", of=METHODS),
    "table7": list(COMPONENTS),
    "table9": roles("5G", "10G", of=METHODS),
    "table10": list(COMPONENTS),
}
CELLS = {"table1": 220, "table2": 16, "table3": 10, "table4": 13, "table5": 60, "table6": 56, "table7": 16,
         "table9": 112, "table10": 32}  # fmt: skip


def figure(table: str, role: str, key: str) -> float:
    return Place(table, role, key).figure


@pytest.fixture(params=NAMES)
def table(request: pytest.FixtureRequest) -> ResultTable:
    return load_reported(request.param)


def test_all_tables_of_figures_are_known() -> None:
    assert known_reported() == NAMES


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of 'table1', .* got 'table8'"):
        load_reported("table8")


def test_every_row_and_figure_is_there(table: ResultTable) -> None:
    assert [row.role for row in table.rows] == ROLES[table.name]
    assert sum(len(row.cells) for row in table.rows) == len(table.rows) * len(table.columns) == CELLS[table.name]


def test_captions_sources_and_groups_are_the_papers(table: ResultTable) -> None:
    assert table.caption
    assert table.source == f"paper, Table {table.name.removeprefix('table')}"
    for column in table.columns:
        data, _, attack = column.key.partition("/")
        assert column.group == (DATASETS[data] if attack else "")
        assert column.unit == ("%" if attack else {"params": "M", "macs": "G", "hours": "h"}[data])


def test_accuracies_have_deviations_of_a_number_of_seeds_that_is_not_stated(table: ResultTable) -> None:
    for row in table.rows:
        for key, cell in row.cells.items():
            assert cell.seeds is None
            assert cell.images is None
            if "/" not in key:
                assert cell.deviation is None
                continue
            assert 10 < cell.value < 90
            assert cell.deviation is not None
            assert 0 < cell.deviation < 1.5


@pytest.mark.parametrize(
    ("name", "role", "key", "value"),
    [
        ("table1", "5G/teacher", "params", 36.5),
        ("table1", "5G/robnet-large-v2", "cifar10/cw-40", 48.94),
        ("table1", "10G/wrn-34-r", "macs", 19.1),
        ("table1", "20G/racl", "cifar100/pgd-20", 30.78),
        ("table1", "40G/rc-nas", "cifar100/autoattack", 32.02),
        ("table2", "10G/robustresnet", "cifar10/pgd-20@12/255", 60.78),
        ("table3", "5G/rc-nas", "cifar10/a3-discovered", 57.56),
        ("table3", "5G/robustresnet", "cifar10/a3", 56.20),
        ("table4", "tiny-imagenet/40G", "hours", 9.5),
        ("table4", "meta-training", "hours", 45.0),
        ("table5", "40G/advrush", "tiny-imagenet/cw-40", 26.74),
        ("table6", "20G/harp", "tiny-imagenet/clean", 34.77),
        ("table6", "40G/r-nas", "tiny-imagenet/autoattack", 27.13),
        ("table7", "no-annealing", "tiny-imagenet/pgd-20", 20.49),
        ("table9", "5G/sat", "cifar100/autoattack", 18.23),
        ("table9", "10G/r-nas", "cifar10/autoattack", 44.12),
        ("table10", "no-lips", "cifar10/autoattack", 44.14),
    ],
)
def test_figures_read_off_the_page(name: str, role: str, key: str, value: float) -> None:
    assert figure(name, role, key) == value


@pytest.mark.parametrize(
    ("name", "role", "other", "other_role", "datasets"),
    [
        ("table9", "5G/rc-nas", "table1", "5G/rc-nas", ("cifar10", "cifar100")),
        ("table9", "10G/rc-nas", "table1", "10G/rc-nas", ("cifar10", "cifar100")),
        ("table10", "full", "table1", "10G/rc-nas", ("cifar10", "cifar100")),
        ("table6", "20G/rc-nas", "table5", "20G/rc-nas", ("tiny-imagenet",)),
        ("table6", "40G/rc-nas", "table5", "40G/rc-nas", ("tiny-imagenet",)),
        ("table7", "full", "table5", "20G/rc-nas", ("tiny-imagenet",)),
    ],
)
def test_rows_that_the_paper_prints_twice_agree(
    name: str, role: str, other: str, other_role: str, datasets: tuple[str, ...]
) -> None:
    for data in datasets:
        for attack in MAIN_ATTACKS:
            key = f"{data}/{attack}"
            assert load_reported(name).cell(role, key) == load_reported(other).cell(other_role, key)


def test_an_ablated_row_lacks_its_component() -> None:
    for name in ("table7", "table10"):
        marks = {row.role: row.labels for row in load_reported(name).rows}
        assert marks == {
            "no-lips": ("✗", "✓", "✓"),
            "no-cost": ("✓", "✗", "✓"),
            "no-annealing": ("✓", "✓", "✗"),
            "full": ("✓", "✓", "✓"),
        }


@pytest.mark.parametrize("contradiction", CONTRADICTIONS, ids=lambda each: each.id)
def test_the_figures_contradict(contradiction: object) -> None:
    (found,) = (each for each in CONTRADICTIONS if each is contradiction)
    assert found.pairs
    assert found.holds()


def pairs_of(*ids: str) -> set[tuple[Place, Place]]:
    return {pair for each in CONTRADICTIONS if each.id in ids for pair in each.pairs}


@pytest.mark.parametrize(
    ("identity", "weaker", "stronger", "copies"),
    [
        ("autoattack-weaker-than-pgd", "autoattack", "pgd-20", set()),
        # rows that repeat one of Table 1 are named once
        ("autoattack-weaker-than-cw", "autoattack", "cw-40", {("table9", "10G/rc-nas"), ("table10", "full")}),
        ("cw-weaker-than-pgd", "cw-40", "pgd-20", set()),
    ],
)
def test_attacks_out_of_order_are_all_listed(
    identity: str, weaker: str, stronger: str, copies: set[tuple[str, str]]
) -> None:
    found = set()
    for name in ("table1", "table5", "table6", "table7", "table9", "table10"):
        for row in load_reported(name).rows:
            for data in DATASETS:
                first, second = Place(name, row.role, f"{data}/{weaker}"), Place(name, row.role, f"{data}/{stronger}")
                if first.key in row.cells and (name, row.role) not in copies and first.figure > second.figure:
                    found.add((first, second))
    assert pairs_of(identity) == found


def test_every_row_that_is_not_below_rc_nas_is_listed() -> None:
    listed = {frozenset(pair) for each in CONTRADICTIONS for pair in each.pairs}
    missed = []
    for name in NAMES:
        for row in load_reported(name).rows:
            best = "full" if row.role in COMPONENTS else f"{row.group}/rc-nas"
            if row.role == best or load_reported(name).row(best) is None:
                continue
            for key in row.cells:
                theirs, ours = Place(name, row.role, key), Place(name, best, key)
                worse = theirs.figure <= ours.figure if key in ("params", "macs") else theirs.figure >= ours.figure
                if worse and frozenset((theirs, ours)) not in listed:
                    missed.append(theirs)
    assert missed == []


def test_the_deviations_of_r_nas_that_are_lower_are_all_listed() -> None:
    found = set()
    for group in ("5G", "10G"):
        for column in load_reported("table9").columns:
            ours, theirs = (Place("table9", f"{group}/{role}", column.key, "deviation") for role in ("rc-nas", "r-nas"))
            if ours.figure > theirs.figure:
                found.add((ours, theirs))
    assert pairs_of("r-nas-varies-less") == found
    assert len(found) == 9


def test_a_figure_that_is_not_printed_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a figure of the paper"):
        _ = Place("table1", "5G/teacher", "params", "deviation").figure


def test_contradictions_are_told_with_their_figures() -> None:
    drawn = contradictions_markdown()
    assert re.findall(r"^- \*\*(.+?)\*\*", drawn, re.MULTILINE) == [each.id for each in CONTRADICTIONS]
    assert "pgd-20@12/255 60.78 above table2 10G/robustresnet cifar10/pgd-20@8/255 59.72" in drawn
