"""Robust accuracy against cost on the tabular twin: the whole Pareto front, and where agents' students lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from agents.pareto import hypervolume, pareto_front
from experiments.arena_figure import dots
from experiments.arena_runs import AgentRun
from experiments.arena_tasks import held_out_task
from rcnas_env.architecture import NetworkSpec
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.table import Table

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Delivered:
    """The students that one agent delivered on one task, a run each: MACs, parameters, expected robust accuracy."""

    label: str
    macs: Floats
    params: Floats
    accuracy: Floats

    def hypervolume(self, costs: Floats, whole: float, reference: Sequence[float]) -> float:
        """Share of the whole front's hypervolume that these students dominate, against log₁₀ `costs`."""
        return hypervolume(np.log10(costs), self.accuracy, reference) / whole


class Front:
    """All students of a held-out task within its budget.

    Args:
        table: of the twin.
        task_name: of `experiments.arena_tasks`.
    """

    def __init__(self, table: Table, task_name: str) -> None:
        self.table, self.name = table, task_name
        landscape = TaskLandscape(table, held_out_task(task_name))
        rows = landscape.students[table.macs[landscape.students] <= landscape.task.budget]
        self.column = 1 + landscape.attack
        self.macs, self.params = table.macs[rows].astype(float), table.params[rows].astype(float)
        self.accuracy = table.expected[rows, self.column]
        self.teacher = float(table.expected[landscape.teacher_row, self.column])

    def delivered(self, runs: Sequence[AgentRun]) -> list[Delivered]:
        """What each agent delivered, in the order of the runs; runs without a student are left out."""
        by_label: dict[str, list[int]] = {}
        for run in runs:
            if run.task == self.name and run.delivered is not None:
                row = self.table.space.row(NetworkSpec.from_dict(run.delivered))
                by_label.setdefault(run.label, []).append(row)
        return [
            Delivered(
                label, self.table.macs[rows].astype(float), self.table.params[rows].astype(float), self._accuracy(rows)
            )
            for label, rows in by_label.items()
        ]

    def rows(self, runs: Sequence[AgentRun]) -> list[dict[str, Any]]:
        """An agent each: medians of its students, and the hypervolume that they dominate together.

        That is a share of the whole front's, against MACs and against parameters.
        """
        reference = {name: (float(np.log10(costs.max())), 0.0) for name, costs in self._costs().items()}
        whole = {
            name: hypervolume(np.log10(costs), self.accuracy, reference[name]) for name, costs in self._costs().items()
        }
        return [
            {
                "agent": each.label,
                "accuracy": float(np.median(each.accuracy)),
                "macs": float(np.median(each.macs)),
                "params": float(np.median(each.params)),
                "hypervolume": {
                    name: each.hypervolume(costs, whole[name], reference[name])
                    for name, costs in (("macs", each.macs), ("params", each.params))
                },
            }
            for each in self.delivered(runs)
        ]

    def markdown(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The `rows` as a table."""
        lines = [
            f"| {self.name} of the teacher's MACs; teacher {self.teacher:.1%} | robust accuracy | MACs | parameters "
            "| hypervolume, MACs | hypervolume, parameters |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for row in rows:
            shares = row["hypervolume"]
            lines.append(
                f"| {row['agent']} | {row['accuracy']:.1%} | {row['macs']:,.0f} | {row['params']:,.0f} "
                f"| {shares['macs']:.0%} | {shares['params']:.0%} |"
            )
        return "\n".join(lines) + "\n"

    def figure(self, runs: Sequence[AgentRun], path: Path) -> None:
        """All students grey, the front a line, each agent's students in its colour; against MACs and parameters."""
        figure = Figure(figsize=(12, 5), layout="constrained")
        FigureCanvasAgg(figure)
        for panel, (name, costs) in zip(figure.subplots(1, 2, sharey=True), self._costs().items(), strict=True):
            panel.scatter(costs, 100 * self.accuracy, s=2, color="#cccccc", linewidths=0)
            front = np.flatnonzero(pareto_front(costs, self.accuracy))
            front = front[np.argsort(costs[front])]
            panel.step(costs[front], 100 * self.accuracy[front], where="post", color="#333333", linewidth=1.2)
            for each in self.delivered(runs):
                own = each.macs if name == "macs" else each.params
                panel.scatter(
                    own, 100 * each.accuracy, s=18, alpha=0.6, linewidths=0, label=each.label, **dots(each.label)
                )
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel({"macs": "MACs an image", "params": "parameters"}[name])
            panel.grid(alpha=0.3)
        figure.axes[0].set_ylabel("expected robust accuracy in %")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
        figure.savefig(path, dpi=110)

    def _costs(self) -> dict[str, Floats]:
        return {"macs": self.macs, "params": self.params}

    def _accuracy(self, rows: Sequence[int]) -> Floats:
        found: Floats = self.table.expected[list(rows), self.column]
        return found
