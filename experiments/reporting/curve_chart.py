"""The chart of learning curves: a line for each label, the band of its seeds, a dot where the line changes."""

from __future__ import annotations

from experiments.reporting.chart_parts import ACROSS, UP, Series, axes, chart_svg, figure, legend
from experiments.reporting.curves import Curve, Curves
from experiments.reporting.data_tables import Value, data_table
from experiments.reporting.elements import Element, element
from experiments.reporting.scales import Scale, padded

MOST_DOTS = 40
"""Of one curve; beyond, only every n-th change has one, so that lines stay lines."""

_CHECKPOINTS = (1, 2, 5, 10, 20, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


def curve_chart(curves: Curves) -> Element:
    """The figure of `curves`."""
    longest = max(len(curve.values) for curve in curves.curves)
    ends = [value for curve in curves.curves for value in (*curve.low, *curve.high)]
    x = Scale(0.5 if longest == 1 else 1.0, max(1.5, float(longest)), ACROSS[0] + 6, ACROSS[1])
    y = Scale(*padded(ends), *UP)
    series = [Series(place, curve.label) for place, curve in enumerate(curves.curves)]
    parts = [axes(x, y, curves.x_heading, curves.y_heading)]
    parts += [_drawn(each, curve, curves, x, y) for each, curve in zip(series, curves.curves, strict=True)]
    note = "Dots mark changes; their values show on hovering, or with the arrow keys."
    if any(curve.seeds > 1 for curve in curves.curves):
        note = f"Lines are means over seeds, bands reach from the least to the most. {note}"
    description = f"{curves.y_heading} against {curves.x_heading}: {_ends_in_words(curves)}."
    chart = chart_svg(curves.title, description, parts)
    return figure("curves", curves.title, note, chart, legend(series), _numbers(curves))


def _drawn(series: Series, curve: Curve, curves: Curves, x: Scale, y: Scale) -> Element:
    band = None
    if curve.seeds > 1 and curve.low != curve.high:
        there, back = _points(curve.low, curves.step, x, y), _points(curve.high, curves.step, x, y)
        band = element("polygon", points=_joined([*there, *reversed(back)]), class_="band")
    line = None
    if len(curve.values) > 1:
        points = _joined(_points(curve.values, curves.step, x, y))
        line = element("polyline", points=points, class_="line", stroke_dasharray=series.dashes, data_mark="curve")
    dots = []
    for place in _changes(curve.values):
        value = curve.values[place]
        tip = f"{curve.label}\nafter {place + 1:,} {curves.x_heading}\n{curves.y_heading}: {value:.4g}"
        if curve.seeds > 1:
            tip += f"\n{curve.seeds} seeds, {curve.low[place]:.4g} to {curve.high[place]:.4g}"
        dots.append(series.marker(x(place + 1), y(value), 3.5, class_="dot", data_mark="change", data_tip=tip))
    return element("g", band, line, *dots, class_=series.colour, data_series=series.index)


def _changes(values: tuple[float, ...]) -> list[int]:
    """Places, from 0, where the curve has a new value, and its last one; MOST_DOTS + 1 at most."""
    changed = [place for place in range(len(values)) if place == 0 or values[place] != values[place - 1]]
    thinned = changed[:: -(-len(changed) // MOST_DOTS)]
    return thinned if thinned[-1] == len(values) - 1 else [*thinned, len(values) - 1]


def _points(values: tuple[float, ...], step: bool, x: Scale, y: Scale) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for place, value in enumerate(values, start=1):
        if step and points:
            points.append((x(place), points[-1][1]))
        points.append((x(place), y(value)))
    return points


def _joined(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _ends_in_words(curves: Curves) -> str:
    return "; ".join(
        f"{curve.label} ends at {curve.values[-1]:.4g} after {len(curve.values):,}" for curve in curves.curves
    )


def _numbers(curves: Curves) -> Element:
    """Each curve at a few checkpoints and its end."""
    longest = max(len(curve.values) for curve in curves.curves)
    places = [place for place in _CHECKPOINTS if place < longest] + [longest]
    rows: list[list[Value]] = [
        [curve.label, curve.seeds, *(_value(curve, place) for place in places)] for curve in curves.curves
    ]
    headings = ["label", "seeds", *(f"after {place:,}" for place in places)]
    return data_table(headings, rows, f"{curves.y_heading}, by {curves.x_heading}")


def _value(curve: Curve, place: int) -> float | None:
    return curve.values[place - 1] if place <= len(curve.values) else None
