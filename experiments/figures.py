"""Figures of a search: teacher against students per stage, learning curves, accuracy against MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.trial import Trial
from experiments.comparison import TEST_ATTACKS, Row
from rcnas_env.architecture import NetworkSpec
from rcnas_env.rendering import draw_stages
from rcnas_env.whole_files import writing

TEACHER_GREY = "#9aa5b1"
COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#6b705c")


def _figure(width: float = 7.0, height: float = 3.4) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def stages_figure(teacher: NetworkSpec, students: Mapping[str, NetworkSpec], path: Path) -> None:
    """Planes and blocks per stage, teacher beside students (paper Figures 1 and 6)."""
    figure = _figure()
    draw_stages(figure.subplots(1, 2), teacher, dict(students))
    figure.suptitle("What remains of each stage (hatched: robust blocks)", fontsize=10)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def learning_figure(
    meta_rewards: Sequence[float], trials: Mapping[str, Sequence[Trial]], path: Path, rule_reward: float | None = None
) -> None:
    """Draw the rewards of meta-training's students and of each trial on the target task (paper Figure 3).

    Left: each student of meta-training and the mean so far. Right: each trial, the best so far as a line.
    """
    figure = _figure()
    left, right = figure.subplots(1, 2)
    places = np.arange(1, len(meta_rewards) + 1)
    left.plot(places, meta_rewards, "o", color=COLOURS[0], markersize=3, alpha=0.5)
    left.plot(places, np.cumsum(meta_rewards) / places, color=COLOURS[0], label="mean so far")
    left.set(title="meta-training", xlabel="student", ylabel="reward (Eq. 4)")
    left.legend(fontsize=7, frameon=False)
    for colour, (name, tried) in zip(COLOURS, trials.items(), strict=False):
        rewards = [trial.reward for trial in tried]
        places = np.arange(1, len(rewards) + 1)
        right.plot(places, rewards, "o", color=colour, markersize=3, alpha=0.5)
        right.step(places, np.maximum.accumulate(rewards), where="post", color=colour, label=f"{name}, best so far")
    if rule_reward is not None:
        right.axhline(rule_reward, color="#888888", linestyle=":", label="RobustResNet rule")
    right.set(title="target task", xlabel="student", ylabel="reward (Eq. 4)")
    right.legend(fontsize=7, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def accuracy_figure(rows: Sequence[Row], trials: Mapping[str, Sequence[Trial]], budget: float, path: Path) -> None:
    """Left: test accuracy under each attack. Right: eval accuracy of every student tried against its MACs."""
    figure = _figure(8.0)
    left, right = figure.subplots(1, 2)
    share = 0.8 / len(rows)
    colour_of = dict(zip(trials, COLOURS, strict=False))
    for position, row in enumerate(rows):
        places = np.arange(len(TEST_ATTACKS)) + (position - (len(rows) - 1) / 2) * share
        values = [100 * row.accuracies[attack] for attack in TEST_ATTACKS]
        left.bar(places, values, share, color=colour_of.get(row.name, TEACHER_GREY), label=row.name)
    left.set_xticks(range(len(TEST_ATTACKS)), TEST_ATTACKS)
    left.set(title="after final training, test set", ylabel="accuracy, %")
    left.legend(fontsize=7, frameon=False)
    for name, tried in trials.items():
        measured = [trial for trial in tried if trial.robust_accuracy is not None]
        right.scatter(
            [trial.macs / 1e6 for trial in measured],
            [100 * float(trial.robust_accuracy or 0) for trial in measured],
            s=12,
            color=colour_of.get(name, TEACHER_GREY),
            label=name,
        )
    right.axvline(budget / 1e6, color="#888888", linestyle="--", label="budget")
    right.set(title="students tried, eval set", xlabel="million MACs", ylabel="robust accuracy, %")
    right.legend(fontsize=7, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")
