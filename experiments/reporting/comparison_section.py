"""Several runs side by side: their learning curves and students on the tasks that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.reporting.curve_chart import curve_chart
from experiments.reporting.curves import Curves, curves_of
from experiments.reporting.elements import Element, element
from experiments.reporting.front_chart import front_chart
from experiments.reporting.run_folder import Run
from experiments.reporting.searches import RecordedTask, Search


def comparison_section(runs: Sequence[Run]) -> Element:
    """The runs' curves and trials in common charts, each label named after its run as well.

    Only what was measured on the same task, by the same recipe and weight λ is put into one chart: rewards are relative
    to a teacher, accuracies to an attack.
    """
    blocks = [*_common_curves(runs), *_common_trials(runs)]
    if not blocks:
        blocks = [element("p", "No two of these runs share task, recipe and reward, so their figures do not compare.")]
    return element("section", element("h2", "Comparison"), *blocks, id="comparison")


def _common_curves(runs: Sequence[Run]) -> list[Element]:
    groups: dict[object, list[tuple[Run, Curves]]] = {}
    for run in runs:
        for curves in curves_of(run):
            groups.setdefault((curves.key, run.measured_by), []).append((run, curves))
    charts = []
    for members in groups.values():
        if len({run.name for run, _ in members}) > 1:
            merged = tuple(
                curve.renamed(f"{run.name}: {curve.label}") for run, curves in members for curve in curves.curves
            )
            first = members[0][1]
            title = f"{first.title}: {first.key.title}" if isinstance(first.key, RecordedTask) else first.title
            charts.append(curve_chart(replace(first, title=title, curves=merged)))
    return charts


def _common_trials(runs: Sequence[Run]) -> list[Element]:
    groups: dict[tuple[RecordedTask, str], list[tuple[Run, Search]]] = {}
    for run in runs:
        for search in run.searches:
            groups.setdefault((search.task, run.measured_by), []).append((run, search))
    charts = []
    for (task, _), members in groups.items():
        if len({run.name for run, _ in members}) > 1:
            merged = [replace(search, label=f"{run.name}: {search.label}") for run, search in members]
            chart = front_chart(merged)
            if chart is not None:
                charts += [element("h3", task.title), chart]
    return charts
