"""Verdicts on what the paper says of its students' shapes: nothing is trained for them, searches are enough.

**A comparison** is of one measure of two searches' students, in points of the share of the teacher that is kept: of
blocks × planes in a stage or in all, of the last stage's planes, or of all width kept to all depth kept. It is won if
the difference has the sign that the paper says.

**A claim** is *confirmed* if more than half of its comparisons are won, the 95 % t-interval over tasks of their mean
lies above 0, and there are five tasks or more: fewer all have one sign by chance more often than one time in 20, and
shares come in so few steps that two tasks often agree to the digit. Else it is *not confirmed*; *untested* with fewer
than two tasks. The comparisons of one task (stages 1 and 2) are of the same students: their mean counts once. Each
student is of one search with seed 0 by one meta-trained agent: how searches of one task differ is not in the interval
but through the tasks, how another agent's would not at all, and tasks of the same teacher or data set are not quite
independent.
Students of two teachers are compared in what depth they keep only if each teacher has two blocks a stage or more: of
one block nothing can be lost, whoever searches. Searches for AutoAttack may be rewarded by another attack
(`Scale.search_attacks`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scipy import stats

from experiments.claim_list import KEEPS_FIRST, LARGER_SHRINKS, LAST_WIDTH, SHRINKS_LAST, WIDTH_FOR_DEPTH, Claim
from experiments.claim_statistics import CONFIDENCE, Tally
from experiments.claim_verdict import SHOWN_LOSSES, Outcome, Verdict
from experiments.reproduction.topology import depths, keep_ratios, stage_shares, whole_share
from rcnas_env.architecture import NetworkSpec

Measure = Callable[[NetworkSpec, NetworkSpec], float]
"""(teacher, student) → what is compared, a share or a ratio of shares."""

Students = Mapping[str, tuple[NetworkSpec, NetworkSpec]]
"""Name of a search (`SearchKey.name`) → (teacher, student)."""


@dataclass(frozen=True)
class Pair:
    """`measure` is to be larger of the student of search `more` than of that of `less`; `task` and `what` name it.

    of_depth: whether it compares what depth is kept of two teachers.
    """

    task: str
    what: str
    more: str
    less: str
    measure: Measure
    of_depth: bool = False

    def values(self, students: Students) -> tuple[float, float] | None:
        """The measure of both students in percent; None if one was not searched, or their teachers do not compare."""
        if not {self.more, self.less} <= students.keys():
            return None
        both = students[self.more], students[self.less]
        if self.of_depth and min(min(depths(teacher)) for teacher, _ in both) < 2:
            return None
        first, second = (100 * self.measure(*each) for each in both)
        return first, second


ENOUGH_TASKS = 5
"""(1/2)^5 < 0.05."""
HARDER, MILDER = "autoattack", "clean"
CIFAR = ("cifar10", "cifar100")
TASKS = (
    *(("tiny-imagenet", group) for group in ("20G", "40G")),
    *((place, group) for place in CIFAR for group in ("5G", "10G", "20G")),
)
"""Of Figures 1 and 6."""
NEXT = {"5G": "10G", "10G": "20G", "20G": "40G"}
"""Budget group → that of the next larger teacher."""


def judge_topology(claim: Claim, students: Students | None) -> Verdict:
    """A verdict on one of the claims in `PAIRS`; None for no searches."""
    planned = PAIRS[claim.id]
    found = {pair: values[0] - values[1] for pair in planned if (values := pair.values(students or {})) is not None}
    tasks: dict[str, list[float]] = {}
    for pair, value in found.items():
        tasks.setdefault(pair.task, []).append(value)
    if len(tasks) < 2:
        return Verdict(claim, "untested", _why_untested(planned, len(tasks)))
    result = _tally(list(found.values()), [statistics.fmean(values) for values in tasks.values()])
    holds = result.low > 0 and 2 * result.won > result.measured and len(tasks) >= ENOUGH_TASKS
    outcome: Outcome = "confirmed" if holds else "not confirmed"
    return Verdict(claim, outcome, _evidence(result, found, list(tasks), len(planned)), result)


def _why_untested(planned: tuple[Pair, ...], count: int) -> str:
    depth = " (of a teacher with one block a stage no depth can be lost)" if planned[0].of_depth else ""
    return f"{count} of {len({pair.task for pair in planned})} tasks were searched and compare{depth}; two must."


def _tally(values: list[float], means: list[float]) -> Tally:
    """Counts of the comparisons, and the t-interval of the mean over tasks."""
    mean, count = statistics.fmean(means), len(means)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(means) / math.sqrt(count)
    won, lost = sum(value > 0 for value in values), sum(value < 0 for value in values)
    return Tally(won, lost, len(values), mean, mean - half, mean + half)


def _evidence(result: Tally, found: Mapping[Pair, float], tasks: list[str], planned: int) -> str:
    parts = [
        f"{result.measured} of {planned} comparisons measured ({'; '.join(tasks)}): {result.won} won,"
        f" {result.lost} lost, {result.measured - result.won - result.lost} undecided; mean difference over"
        f" {len(tasks)} tasks {result.mean:+.1f} points of what is kept; {CONFIDENCE:.0%} interval {result.low:+.1f}"
        f" to {result.high:+.1f}"
    ]
    losses = sorted((value, pair.task, pair.what) for pair, value in found.items() if value < 0)[:SHOWN_LOSSES]
    if losses:
        shown = (f"{task}{what and f', {what}'} ({value:+.1f})" for value, task, what in losses)
        parts.append(f"lost by most: {', '.join(shown)}")
    if len(tasks) < ENOUGH_TASKS:
        parts.append(f"{len(tasks)} tasks confirm nothing, {ENOUGH_TASKS} may")
    return "; ".join([*parts, "one search a task"]) + "."


def _search(place: str, group: str, attack: str) -> str:
    return f"rc-nas_{place}_{group}_{attack}_0"


def _stage(number: int) -> Measure:
    return lambda teacher, student: stage_shares(teacher, student)[number - 1]


def _ratio(name: str) -> Measure:
    return lambda teacher, student: keep_ratios(teacher, student)[name]


def _of_attacks(stages: tuple[int, ...], more: str, less: str) -> tuple[Pair, ...]:
    return tuple(
        Pair(f"{group} {place}", f"stage {n}", _search(place, group, more), _search(place, group, less), _stage(n))
        for place, group in TASKS
        for n in stages
    )


def _smaller_first(place: str, group: str, attack: str, measure: Measure, of_depth: bool = False) -> Pair:
    larger = NEXT[group]
    task = f"{group} to {larger}, {place}, {attack}"
    return Pair(task, "", _search(place, group, attack), _search(place, larger, attack), measure, of_depth)


PAIRS: Mapping[str, tuple[Pair, ...]] = {
    KEEPS_FIRST: _of_attacks((1, 2), HARDER, MILDER),
    SHRINKS_LAST: _of_attacks((3,), MILDER, HARDER),
    LARGER_SHRINKS: tuple(
        _smaller_first(place, group, attack, whole_share, True)
        for place, group in TASKS
        if (place, NEXT.get(group)) in TASKS
        for attack in (MILDER, HARDER)
    ),
    LAST_WIDTH: tuple(_smaller_first(place, "5G", HARDER, _ratio("width 3"), of_depth=False) for place in CIFAR),
    WIDTH_FOR_DEPTH: tuple(
        _smaller_first(place, "5G", HARDER, _ratio("width : depth"), of_depth=True) for place in CIFAR
    ),
}
"""Id of a claim → its comparisons."""
