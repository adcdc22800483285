"""Verdicts on the paper's claims: differences and intervals in closed form, and what they make of known tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.claim_list import CLAIMS, CURVES, Comparison
from experiments.claim_statistics import difference, tally
from experiments.claim_verdict import Verdict
from experiments.convergence import convergence, passage, welch_half_width
from experiments.paper_claims import judge, verdicts_markdown
from experiments.reported_tables import known_reported, load_reported
from experiments.result_table import Cell, Column, ResultTable, Row
from experiments.theory_claims import INEQUALITIES
from experiments.topology_claims import PAIRS

PLANNED = {
    "above-robustresnet": 40, "above-teacher": 40, "above-cell-networks": 88, "above-wrn-34-r": 8,
    "smaller-than-teacher": 12, "smaller-than-rivals": 40, "above-at-every-radius": 8, "above-under-newer-attacks": 5,
    "fine-tuning-is-cheap": 12, "above-adversarial-training": 72, "above-pruning": 48, "meta-training-helps": 24,
    "converges-earlier": 0, "lower-variance": 0, "cheaper-than-random-networks": 0, "lemma-3.1": 0, "theorem-3.2": 0,
    **dict.fromkeys(PAIRS, 0),
    "lips-helps": 12, "cost-helps": 12, "annealing-helps": 12,
}  # fmt: skip


def two_rows(ours: dict[str, Cell], theirs: dict[str, Cell], rival: str = "robustresnet") -> ResultTable:
    columns = tuple(Column(key, key, unit="%" if "/" in key else "M") for key in dict.fromkeys([*ours, *theirs]))
    rows = (Row("5G/rc-nas", ("ours",), ours), Row(f"5G/{rival}", ("theirs",), theirs))
    return ResultTable("table1", "", ("Model",), columns, rows)


def compare(key: str, unit: str = "%", share: float = 1.0) -> Comparison:
    return Comparison("table1", "5G/rc-nas", "5G/robustresnet", key, unit, share)


def verdict(verdicts: list[Verdict], identity: str) -> Verdict:
    return next(each for each in verdicts if each.claim.id == identity)


def test_each_claim_compares_what_the_papers_tables_hold() -> None:
    assert {claim.id: len(claim.comparisons()) for claim in CLAIMS} == PLANNED
    for claim in CLAIMS:
        for each in claim.comparisons():
            table = load_reported(each.table)
            assert table.cell(each.role, each.key) is not None
            assert table.cell(each.rival, each.key) is not None


def test_a_difference_over_seeds_has_welchs_error_and_freedom() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(50, 2, 4), rng.normal(47, 1, 3)
    cells = [Cell(float(x.mean()), float(x.std(ddof=1)), len(x)) for x in (first, second)]
    found = difference(compare("cifar10/clean"), two_rows({"cifar10/clean": cells[0]}, {"cifar10/clean": cells[1]}))
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert found is not None
    assert found.value / found.error == pytest.approx(welch.statistic)
    assert found.freedom == pytest.approx(welch.df)
    low, high = welch.confidence_interval(0.95)
    assert (tally([found]).low, tally([found]).high) == pytest.approx((low, high))


def test_one_seed_has_the_binomial_error_of_its_images() -> None:
    table = two_rows({"cifar10/clean": Cell(80.0, None, 1, 400)}, {"cifar10/clean": Cell(100.0, None, 1, 200)})
    found = difference(compare("cifar10/clean"), table)
    assert found is not None
    assert found.value == -20
    # 100 % of 200 images counts as 99.75 %: it is no accuracy without error
    assert found.error == pytest.approx(math.sqrt(80 * 20 / 400 + 99.75 * 0.25 / 200))
    assert math.isinf(found.freedom)


def test_seeds_that_agree_leave_the_error_of_their_images() -> None:
    ours, theirs = Cell(20.0, 0.0, 2, 40), Cell(17.5, 0.0, 2, 40)  # one image of 40 apart
    found = difference(compare("cifar10/clean"), two_rows({"cifar10/clean": ours}, {"cifar10/clean": theirs}))
    assert found is not None and found.error == pytest.approx(math.sqrt((20 * 80 + 17.5 * 82.5) / 40))
    assert tally([found]).won == 0 and found.freedom == 1


def test_errors_of_trainings_and_of_images_add_in_quadrature() -> None:
    cells = {"cifar10/clean": Cell(50.0, 3.0, 4, 100)}
    found = difference(compare("cifar10/clean"), two_rows(cells, cells))
    training, images = 2 * (9 / 4), 2 * (2500 / 100)
    assert found is not None and found.error == pytest.approx(math.sqrt(training + images))
    assert found.freedom == pytest.approx(6)  # Welch's, of the trainings alone
    half = math.hypot(stats.t.ppf(0.975, 6) * math.sqrt(training), stats.norm.ppf(0.975) * math.sqrt(images))
    assert tally([found]).high == pytest.approx(half)


@given(st.floats(0, 20), st.floats(0, 20), st.integers(2, 6), st.integers(10, 10_000))
def test_images_never_make_an_interval_narrower(ours: float, theirs: float, seeds: int, images: int) -> None:
    def half(count: int | None) -> float:
        cells = [{"cifar10/clean": Cell(50.0, deviation, seeds, count)} for deviation in (ours, theirs)]
        found = difference(compare("cifar10/clean"), two_rows(*cells))
        assert found is not None
        return tally([found]).high - tally([found]).mean

    assert half(images) >= half(None)


def test_a_cost_is_saved_in_percent_of_the_rivals_share() -> None:
    table = two_rows({"params": Cell(2.0, 0.3, 9)}, {"params": Cell(10.0)})
    found = difference(compare("params", "M", share=0.5), table)
    assert found is not None
    assert found.value == pytest.approx(60)
    assert found.error == pytest.approx(100 * 0.1 / 5)
    assert found.freedom == pytest.approx(8)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"cifar10/clean": Cell(80.0)}, {"cifar10/clean": Cell(70.0, 1.0, 3)}),  # no error known
        ({"cifar10/clean": Cell(80.0, 1.0)}, {"cifar10/clean": Cell(70.0, 1.0, 3)}),  # of how many seeds?
        ({"cifar10/clean": Cell(80.0, 1.0, 3)}, {}),
    ],
)
def test_what_cannot_be_compared_is_not_counted(ours: dict[str, Cell], theirs: dict[str, Cell]) -> None:
    table = two_rows(ours, theirs)
    assert difference(compare("cifar10/clean"), table) is None
    assert verdict(judge({"table1": table}), "above-robustresnet").outcome == "untested"


def test_errors_add_within_a_data_set_and_in_quadrature_across() -> None:
    keys = ("cifar10/clean", "cifar10/pgd-20", "cifar100/clean")
    table = two_rows({key: Cell(51.0, 2.0, 4) for key in keys}, {key: Cell(50.0, 0.0, 4) for key in keys})
    found = [each for key in keys if (each := difference(compare(key), table)) is not None]
    # all differences are 1: no spread; each error is 1, freedom 3; cifar10 has two of them
    assert tally(found).high - tally(found).mean == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(2**2 + 1) / 3)


def test_the_spread_of_the_comparisons_is_that_of_the_paired_t_test() -> None:
    ours, theirs = [60.0, 55.0, 70.0, 40.0], [58.0, 56.0, 61.0, 37.0]
    keys = [f"cifar10/{index}" for index in range(4)]
    table = two_rows(
        {key: Cell(value, 0.01, 3) for key, value in zip(keys, ours, strict=True)},
        {key: Cell(value, 0.01, 3) for key, value in zip(keys, theirs, strict=True)},
    )
    result = tally([each for key in keys if (each := difference(compare(key), table)) is not None])
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((low, high))
    assert (result.won, result.lost, result.measured) == (3, 1, 4)


@pytest.mark.parametrize(
    ("gains", "deviation", "outcome"),
    [
        ((3.0, 3.1, 2.9, 3.2), 0.5, "confirmed"),
        ((-3.0, -3.1, -2.9, -3.2), 0.5, "not confirmed"),
        ((3.0, 3.1, 2.9, 3.2), 5.0, "not confirmed"),  # lost in the noise
        ((9.0, 0.1, -0.1, 0.0), 0.5, "not confirmed"),  # one win carries the mean
        ((0.0, 0.0, 0.0, 0.0), 0.0, "not confirmed"),
    ],
)
def test_verdicts(gains: tuple[float, ...], deviation: float, outcome: str) -> None:
    keys = [f"cifar10/{attack}" for attack in ("clean", "pgd-20", "cw-40", "autoattack")]
    table = two_rows(
        {key: Cell(50 + gain, deviation, 3, 50_000) for key, gain in zip(keys, gains, strict=True)},
        {key: Cell(50.0, deviation, 3, 50_000) for key in keys},
    )
    found = verdict(judge({"table1": table}), "above-robustresnet")
    assert found.outcome == outcome
    assert "4 of 40 comparisons measured (table1: 5G cifar10)" in found.evidence
    assert "seeds: 3; test images: 50,000" in found.evidence
    assert "own network (white box)" in found.evidence


def test_one_comparison_on_one_seed_tests_nothing() -> None:
    table = two_rows(
        {"cifar10/clean": Cell(90.0, None, 1, 1000)}, {"cifar10/clean": Cell(10.0, None, 1, 1000)}, "teacher"
    )
    assert verdict(judge({"table1": table}), "above-teacher").outcome == "untested"


def test_fine_tuning_is_to_take_under_a_quarter_of_meta_trainings_hours() -> None:
    def outcome(hours: float) -> str:
        rows = [Row(f"{data}/5G", (data,), {"hours": Cell(hours)}) for data in ("cifar10", "cifar100")]
        rows.append(Row("meta-training", ("all",), {"hours": Cell(4.0)}))
        table = ResultTable("table4", "", ("Data",), (Column("hours", "Hours", unit="h"),), tuple(rows))
        return verdict(judge({"table4": table}), "fine-tuning-is-cheap").outcome

    assert [outcome(hours) for hours in (0.9, 1.1)] == ["confirmed", "not confirmed"]


@pytest.mark.parametrize(
    ("params", "macs", "outcome"),
    [
        ((2.0, 5.0), (4.0, 5.0), "confirmed"),
        ((2.0, 5.0), (5.5, 5.0), "not confirmed"),  # one rival is smaller: the mean saving of 25 % hides it
        ((2.0, 5.0), (5.0, 5.0), "not confirmed"),  # as many are not fewer
    ],
)
def test_counted_sizes_must_be_smaller_every_one(
    params: tuple[float, float], macs: tuple[float, float], outcome: str
) -> None:
    table = two_rows(*({"params": Cell(p), "macs": Cell(m)} for p, m in zip(params, macs, strict=True)))
    found = verdict(judge({"table1": table}), "smaller-than-rivals")
    assert found.outcome == outcome
    assert "2 of 40 comparisons measured" in found.evidence and "interval" not in found.evidence


def papers_own(seeds: int = 3) -> dict[str, ResultTable]:
    """The reported tables, had their deviations been over `seeds`."""
    tables = {}
    for name in known_reported():
        table = load_reported(name)
        rows = tuple(
            replace(row, cells={k: c if c.deviation is None else replace(c, seeds=seeds) for k, c in row.cells.items()})
            for row in table.rows
        )
        tables[name] = replace(table, rows=rows)
    return tables


def test_the_papers_own_figures_confirm_its_claims_but_for_what_contradicts_them() -> None:
    """Its students' MACs exceed a teacher's at 10G and 40G, and two rivals' at 5G (paper_contradictions)."""
    verdicts = judge(papers_own())
    contradicted = {"smaller-than-teacher", "smaller-than-rivals"}
    assert {each.claim.id for each in verdicts if each.outcome == "not confirmed"} == contradicted
    untested = {CURVES, *PAIRS, *INEQUALITIES, "lower-variance", "cheaper-than-random-networks"}
    assert {each.claim.id for each in verdicts if each.outcome == "untested"} == untested
    lost = {each.claim.id: each.tally.lost for each in verdicts if each.tally is not None and each.tally.lost}
    assert lost == {"smaller-than-teacher": 2, "smaller-than-rivals": 2, "meta-training-helps": 1}
    assert "10G/rc-nas to 10G/r-nas at cifar10/pgd-20 (-0.7)" in verdict(verdicts, "meta-training-helps").evidence


def test_without_tables_everything_is_untested_and_still_told() -> None:
    verdicts = judge({})
    assert {each.outcome for each in verdicts} == {"untested"}
    drawn = verdicts_markdown(verdicts)
    for claim in CLAIMS:
        assert f"| {claim.statement} | {claim.section} | untested |" in drawn
        assert f"- **{claim.id}**, untested: " in drawn


def test_a_tally_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="differences must be at least one"):
        tally([])


@pytest.mark.parametrize(("target", "after"), [(0.1, 1), (0.2, 2), (0.5, 3), (0.5 + 1e-12, 3), (0.6, 5)])
def test_a_run_has_the_target_after_some_evaluations_or_never(target: float, after: int) -> None:
    assert passage([0.1, 0.3, 0.5, 0.5], target) == after


def test_the_interval_of_evaluations_saved_is_welchs() -> None:
    first, second = [2.0, 3.0, 2.0, 5.0], [7.0, 9.0, 6.0]
    low, high = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert welch_half_width(first, second, 0.95) == pytest.approx((high - low) / 2)
    assert welch_half_width([1.0, 1.0], [2.0, 2.0], 0.95) == 0


EARLY = [[0.2, 0.8, 0.9, 0.9], [0.7, 0.8, 0.8, 0.9], [0.1, 0.8, 0.8, 0.8]]
LATE = [[0.1, 0.1, 0.2, 0.8], [0.0, 0.3, 0.4, 0.8], [0.1, 0.2, 0.3, 0.7]]


def test_convergence_is_to_what_both_agents_reach_on_average() -> None:
    found = convergence({"rc-nas": EARLY, "r-nas": LATE})
    assert found.target == pytest.approx((0.8 + 0.8 + 0.7) / 3)
    assert (found.first, found.second) == (2, pytest.approx((4 + 4 + 5) / 3))
    assert (found.earlier, found.runs, found.missed) == (1, (3, 3), (0, 1))


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [(EARLY, LATE, "confirmed"), (LATE, EARLY, "not confirmed"), (EARLY, EARLY, "not confirmed")],
)
def test_the_verdict_on_curves(first: list[list[float]], second: list[list[float]], outcome: str) -> None:
    found = verdict(judge({}, {"rc-nas": first, "r-nas": second}), CURVES)
    assert found.outcome == outcome
    assert "seeds: 3 and 3" in found.evidence and "a best eval accuracy of " in found.evidence


@pytest.mark.parametrize(
    ("curves", "named"),
    [
        ({"rc-nas": EARLY}, "missing 'r-nas'"),
        ({"rc-nas": EARLY, "r-nas": LATE[:1]}, r"curves\['r-nas'\] must have at least 2 runs, got 1"),
        ({"rc-nas": EARLY, "r-nas": [[0.1], [0.2]]}, "curves must all have one length, got 1, 4"),
        ({"rc-nas": EARLY, "r-nas": [[], []]}, r"curves\['r-nas'\]\[0\] must have at least 1 accuracy"),
        ({"rc-nas": EARLY, "r-nas": [[0.2, 0.1, 0.3, 0.4], LATE[0]]}, r"\[0\] must never go down"),
        ({"rc-nas": EARLY, "r-nas": [[0.2, math.nan, 0.3, 0.4], LATE[0]]}, "must be .*number.*, got nan"),
        ({"rc-nas": EARLY, "r-nas": [[0.2, 0.3, 0.4, 7.8], LATE[0]]}, "must be .*at most 1.*, got 7.8"),
    ],
)
def test_curves_that_are_refused(curves: dict[str, list[list[float]]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        judge({}, curves)
