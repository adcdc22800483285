"""Verdicts on the paper's claims, from what was measured alone.

**A claim** of accuracies, or of times with deviations, is *confirmed* if more than half of its measured comparisons are
won and the 95 % interval of the mean of their differences lies above 0 (`experiments.claim_statistics` defines both);
else *not confirmed*; *untested* if nothing was measured, or only one comparison without a deviation over seeds.

Figures without any error, as parameters and MACs are, which are counted, leave nothing to chance: such a claim is
*confirmed* only if every comparison is won. A mean of what is saved would hide a rival that is smaller.

Claims on the course of a search, on the students' shapes and on the theory are judged by `experiments.convergence`,
`topology_claims` and `theory_claims`.

Confirmed means: on the tasks, networks and seeds that were measured, not at the paper's scale. Nothing is corrected for
the number of claims; images' errors leave out how trainings differ, so single seeds say less than they seem to. Two
seeds give a deviation one degree of freedom, and t(1) = 12.7: an accuracy claim is hardly ever confirmed by two seeds,
however often it is won.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.claim_list import CLAIMS, COSTS, CURVES, Claim
from experiments.claim_statistics import CONFIDENCE, Difference, Tally, difference, tally
from experiments.claim_verdict import SHOWN_LOSSES, Outcome, Verdict
from experiments.convergence import Curves, convergence
from experiments.result_markdown import ATTACK_NOTES, PERCENT
from experiments.result_table import ResultTable
from experiments.theory_claims import INEQUALITIES, Findings, judge_theory
from experiments.topology_claims import PAIRS, Students, judge_topology


def judge(
    tables: Mapping[str, ResultTable],
    curves: Curves | None = None,
    students: Students | None = None,
    theory: Findings | None = None,
) -> list[Verdict]:
    """A verdict on every claim of `experiments.claim_list.CLAIMS`, in their order; untested where nothing is given.

    Args:
        tables: measured ones by the name of the paper's ("table1" …), rows and columns at the paper's places.
        curves: "rc-nas" and "r-nas" → best eval accuracy within the budget after 1, 2, … evaluations on the target
            task, one list a seed (`experiments.convergence`).
        students: what searches found (`experiments.topology_claims`).
        theory: what the theory check found (`experiments.theory_claims`).

    Raises:
        ValueError: curves or findings are not as they must be.
    """
    judged: dict[str, Verdict] = {}
    for claim in CLAIMS:
        if claim.untested:
            judged[claim.id] = Verdict(claim, "untested", claim.untested)
        elif claim.id == CURVES:
            judged[claim.id] = _judge_curves(claim, curves)
        elif claim.id in PAIRS:
            judged[claim.id] = judge_topology(claim, students)
        elif claim.id in INEQUALITIES:
            judged[claim.id] = judge_theory(claim, theory)
        else:
            judged[claim.id] = _judge(claim, tables)
    return list(judged.values())


def verdicts_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table of claims and outcomes, and below it the evidence for each."""
    lines = ["| claim | section | verdict |", "| --- | --- | --- |"]
    lines += [f"| {each.claim.statement} | {each.claim.section} | {each.outcome} |" for each in verdicts]
    rule = (
        "Confirmed: more than half of the measured comparisons are won (by more than their standard error), and the"
        f" {CONFIDENCE:.0%} interval of the mean difference lies above 0, at the scale measured here; of counted sizes,"
        " which have no error: every comparison is won. The rule in full: `experiments/paper_claims.py`."
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
    if len(found) == 1 and math.isinf(found[0].freedom) and claim.units != COSTS:
        return Verdict(claim, "untested", f"one of {len(planned)} comparisons was measured, and that on one seed.")
    result = tally(found)
    outcome: Outcome = "confirmed" if _holds(result, found) else "not confirmed"
    return Verdict(claim, outcome, _evidence(claim, result, found, len(planned), tables), result)


def _holds(result: Tally, found: Sequence[Difference]) -> bool:
    """The rule of the module's docstring."""
    if all(each.exact for each in found):
        return result.won == result.measured
    return result.low > 0 and 2 * result.won > result.measured


def _judge_curves(claim: Claim, curves: Curves | None) -> Verdict:
    if curves is None:
        return Verdict(claim, "untested", "no curves were measured.")
    found = convergence(curves, CONFIDENCE)
    outcome: Outcome = "confirmed" if found.low > 0 and found.earlier > 0.5 else "not confirmed"
    shared = "Runs with meta-training start from one and the same, how another would do is not in the interval."
    return Verdict(claim, outcome, f"{found.text()} {shared}")


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
    if claim.units == COSTS:
        headings = {column.group for d in found if (column := tables[d.comparison.table].column(d.comparison.key))}
        parts.append(f"sizes counted on: {', '.join(sorted(filter(None, headings))) or 'not stated'}")
    losses = sorted((each for each in found if each.value < -each.error), key=lambda each: each.value)[:SHOWN_LOSSES]
    if losses:
        shown = (f"{d.comparison.role} to {d.comparison.rival} at {d.comparison.key} ({d.value:+.1f})" for d in losses)
        parts.append(f"lost by most: {', '.join(shown)}")
    sources = {tables[name].attack_source for name in names} if claim.units == (PERCENT,) else set()
    return "; ".join(parts) + "." + "".join(f" {ATTACK_NOTES[source]}" for source in sorted(sources))
