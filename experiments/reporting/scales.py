"""Axes: where a number lies in a chart, and at which round numbers the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` on an axis from `start` to `end`, in the SVG's own units.

    logarithmic: equal ratios take equal lengths; low is above 0 then.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"scale must have low < high, got {self.low!r} and {self.high!r}")
        if self.logarithmic and self.low <= 0:
            raise ValueError(f"low must be above 0 on a logarithmic scale, got {self.low!r}")

    def __call__(self, value: float) -> float:
        """The place of `value`; that of the nearer end where it lies outside."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        return self.start + (inside - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round numbers inside: multiples of 1, 2, 2.5 or 5 times a power of ten; on a logarithmic
        scale that spans a decade, 1, 2 and 5 times one.
        """
        if self.logarithmic and self.high / self.low >= 10:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            return [tick for tick in found if self.low <= tick <= self.high]
        step = round_step(self.high - self.low, count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * place for place in range(first, last + 1)]


def round_step(span: float, count: int) -> float:
    """The round number nearest above span / count."""
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in _STEPS if step * power >= raw * (1 - 1e-9))


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """(low, high) around all `values` with a margin of `share` of their range on either side; never of width 0."""
    low, high = min(values), max(values)
    margin = (high - low) * share or abs(high) * share or 1.0
    return low - margin, high + margin


def in_units(value: float) -> str:
    """A count with three digits and k, M or G: 659302 → "659 k"."""
    for unit, name in _UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g}"


def plain_number(value: float) -> str:
    """A tick's number with no digits that say nothing: 0.30000000000000004 → "0.3"."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
