"""The arena's figures: regret against evaluations and hours, improvement on random search, and the tables of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.arena_roster import RANDOM_SEARCH, chosen
from experiments.arena_runs import AgentRun, RunKey
from experiments.arena_statistics import (
    Groups,
    Scores,
    Statistic,
    improvement_interval,
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
)
from rcnas_env.seeding import derive_seed

REPETITIONS, CONFIDENCE = 2_000, 0.95
"""Of every bootstrap interval (rliable's confidence; it repeats 50,000 times, which changes the second digit)."""

CHECKPOINTS = (10, 30, 100)
"""Evaluations after which agents are compared in tables."""

BARS = (
    *((after, rival, after) for after in CHECKPOINTS for rival in (RANDOM_SEARCH, "evolution", "tpe")),
    (10, RANDOM_SEARCH, 100),
    (10, "evolution", 30),
    (10, "tpe", 30),
)
"""What a fine-tuned agent is to beat: (after so many evaluations, a rival, after so many of the rival's own); first at
equal evaluations, then after fewer."""

SHORTEST = 1e-5
"""Hours at which an axis of times begins at the earliest, so that it can be logarithmic."""


@dataclass(frozen=True)
class AgentScores:
    """All runs of one agent.

    expected: expected reward of the incumbent after each evaluation, (runs, tasks, evaluations); an agent that ended
        early keeps its last incumbent.
    regret: best expected reward minus that.
    share: that over the best expected reward.
    hours: simulated since the search began, (runs, tasks, evaluations).
    charged_hours: simulated before it, (runs, tasks).
    charged_evaluations: before the search, mean over runs.
    meta_trained: whether it was.
    groups: which runs share a state encoder and a meta-training, (runs,); None where they share nothing.
    """

    label: str
    expected: Scores
    regret: Scores
    share: Scores
    hours: Scores
    charged_hours: Scores
    charged_evaluations: float
    meta_trained: bool
    groups: Groups | None = None

    @property
    def evaluations(self) -> int:
        """Length of the curves."""
        return self.regret.shape[2]

    def after(self, evaluations: int) -> Scores:
        """Expected reward after so many evaluations, (runs, tasks)."""
        return self.expected[:, :, evaluations - 1]


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 3) -> str:
        """Such as 0.512 [0.497, 0.530]."""
        value, low, high = (round(number, digits) + 0.0 for number in (self.value, self.low, self.high))  # no -0.000
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def checkpoints(evaluations: int) -> tuple[int, ...]:
    """Those of CHECKPOINTS before the end, and the end."""
    return (*(point for point in CHECKPOINTS if point < evaluations), evaluations)


def best_rewards(runs: Sequence[AgentRun]) -> dict[str, float]:
    """The best expected reward of each task: the landscape's, or, where it is unknown, the best that any run found."""
    best: dict[str, float] = {}
    for run in runs:
        value = max(run.expected) if run.best is None else run.best
        best[run.task] = max(value, best.get(run.task, 0.0))
    return best


def collect(
    runs: Mapping[RunKey, AgentRun],
    labels: Sequence[str],
    tasks: Sequence[str],
    seeds: int,
    evaluations: int,
    meta_seeds: int,
) -> dict[str, AgentScores]:
    """The scores of each agent, in the roster's order; the other arguments are the comparison's settings.

    Raises:
        ValueError: a task's best expected reward is not above 0, so that nothing is a share of it.
    """
    entries = chosen(labels)
    wanted = [runs[entry.label, task, seed] for entry in entries for task in tasks for seed in range(seeds)]
    best = best_rewards(wanted)
    if min(best.values()) <= 0:
        raise ValueError(f"runs must have found a student with an expected reward above 0 on each task, got {best}")
    top = np.array([best[task] for task in tasks])[None, :, None]
    scores = {}
    for entry in entries:
        mine = [[runs[entry.label, task, seed] for task in tasks] for seed in range(seeds)]
        expected = np.array([[_padded(run.expected, evaluations, run.expected[-1]) for run in row] for row in mine])
        seconds = np.array([[_padded(run.seconds, evaluations, 0.0) for run in row] for row in mine])
        scores[entry.label] = AgentScores(
            entry.label,
            expected,
            top - expected,
            expected / top,
            seconds.cumsum(axis=2) / 3_600,
            np.array([[run.charge.seconds / 3_600 for run in row] for row in mine]),
            float(np.mean([[run.charge.evaluations for run in row] for row in mine])),
            entry.meta_trained,
            np.arange(seeds) % meta_seeds if entry.encoded else None,
        )
    return scores


def regret_estimate(scores: AgentScores, evaluations: int) -> Estimate:
    """IQM of the regret after so many evaluations."""
    return Estimate(*map(float, estimate(scores.regret[:, :, evaluations - 1], iqm, scores)))


def improvement(x: AgentScores, after_x: int, y: AgentScores, after_y: int) -> Estimate:
    """P(x after so many evaluations > y after so many)."""
    ours, theirs = x.after(after_x), y.after(after_y)
    rng = _generator(x.label, y.label)
    interval = improvement_interval(ours, theirs, REPETITIONS, rng, CONFIDENCE, (x.groups, y.groups))
    return Estimate(probability_of_improvement(ours, theirs), *interval)


def estimate(values: Scores, statistic: Statistic, scores: AgentScores) -> tuple[Any, Any, Any]:
    """(value, low, high) of a statistic of `values`, (runs, tasks), of the agent of `scores`."""
    rng = _generator(scores.label)
    low, high = stratified_bootstrap(values, statistic, REPETITIONS, rng, CONFIDENCE, scores.groups)
    return statistic(values), low, high


def curve_by_evaluations(scores: AgentScores, places: Sequence[int]) -> tuple[Scores, Scores, Scores]:
    """IQM of the regret, with its band, after each number of evaluations in `places`; each (len(places),)."""
    columns = [estimate(scores.regret[:, :, place - 1], iqm, scores) for place in places]
    value, low, high = np.array(columns, float).T
    return value, low, high


def own_hours(scores: AgentScores, places: int = 25) -> Scores:
    """Hours, charged ones included, from where all runs have done an evaluation to where all have ended, (places,)."""
    spent = scores.charged_hours[:, :, None] + scores.hours
    first = max(float(spent[:, :, 0].max()), SHORTEST)
    return np.geomspace(first, max(float(spent[:, :, -1].max()), first) * (1 + 1e-9), places)


def curve_by_hours(scores: AgentScores, hours: Scores) -> tuple[Scores, Scores, Scores]:
    """IQM of the regret, with its band, at each of `hours`, those charged before the search included.

    Args:
        scores: of one agent.
        hours: (k,), none before every run has done its first evaluation.

    Raises:
        ValueError: a run has done none by then.

    Returns:
        (value, low, high), each (k,).
    """
    spent = scores.charged_hours[:, :, None] + scores.hours
    columns = []
    for hour in hours:
        done = (spent <= hour).sum(axis=2)
        if done.min() == 0:
            raise ValueError(f"hours must not be before the first evaluation of every run, got {hour}")
        regret = np.take_along_axis(scores.regret, done[:, :, None] - 1, axis=2)[:, :, 0]
        columns.append(estimate(regret, iqm, scores))
    value, low, high = np.array(columns, float).T
    return value, low, high


def task_regrets(scores: AgentScores, tasks: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """IQM of the regret on each task at the checkpoints, as JSON values."""
    columns = {name: scores.regret[:, [place]] for place, name in enumerate(tasks)}
    return {
        name: {
            str(point): vars(Estimate(*map(float, estimate(column[:, :, point - 1], iqm, scores))))
            for point in checkpoints(scores.evaluations)
        }
        for name, column in columns.items()
    }


def agent_rows(scores: Mapping[str, AgentScores], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """A row an agent, as JSON values; `tasks` are those of the scores, in their order."""
    rows = []
    rival = scores.get(RANDOM_SEARCH)
    for mine in scores.values():
        points = checkpoints(mine.evaluations)
        against = rival if mine.label != RANDOM_SEARCH else None
        rows.append(
            {
                "agent": mine.label,
                "regret": {str(n): vars(regret_estimate(mine, n)) for n in points},
                "improvement": {str(n): vars(improvement(mine, n, against, n)) for n in points} if against else {},
                "task_regret": task_regrets(mine, tasks),
                "mean_regret": mine.regret.mean(axis=(0, 1)).tolist(),
                "charged_evaluations": mine.charged_evaluations,
                "charged_hours": float(mine.charged_hours.mean()),
                "hours": float(mine.hours[:, :, -1].mean()),
            }
        )
    return rows


def bar_rows(scores: Mapping[str, AgentScores]) -> list[dict[str, Any]]:
    """Meta-trained agents, fine-tuned, against those of BARS that were run for as long, as JSON values."""
    return [
        {
            "agent": mine.label,
            "after": after,
            "rival": rival,
            "rival_after": rival_after,
            "regret": vars(regret_estimate(mine, after)),
            "rival_regret": vars(regret_estimate(scores[rival], rival_after)),
            "improvement": vars(improvement(mine, after, scores[rival], rival_after)),
        }
        for mine in scores.values()
        for after, rival, rival_after in BARS
        if mine.meta_trained and rival in scores and max(after, rival_after) <= mine.evaluations
    ]


def _padded(values: Sequence[float], length: int, filling: float) -> list[float]:
    return [*values, *[filling] * (length - len(values))]


def _generator(*labels: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(0, "bootstrap", *labels))
