"""The chart of robust accuracy against MACs: every student that was tried, the Pareto front, the budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.pareto import pareto_front
from agents.trial import Trial
from experiments.reporting.chart_parts import ACROSS, UP, Series, axes, chart_svg, figure, legend
from experiments.reporting.data_tables import Value, data_table
from experiments.reporting.elements import Element, element
from experiments.reporting.scales import Scale, in_units, padded
from experiments.reporting.searches import Search, by_label
from rcnas_env.architecture import NetworkSpec

LOGARITHMIC_FROM = 20.0
"""Ratio of the most to the least MACs from which on their axis is logarithmic."""

Tried = tuple[Series, Trial]
"""A student and the label that tried it."""


def layout(network: NetworkSpec) -> str:
    """A network's stages in one line: "1 × 16 robust ↓, …" are depth × planes, ↓ for a stage that down-samples."""
    return ", ".join(
        f"{stage.depth} × {stage.planes}{' robust' if stage.robust else ''}{' ↓' if stage.downsample else ''}"
        for stage in network.stages
    )


def front_chart(searches: Sequence[Search]) -> Element | None:
    """The figure of all trials of `searches` on one task; None where no student's accuracy was measured.

    The front is that of all measured students together, within the budget or not.
    """
    groups = by_label(searches)
    series = [Series(place, label) for place, label in enumerate(groups)]
    tried = [
        (each, trial)
        for each, mine in zip(series, groups.values(), strict=True)
        for search in mine
        for trial in search.trials
    ]
    measured = [(each, trial) for each, trial in tried if trial.robust_accuracy is not None]
    if not measured:
        return None
    budget = searches[0].task.budget
    macs = np.array([float(trial.macs) for _, trial in measured])
    accuracies = np.array([100 * (trial.robust_accuracy or 0.0) for _, trial in measured])
    front = pareto_front(macs, accuracies)
    x, y = _scales([*macs.tolist(), budget], accuracies.tolist())
    parts = [axes(x, y, "MACs an image", "robust accuracy on the eval set, %", x_units=True), _budget(budget, x, y)]
    parts.append(_front(macs[front], accuracies[front], x, y))
    parts += [_point(*each, bool(on), x, y) for each, on in zip(measured, front, strict=True)]
    title = "Robust accuracy against MACs"
    note = _note(len(tried) - len(measured))
    best = max(measured, key=lambda each: each[1].robust_accuracy or 0.0)
    description = (
        f"{len(measured)} students, {int(front.sum())} of them on the Pareto front; budget {in_units(budget)} MACs; "
        f"the most accurate has {accuracies.max():.1f} % at {in_units(best[1].macs)} MACs ({best[0].label})."
    )
    chart = chart_svg(title, description, parts)
    return figure("front", title, note, chart, legend(series), _numbers(measured, front.tolist()))


def _note(unmeasured: int) -> str:
    note = "Hollow: over the budget (dashed line). Grey line: the Pareto front; ringed: the students on it."
    if unmeasured:
        note += f" Not shown: {unmeasured} whose reward did not depend on their accuracy, so that none was measured."
    return note


def _scales(macs: list[float], accuracies: list[float]) -> tuple[Scale, Scale]:
    low, high = min(macs), max(macs)
    logarithmic = high / low >= LOGARITHMIC_FROM
    if logarithmic:
        margin = (high / low) ** 0.04
        x = Scale(low / margin, high * margin, *ACROSS, logarithmic=True)
    else:
        x = Scale(max(0.0, padded(macs)[0]), padded(macs)[1], *ACROSS)
    return x, Scale(*padded(accuracies), *UP)


def _budget(budget: float, x: Scale, y: Scale) -> Element:
    line = element("line", x1=x(budget), x2=x(budget), y1=y.start, y2=y.end, class_="budget", data_mark="budget")
    left = x(budget) > (x.start + x.end) / 2
    place, anchor = (-6.0, "end") if left else (6.0, "start")
    label = element("text", f"budget {in_units(budget)}", x=x(budget) + place, y=y.end + 11, text_anchor=anchor)
    return element("g", line, label)


def _front(macs: np.ndarray, accuracies: np.ndarray, x: Scale, y: Scale) -> Element:
    """The front as a step line: the most accuracy at no more than so many MACs."""
    points: list[str] = []
    height = y.start
    for place in np.argsort(macs, kind="stable"):
        points.append(f"{x(macs[place]):.2f},{height:.2f}")
        height = y(accuracies[place])
        points.append(f"{x(macs[place]):.2f},{height:.2f}")
    points.append(f"{x.end:.2f},{height:.2f}")
    return element("polyline", points=" ".join(points), class_="front", data_mark="front")


def _point(series: Series, trial: Trial, on_front: bool, x: Scale, y: Scale) -> Element:
    accuracy = 100 * (trial.robust_accuracy or 0.0)
    left, top = x(trial.macs), y(accuracy)
    tip = (
        f"{series.label}\nrobust accuracy {accuracy:.1f} %, reward {trial.reward:.3g}\n{trial.macs:,} MACs, "
        f"{trial.params:,} parameters\n{layout(trial.student)}"
    )
    tip += "" if trial.within_budget else "\nover the budget"
    looks = "dot" if trial.within_budget else "dot hollow"
    ring = element("circle", cx=left, cy=top, r=8, class_="ring") if on_front else None
    dot = series.marker(left, top, class_=looks, data_mark="trial", data_tip=tip)
    return element("g", ring, dot, class_=series.colour, data_series=series.index)


def _numbers(measured: Sequence[Tried], front: Sequence[bool]) -> Element:
    headings = ["label", "robust accuracy, %", "MACs", "parameters", "reward", "within budget", "on front", "stages"]
    rows: list[list[Value]] = [
        [
            series.label,
            100 * (trial.robust_accuracy or 0.0),
            trial.macs,
            trial.params,
            trial.reward,
            trial.within_budget,
            on,
            layout(trial.student),
        ]
        for (series, trial), on in zip(measured, front, strict=True)
    ]
    return data_table(headings, rows, "Students whose accuracy was measured")
