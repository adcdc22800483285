"""Differences between rows of measured tables, and what many of them say together.

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

**The interval** of the mean of n differences is mean ± the larger of two half-widths:

- spread, of accuracies only: the paired t-test, t(n − 1) · sd(d) / √n; what the tables would say on other tasks.
- noise: t(ν) / n · √Σ_g (Σ_{i in g} s_i)². Comparisons of one budget group and data set, g, are of the same trainings
  and test images, so their errors are added as if they moved together; groups are independent. ν is the smallest of the
  comparisons' Welch–Satterthwaite degrees of freedom, infinite for binomial errors.
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

CONFIDENCE = 0.95
"""Of all intervals."""


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
