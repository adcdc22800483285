"""The arena's one figure: regret against evaluations and hours, improvement on random search, performance profiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.arena_roster import ABLATIONS, RANDOM_SEARCH, ROSTER
from experiments.arena_statistics import performance_profile
from experiments.arena_summary import (
    AgentScores,
    checkpoints,
    curve_by_evaluations,
    curve_by_hours,
    estimate,
    improvement,
    own_hours,
)
from experiments.figures import COLOURS

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "D", "^")
"""Of the checkpoints in the panel of improvements, and of groups of agents where there are no lines."""
PLACES = 25
"""Points of a curve."""
BAND = 0.1
"""Opacity of an interval's band."""


def style(label: str) -> dict[str, Any]:
    """Colour and line of an agent; the same in every figure, five colours in each of four lines."""
    group, colour = _place(label)
    return {"color": COLOURS[colour], "linestyle": LINES[group % len(LINES)]}


def dots(label: str) -> dict[str, Any]:
    """Colour and marker of an agent where there are no lines."""
    group, colour = _place(label)
    return {"color": COLOURS[colour], "marker": MARKERS[group % len(MARKERS)]}


def _place(label: str) -> tuple[int, int]:
    place = [entry.label for entry in (*ROSTER, *ABLATIONS)].index(label)
    return divmod(place, len(COLOURS))


def arena_figure(scores: Mapping[str, AgentScores], path: Path) -> None:
    """Draw the four panels, the legend beside them, and save them to `path`."""
    figure = Figure(figsize=(12.0, 8.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _draw_evaluations(panels[0, 0], scores)
    _draw_hours(panels[0, 1], scores)
    _draw_improvement(panels[1, 0], scores)
    _draw_profiles(panels[1, 1], scores)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize(10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False, handlelength=3)
    figure.savefig(path)


def _draw_evaluations(panel: Axes, scores: Mapping[str, AgentScores]) -> None:
    most = next(iter(scores.values())).evaluations
    places = np.unique(np.geomspace(1, most, PLACES).round().astype(int))
    for mine in scores.values():
        value, low, high = curve_by_evaluations(mine, places.tolist())
        panel.plot(places, value, label=mine.label, **style(mine.label))
        panel.fill_between(places, low, high, alpha=BAND, linewidth=0, color=style(mine.label)["color"])
    panel.set(title="regret in the search", xlabel="evaluations", ylabel="regret, IQM and 95 % band")


def _draw_hours(panel: Axes, scores: Mapping[str, AgentScores]) -> None:
    for mine in scores.values():
        hours = own_hours(mine)
        value, low, high = curve_by_hours(mine, hours)
        panel.plot(hours, value, **style(mine.label))
        panel.fill_between(hours, low, high, alpha=BAND, linewidth=0, color=style(mine.label)["color"])
    panel.set_xscale("log")
    panel.set(
        title="regret by time, pre-training and meta-training included",
        xlabel="simulated hours of training and attack",
        ylabel="regret, IQM and 95 % band",
    )


def _draw_improvement(panel: Axes, scores: Mapping[str, AgentScores]) -> None:
    panel.set(title="improvement on random search at equal evaluations", xlabel="P(better than random search)")
    rival = scores.get(RANDOM_SEARCH)
    others = [mine for mine in scores.values() if mine is not rival]
    if rival is None or not others:
        panel.text(0.5, 0.5, "needs random search and another agent", ha="center", transform=panel.transAxes)
        return
    points = checkpoints(rival.evaluations)
    offsets = np.linspace(-0.25, 0.25, len(points)) if len(points) > 1 else np.zeros(1)
    for row, mine in enumerate(others):
        for marker, offset, point in zip(MARKERS, offsets, points, strict=False):
            found = improvement(mine, point, rival, point)
            colour = style(mine.label)["color"]
            panel.plot([found.low, found.high], [row + offset] * 2, color=colour, linewidth=1.2)
            panel.plot(found.value, row + offset, marker, color=colour, markersize=4)
    for marker, point in zip(MARKERS, points, strict=False):
        panel.plot([], [], marker, color="#555555", markersize=4, label=f"after {point}")
    panel.axvline(0.5, color="#888888", linestyle="--", linewidth=0.8)
    panel.set_yticks(range(len(others)), [mine.label for mine in others], fontsize=8)
    panel.set_xlim(-0.02, 1.02)
    panel.invert_yaxis()
    panel.legend(fontsize=7, frameon=False, ncols=len(points), loc="upper center", bbox_to_anchor=(0.5, -0.13))


def _draw_profiles(panel: Axes, scores: Mapping[str, AgentScores]) -> None:
    most = next(iter(scores.values())).evaluations
    lowest = min(float(mine.share[:, :, -1].min()) for mine in scores.values())
    thresholds = np.linspace(max(0.0, np.floor(20 * lowest) / 20 - 0.05), 1.0, 101)
    for mine in scores.values():
        value, low, high = estimate(mine.share[:, :, -1], lambda drawn: performance_profile(drawn, thresholds), mine)
        panel.plot(thresholds, value, **style(mine.label))
        panel.fill_between(thresholds, low, high, alpha=BAND, linewidth=0, color=style(mine.label)["color"])
    panel.set(
        title=f"performance profile after {most} evaluations",
        xlabel="τ, expected reward as a share of the best",
        ylabel="share of runs above τ",
    )
