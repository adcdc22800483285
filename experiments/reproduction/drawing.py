"""The paper's figures from what the searches found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.scaling_rule import scaling_rule
from experiments.figures import COLOURS, TEACHER_GREY
from experiments.reproduction.searches import Found, SearchKey
from experiments.reproduction.topology import depths, keep_ratios, stage_shares, widths
from rcnas_env.whole_files import writing

STUDENT, RULE = COLOURS[0], COLOURS[1]


def best_so_far(found: Found) -> list[float]:
    """Highest eval accuracy of a student within the budget after each evaluation, 0 before there is one."""
    accuracies = [(trial.robust_accuracy or 0.0) if trial.within_budget else 0.0 for trial in found.trials]
    return [float(value) for value in np.maximum.accumulate(accuracies)]


def topology_figure(found: Sequence[Found], path: Path) -> None:
    """Depth and width of each stage: teacher (grey), RobustResNet's rule at the budget, RC-NAS (Figures 1 and 6).

    A row a search: depths, widths, and what remains of the teacher's depth · width in each stage.
    """
    figure = _figure(9.0, 2.3 * len(found))
    grid = np.atleast_2d(figure.subplots(len(found), 3, squeeze=False))
    for axes, each in zip(grid, found, strict=True):
        _topology_row(axes, each)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def _topology_row(axes: Sequence[Axes], found: Found) -> None:
    teacher, student = found.task.teacher, found.student
    rule = scaling_rule(found.task.budget, teacher)
    networks = (("teacher", teacher, TEACHER_GREY), ("RobustResNet rule", rule, RULE), ("RC-NAS", student, STUDENT))
    for axis, (what, value) in zip(axes, (("blocks", depths), ("planes", widths)), strict=False):
        for position, (name, network, colour) in enumerate(networks):
            axis.bar(np.arange(3) + 0.27 * (position - 1), value(network), 0.25, color=colour, label=name)
        axis.set_title(f"{found.key.group}, {found.task.dataset}, {found.key.attack}: {what}", fontsize=8)
    axes[2].bar(np.arange(3), [100 * share for share in stage_shares(teacher, student)], 0.5, color=STUDENT)
    axes[2].axhline(100, color=TEACHER_GREY, linestyle="--")
    axes[2].set_title("blocks × planes kept, % of the teacher's", fontsize=8)
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))  # there is no half of a block
    for axis in axes:
        axis.set_xticks(range(3), ["stage 1", "stage 2", "stage 3"], fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)


def curves_figure(curves: Mapping[str, Sequence[Sequence[float]]], path: Path, title: str) -> None:
    """Best eval accuracy so far against evaluations, a thin line a seed and the mean (Figure 3).

    Args:
        curves: label → a list of accuracies (share) for each seed, all of one length.
        path: of the PNG.
        title: of the figure.
    """
    figure = _figure(5.5, 3.4)
    axis = figure.subplots()
    for colour, (label, seeds) in zip(COLOURS, curves.items(), strict=False):
        values = 100 * np.asarray(seeds)
        places = np.arange(1, values.shape[1] + 1)
        axis.plot(places, values.T, color=colour, linewidth=0.6, alpha=0.5)
        axis.plot(places, values.mean(0), color=colour, linewidth=2, label=f"{label} (mean of {len(values)})")
    axis.set(title=title, xlabel="students tried on the target task", ylabel="best eval accuracy so far, %")
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def ratios_figure(found: Sequence[Found], path: Path) -> None:
    """Share of depth and of width kept in each stage, and of all width to all depth, by search (Figure 4)."""
    figure = _figure(7.5, 3.4)
    axis = figure.subplots()
    width = 0.8 / max(1, len(found))
    for number, each in enumerate(found):
        ratios = keep_ratios(each.task.teacher, each.student)
        places = np.arange(len(ratios)) + (number - (len(found) - 1) / 2) * width
        label = f"{each.key.group}, {each.task.dataset}, {each.key.attack}"
        axis.bar(places, list(ratios.values()), width, color=COLOURS[number % len(COLOURS)], label=label)
    axis.set_xticks(range(7), list(keep_ratios(found[0].task.teacher, found[0].student)), fontsize=7)
    axis.set(ylabel="share kept (last: width to depth)")
    axis.legend(fontsize=7, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def curves_of(found: Mapping[SearchKey, Found], place: str, group: str, attack: str) -> dict[str, list[list[float]]]:
    """Variant → best accuracy so far of each seed's search on one task, R-NAS and RC-NAS."""
    curves: dict[str, list[list[float]]] = {}
    for key in sorted(found, key=lambda key: (key.variant, key.seed)):
        if key.variant in ("rc-nas", "r-nas") and (key.place, key.group, key.attack) == (place, group, attack):
            curves.setdefault(key.variant, []).append(best_so_far(found[key]))
    return curves


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
