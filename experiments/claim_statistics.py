"""Differences between rows of measured tables, and what many of them say together.

**A comparison** is of two rows in one column: its difference d is value − rival in percentage points for accuracies,
and for costs (parameters, MACs, hours) 100 · (1 − value / (share · rival)), the saving in percent. Its standard error s
is √(s_row² + s_rival²), for costs of the saving to first order, where a figure's s is the root of the sum of squares of

- its trainings' error, where it has a deviation over n seeds: deviation / √n.
- its test images' error, of an accuracy p in percent: √(p (100 − p) / images), p at least half an image away from 0 and
  100. More seeds do not make it less, for all are attacked on the same images.

An accuracy with neither is not counted as measured; a cost with neither is counted, not estimated: its s is 0. Rows
have the same test images, and which of them were right is not in a table: their errors are taken as independent, which
makes s too large rather than too small. A comparison is won if d > s, lost if d < −s, else undecided: where nothing
differs, about one in six is won and one in six lost, and more where two seeds tell s.

**The interval** of the mean of n differences is mean ± the larger of two half-widths:

- spread, of accuracies only: the paired t-test, t(n − 1) · sd(d) / √n: how the comparisons differ, counted as
  independent ones. Those of one budget group and data set are not, quite: a rival is the same network under every
  attack. So this says nothing of other budget groups or data sets than were measured, of which there are two to eight.
- noise: √((t(ν) T)² + (t(∞) M)²) / n with T = √Σ_g (Σ_{i in g} t_i)² of the trainings' errors t_i, and M of the images'
  likewise. Comparisons of one budget group and data set, g, are of the same trainings and test images, so their errors
  are added as if they moved together; groups are independent. ν is the smallest of the comparisons' Welch–Satterthwaite
  degrees of freedom, of trainings. Either part makes the interval wider, none ever narrower.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from experiments.claim_list import Comparison
from experiments.result_markdown import PERCENT
from experiments.result_table import Cell, ResultTable
from rcnas_env.binomial import standard_error

CONFIDENCE = 0.95
"""Of all intervals."""


@dataclass(frozen=True)
class Difference:
    """A measured comparison.

    value: d, positive where the claim's row is better: percentage points, or saving in percent.
    trainings, images: the parts of its standard error, in the same unit, at least 0.
    freedom: degrees of freedom of the trainings' part; infinite where no deviation over seeds enters.
    """

    comparison: Comparison
    value: float
    trainings: float
    images: float
    freedom: float

    @property
    def error(self) -> float:
        """Its standard error, of both parts."""
        return math.hypot(self.trainings, self.images)

    @property
    def exact(self) -> bool:
        """Whether it is of costs without a deviation: it has no error at all."""
        return self.comparison.unit != PERCENT and math.isinf(self.freedom)


@dataclass(frozen=True)
class Tally:
    """The comparisons of a claim together; mean and interval in the unit of the differences."""

    won: int
    lost: int
    measured: int
    mean: float
    low: float
    high: float


def difference(comparison: Comparison, table: ResultTable) -> Difference | None:
    """The comparison as measured in `table`; None if a figure is missing, has no known error, or saves of nothing."""
    cell, rival = table.cell(comparison.role, comparison.key), table.cell(comparison.rival, comparison.key)
    if cell is None or rival is None:
        return None
    ours, theirs = (_errors(each, comparison.unit) for each in (cell, rival))
    if ours is None or theirs is None:
        return None
    if comparison.unit == PERCENT:
        value, parts = cell.value - rival.value, [*ours, *theirs]
    elif rival.value == 0:
        return None
    else:
        ratio = cell.value / rival.value
        value = 100 * (1 - ratio / comparison.share)
        scale = 100 / (comparison.share * rival.value)
        parts = [*(each.times(scale) for each in ours), *(each.times(scale * ratio) for each in theirs)]
    trainings = [each for each in parts if math.isfinite(each.freedom)]
    images = math.hypot(*(each.size for each in parts if math.isinf(each.freedom)))
    return Difference(comparison, value, math.hypot(*(each.size for each in trainings)), images, _freedom(trainings))


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


@dataclass(frozen=True)
class _Error:
    """A part of a figure's standard error, and its degrees of freedom."""

    size: float
    freedom: float = math.inf

    def times(self, factor: float) -> _Error:
        """The same of a figure that is `factor` times as large."""
        return _Error(factor * self.size, self.freedom)


def _errors(cell: Cell, unit: str) -> list[_Error] | None:
    """The parts of a figure's standard error; None where it is unknown."""
    found = []
    if cell.deviation is not None and cell.seeds is not None:
        found.append(_Error(cell.deviation / math.sqrt(cell.seeds), cell.seeds - 1))
    elif cell.deviation is not None and unit != PERCENT:
        return None
    if unit == PERCENT and cell.images is not None:
        found.append(_Error(100 * standard_error(cell.value / 100, cell.images)))
    return found if found or unit != PERCENT else None


def _freedom(trainings: Sequence[_Error]) -> float:
    """Welch–Satterthwaite: (Σ s²)² / Σ s⁴ / (n − 1)."""
    if not trainings:
        return math.inf
    below = sum(part.size**4 / part.freedom for part in trainings)
    return sum(part.size**2 for part in trainings) ** 2 / below if below > 0 else min(p.freedom for p in trainings)


def _noise(differences: Sequence[Difference]) -> float:
    """Half-width of the mean's interval from measurement errors: added within a group, in quadrature across."""
    trainings: dict[tuple[str, str], float] = {}
    images: dict[tuple[str, str], float] = {}
    for each in differences:
        group = each.comparison.trainings
        trainings[group] = trainings.get(group, 0.0) + each.trainings
        images[group] = images.get(group, 0.0) + each.images
    of_trainings = _quantile(min(each.freedom for each in differences)) * math.hypot(*trainings.values())
    return math.hypot(of_trainings, _quantile(math.inf) * math.hypot(*images.values())) / len(differences)


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
