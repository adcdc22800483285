"""Verdicts on the paper's claims, from measured tables alone.

**A comparison** is of two rows in one column: its difference d is value − rival in percentage points for accuracies,
and for costs (parameters, MACs, hours) 100 · (1 − value / (share · rival)), the saving in percent. Its standard error s
is √(s_row² + s_rival²), for costs of the saving to first order, where a figure's s is

| figure | s |
|---|---|
| with a deviation over n seeds | deviation / √n |
| accuracy p of one seed | √(p (100 − p) / images), p at least half an image away from 0 and 100 |
| accuracy with neither | unknown: the comparison is not counted as measured |
| cost without a deviation | 0: parameters and MACs are counted, not estimated |

It is won if d > s, lost if d < −s, else undecided. Where nothing differs, about one in six is won and one in six lost.

**A claim** is *confirmed* if more than half of its measured comparisons are won and the 95 % interval of the mean of
their d lies above 0; else *not confirmed*; *untested* if nothing was measured, or only one comparison without a
deviation over seeds. The interval is mean ± the larger of two half-widths, over n comparisons:

- spread, of accuracies only: the paired t-test, t(n − 1) · sd(d) / √n; what the tables would say on other tasks.
- noise: t(ν) / n · √Σ_g (Σ_{i in g} s_i)². Comparisons of one budget group and data set, g, are of the same trainings
  and test images, so their errors are added as if they moved together; groups are independent. ν is the smallest of the
  comparisons' Welch–Satterthwaite degrees of freedom, infinite for binomial errors.

Confirmed means: on the tasks, networks and seeds that were measured, not at the paper's scale. Nothing is corrected for
the number of claims; binomial errors leave out how trainings differ, so single seeds say less than they seem to.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from experiments.claim_list import CLAIMS, CURVES, Claim, Comparison
from experiments.convergence import Curves, convergence
from experiments.result_markdown import ATTACK_NOTES, PERCENT
from experiments.result_table import Cell, ResultTable

Outcome = Literal["confirmed", "not confirmed", "untested"]

CONFIDENCE = 0.95
SHOWN_LOSSES = 3
"""Lost comparisons that the evidence names, the worst first."""


@dataclass(frozen=True)
class Difference:
    """A measured comparison.

    value: d, positive where the claim's row is better: percentage points, or saving in percent.
    error: its standard error, in the same unit, at least 0.
    freedom: its degrees of freedom; infinite where no deviation over seeds enters.
    """

    comparison: Comparison
    value: float
    error: float
    freedom: float


@dataclass(frozen=True)
class Tally:
    """The comparisons of a claim together; mean and interval in the unit of the differences."""

    won: int
    lost: int
    measured: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What became of a claim; `tally` is None for an untested one and for the one about curves."""

    claim: Claim
    outcome: Outcome
    evidence: str
    tally: Tally | None = None


def judge(tables: Mapping[str, ResultTable], curves: Curves | None = None) -> list[Verdict]:
    """A verdict on every claim of `experiments.claim_list.CLAIMS`, in their order.

    Args:
        tables: measured ones by the name of the paper's ("table1" …), rows and columns at the paper's places.
        curves: "rc-nas" and "r-nas" → best reward after 1, 2, … evaluations on the target task, one list a seed
            (`experiments.convergence`).

    Raises:
        ValueError: curves are not as they must be.
    """
    return [_judge_curves(claim, curves) if claim.id == CURVES else _judge(claim, tables) for claim in CLAIMS]


def difference(comparison: Comparison, table: ResultTable) -> Difference | None:
    """The comparison as measured in `table`; None if a figure is missing, has no known error, or saves of nothing."""
    cell, rival = table.cell(comparison.role, comparison.key), table.cell(comparison.rival, comparison.key)
    if cell is None or rival is None:
        return None
    errors = [_standard_error(each, comparison.unit) for each in (cell, rival)]
    if errors[0] is None or errors[1] is None:
        return None
    if comparison.unit == PERCENT:
        value, parts = cell.value - rival.value, [errors[0], errors[1]]
    elif rival.value == 0:
        return None
    else:
        ratio = cell.value / rival.value
        value = 100 * (1 - ratio / comparison.share)
        scale = 100 / (comparison.share * rival.value)
        parts = [scale * errors[0], scale * ratio * errors[1]]
    return Difference(comparison, value, math.hypot(*parts), _freedom(parts, (cell, rival)))


def tally(differences: Sequence[Difference]) -> Tally:
    """Counts, mean and interval of the module's docstring.

    Raises:
        ValueError: there are no differences.
    """
    if not differences:
        raise ValueError("differences must be at least one, got none")
    values = [each.value for each in differences]
    count, mean = len(values), statistics.fmean(values)
    half = _noise(differences)
    if count > 1 and differences[0].comparison.unit == PERCENT:
        half = max(half, _quantile(count - 1) * statistics.stdev(values) / math.sqrt(count))
    won = sum(each.value > each.error for each in differences)
    lost = sum(each.value < -each.error for each in differences)
    return Tally(won, lost, count, mean, mean - half, mean + half)


def verdicts_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table of claims and outcomes, and below it the evidence for each."""
    lines = ["| claim | section | verdict |", "| --- | --- | --- |"]
    lines += [f"| {each.claim.statement} | {each.claim.section} | {each.outcome} |" for each in verdicts]
    rule = (
        "Confirmed: more than half of the measured comparisons are won (by more than their standard error), and the"
        f" {CONFIDENCE:.0%} interval of the mean difference lies above 0, at the scale measured here. The rule in full:"
        " `experiments/paper_claims.py`."
    )
    evidence = [f"- **{each.claim.id}**, {each.outcome}: {each.evidence}" for each in verdicts]
    return "\n".join([*lines, "", rule, "", *evidence]) + "\n"


def _judge(claim: Claim, tables: Mapping[str, ResultTable]) -> Verdict:
    planned = claim.comparisons()
    found = [
        each
        for comparison in planned
        if comparison.table in tables and (each := difference(comparison, tables[comparison.table])) is not None
    ]
    if not found:
        return Verdict(claim, "untested", f"none of {len(planned)} comparisons was measured.")
    if len(found) == 1 and math.isinf(found[0].freedom):
        return Verdict(claim, "untested", f"one of {len(planned)} comparisons was measured, and that on one seed.")
    result = tally(found)
    outcome: Outcome = "confirmed" if result.low > 0 and 2 * result.won > result.measured else "not confirmed"
    return Verdict(claim, outcome, _evidence(claim, result, found, len(planned), tables), result)


def _judge_curves(claim: Claim, curves: Curves | None) -> Verdict:
    if curves is None:
        return Verdict(claim, "untested", "no curves were measured.")
    found = convergence(curves, CONFIDENCE)
    return Verdict(claim, "confirmed" if found.low > 0 and found.earlier > 0.5 else "not confirmed", found.text())


def _standard_error(cell: Cell, unit: str) -> float | None:
    if cell.deviation is not None and cell.seeds is not None:
        return cell.deviation / math.sqrt(cell.seeds)
    if unit != PERCENT:
        return 0.0 if cell.deviation is None else None
    if cell.images is None:
        return None
    half_an_image = 50 / cell.images
    value = min(max(cell.value, half_an_image), 100 - half_an_image)
    return math.sqrt(value * (100 - value) / cell.images)


def _freedom(parts: Sequence[float], cells: Sequence[Cell]) -> float:
    """Welch–Satterthwaite: (Σ s²)² / Σ s⁴ / (n − 1), over figures with a deviation in the denominator."""
    known = [
        (part, cell.seeds - 1)
        for part, cell in zip(parts, cells, strict=True)
        if cell.deviation is not None and cell.seeds is not None
    ]
    if not known:
        return math.inf
    below = sum(part**4 / degrees for part, degrees in known)
    return sum(part**2 for part in parts) ** 2 / below if below > 0 else min(degrees for _, degrees in known)


def _noise(differences: Sequence[Difference]) -> float:
    """Half-width of the mean's interval from measurement errors: added within a group, in quadrature across."""
    sums: dict[tuple[str, str], float] = {}
    for each in differences:
        group = each.comparison.trainings
        sums[group] = sums.get(group, 0.0) + each.error
    return _quantile(min(each.freedom for each in differences)) * math.hypot(*sums.values()) / len(differences)


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _evidence(
    claim: Claim, result: Tally, found: Sequence[Difference], planned: int, tables: Mapping[str, ResultTable]
) -> str:
    names = list(dict.fromkeys(each.comparison.table for each in found))
    groups = list(dict.fromkeys(" ".join(filter(None, each.comparison.trainings)) for each in found))
    unit = "points"
    if found[0].comparison.unit != PERCENT:
        unit = "% saved" if claim.share == 1 else f"% saved of {claim.share:.0%} of the rival's"
    parts = [
        f"{result.measured} of {planned} comparisons measured ({', '.join(names)}: {', '.join(groups)}):"
        f" {result.won} won, {result.lost} lost, {result.measured - result.won - result.lost} undecided;"
        f" mean difference {result.mean:+.1f} {unit}"
    ]
    if result.high > result.low:  # else all are counted, not estimated
        parts.append(f"{CONFIDENCE:.0%} interval {result.low:+.1f} to {result.high:+.1f}")
    cells = [tables[c.table].cell(role, c.key) for c in (d.comparison for d in found) for role in (c.role, c.rival)]
    for what, counts in (
        ("seeds", {cell.seeds for cell in cells if cell is not None and cell.seeds is not None}),
        ("test images", {cell.images for cell in cells if cell is not None and cell.images is not None}),
    ):
        if counts:
            span = f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"
            parts.append(f"{what}: {span}")
    losses = sorted((each for each in found if each.value < -each.error), key=lambda each: each.value)[:SHOWN_LOSSES]
    if losses:
        shown = (f"{d.comparison.role} to {d.comparison.rival} at {d.comparison.key} ({d.value:+.1f})" for d in losses)
        parts.append(f"lost by most: {', '.join(shown)}")
    sources = {tables[name].attack_source for name in names} if claim.units == (PERCENT,) else set()
    return "; ".join(parts) + "." + "".join(f" {ATTACK_NOTES[source]}" for source in sorted(sources))
