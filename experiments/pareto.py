"""Accuracy against cost: the students that agents tried, and the Pareto front of them all, as table and figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.pareto import pareto_front
from agents.trial import Trial
from experiments.figures import COLOURS
from rcnas_env.architecture import Network, NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.rendering import stage_label
from rcnas_env.reward import reward_terms
from rcnas_env.task import Task
from rcnas_env.validation import require_integer, require_number

FRONT_COLOUR = "#333333"
MARKERS = "os^DvP"
"""Of the first agents, as many as there are COLOURS; then of the next ones, in the same colours again."""

COSTS = {"macs": "MACs", "params": "parameters"}
"""The costs that accuracy is drawn against, a panel each."""


@dataclass(frozen=True)
class FrontPoint:
    """One student that an agent tried, with all that the comparison needs.

    agent: name of what found it.
    student: the network.
    params, macs: of the student, at least 1; multiply-accumulates an image.
    robust_accuracy: on the eval set, in [0, 1].
    reward: Eq. 4, λ = 1.
    reward_without_compression: the same at λ = 0: robust accuracy against the teacher's, within the budget.

    Raises:
        ValueError: a figure is out of range or not finite.
    """

    agent: str
    student: Network
    params: int
    macs: int
    robust_accuracy: float
    reward: float
    reward_without_compression: float

    def __post_init__(self) -> None:
        for field in COSTS:
            require_integer(field, getattr(self, field), 1)
        require_number("robust_accuracy", self.robust_accuracy, minimum=0.0, maximum=1.0)
        require_number("reward", self.reward)
        require_number("reward_without_compression", self.reward_without_compression)


def front_points(
    agent: str, trials: Sequence[Trial], task: Task, teacher_accuracy: float, smallest_accuracy: float = 1 / 256
) -> list[FrontPoint]:
    """The students of an agent's search, each once; those that were not trained are left out.

    Both rewards are computed anew, at ε = 0: over budget they are −1, whatever the search's own λ and ε.

    Args:
        agent: its name.
        trials: what it tried on `task`.
        teacher_accuracy, smallest_accuracy: see `rcnas_env.reward.reward_terms`.
    """
    teacher, points = cost(task.teacher), dict[FrontPoint, None]()
    for trial in trials:
        if trial.robust_accuracy is None:
            continue
        full, none = (
            reward_terms(
                cost(trial.student),
                teacher,
                task.budget,
                trial.robust_accuracy,
                teacher_accuracy,
                annealing=0.0,
                smallest_accuracy=smallest_accuracy,
                compression_emphasis=emphasis,
            ).reward
            for emphasis in (1.0, 0.0)
        )
        points[FrontPoint(agent, trial.student, trial.params, trial.macs, trial.robust_accuracy, full, none)] = None
    return list(points)


def front_table(points: Sequence[FrontPoint]) -> list[dict[str, Any]]:
    """The points as rows of JSON values, in order of MACs, parameters, then accuracy (the best first).

    A row has FrontPoint's fields, and for each cost whether the point is on the front of robust accuracy against
    that cost among all points (`agents.pareto.pareto_front`): on_macs_front, on_params_front. Points that are on
    neither front may be left out beforehand: the others stay on theirs.

    Raises:
        ValueError: no points.
    """
    return [
        {
            "agent": point.agent,
            "student": point.student.to_dict(),
            "params": int(point.params),
            "macs": int(point.macs),
            "robust_accuracy": float(point.robust_accuracy),
            "reward": float(point.reward),
            "reward_without_compression": float(point.reward_without_compression),
            **{f"on_{field}_front": on for field, on in fronts.items()},
        }
        for point, fronts in _in_order(points)
    ]


def front_markdown(points: Sequence[FrontPoint]) -> str:
    """The rows of `front_table` as a Markdown table; accuracies in %.

    Raises:
        ValueError: no points.
    """
    lines = [
        "| agent | student | parameters | MACs | robust accuracy, % | reward (λ = 1) | reward (λ = 0) | on the front |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for point, fronts in _in_order(points):
        student = point.student
        stages = " ".join(map(stage_label, student.stages)) if isinstance(student, NetworkSpec) else "cells"
        on = " and ".join(COSTS[field] for field in COSTS if fronts[field])
        lines.append(
            f"| {point.agent} | {stages} | {point.params:,} | {point.macs:,} | {100 * point.robust_accuracy:.1f} "
            f"| {point.reward:+.3f} | {point.reward_without_compression:+.3f} | {on or '–'} |"
        )
    return "\n".join(lines) + "\n"


def best_points(points: Sequence[FrontPoint]) -> dict[str, FrontPoint]:
    """Each agent's best student, agents in order of appearance: the highest reward without compression.

    Within the budget that is the most accurate one, as `agents.trial.select` chooses by "accuracy"; of equal ones
    that with the fewest MACs, then the fewest parameters.
    """
    best = dict[str, FrontPoint]()
    for point in sorted(points, key=lambda point: (-point.reward_without_compression, point.macs, point.params)):
        best.setdefault(point.agent, point)
    return {agent: best[agent] for agent in dict.fromkeys(point.agent for point in points)}


def front_figure(points: Sequence[FrontPoint]) -> Figure:
    """Robust accuracy of all points against MACs (left) and against parameters (right), on log axes.

    The line of a panel is the front of all points: the accuracy to be had at no more than that cost. Each agent's
    `best_points` is outlined. The first five agents have the colours of `experiments.figures`; of later ones, colour
    and marker together are an agent's own.

    Raises:
        ValueError: no points, or of more agents than there are pairs of colour and marker (30).
    """
    best = best_points(_some(points))
    if len(best) > len(COLOURS) * len(MARKERS):
        raise ValueError(f"points must be of at most {len(COLOURS) * len(MARKERS)} agents, got {len(best)}")
    figure = Figure(figsize=(8.0, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, field in zip(panels, COSTS, strict=True):
        _draw(panel, points, best, field)
    panels[0].set_ylabel("robust accuracy (eval set), %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def save_front_figure(points: Sequence[FrontPoint], path: Path) -> None:
    """Write `front_figure` to `path`, in the format that its ending names, such as .png.

    Raises:
        ValueError: see `front_figure`.
    """
    front_figure(points).savefig(path)


def _draw(panel: Axes, points: Sequence[FrontPoint], best: dict[str, FrontPoint], field: str) -> None:
    """One panel: every point, each agent's best outlined, and the front as a line up to the highest cost."""
    front = sorted(
        (getattr(point, field), 100 * point.robust_accuracy)
        for point, on in zip(points, _front(points, field), strict=True)
        if on
    )
    end = (max(getattr(point, field) for point in points), front[-1][1])
    panel.plot(*zip(*front, end, strict=True), drawstyle="steps-post", color=FRONT_COLOUR, linewidth=1, label="front")
    for position, agent in enumerate(best):
        looks: dict[str, Any] = {
            "color": COLOURS[position % len(COLOURS)],
            "marker": MARKERS[position // len(COLOURS)],
        }
        tried = [point for point in points if point.agent == agent]
        places = [getattr(point, field) for point in tried]
        panel.scatter(places, [100 * point.robust_accuracy for point in tried], s=12, alpha=0.5, label=agent, **looks)
        chosen = best[agent]
        panel.scatter(
            [getattr(chosen, field)],
            [100 * chosen.robust_accuracy],
            s=60,
            edgecolors="black",
            zorder=3,
            **looks,
        )
    panel.scatter([], [], s=60, facecolors="none", edgecolors="black", label="best of its agent")
    panel.set_xscale("log")
    panel.set_xlabel(COSTS[field])
    panel.spines[["top", "right"]].set_visible(False)


def _front(points: Sequence[FrontPoint], field: str) -> NDArray[np.bool_]:
    """Which points are on the front of robust accuracy against one of COSTS."""
    return pareto_front([getattr(point, field) for point in points], [point.robust_accuracy for point in points])


def _in_order(points: Sequence[FrontPoint]) -> list[tuple[FrontPoint, dict[str, bool]]]:
    """The points as the tables list them, each with the costs on whose front it is."""
    fronts = {field: _front(_some(points), field) for field in COSTS}
    marked = [(point, {field: bool(fronts[field][i]) for field in COSTS}) for i, point in enumerate(points)]
    return sorted(marked, key=lambda pair: (pair[0].macs, pair[0].params, -pair[0].robust_accuracy))


def _some(points: Sequence[FrontPoint]) -> Sequence[FrontPoint]:
    """The points, of which there must be some."""
    if not points:
        raise ValueError("points must be one or more, got none")
    return points
