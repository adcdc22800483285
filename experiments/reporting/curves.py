"""Learning curves of a run: best reward so far, rewards of meta-training, regret."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.reporting.run_folder import Run
from experiments.reporting.searches import Search, by_label, by_task


@dataclass(frozen=True)
class Curve:
    """A label's values after 1, 2, … evaluations: the mean over its `seeds`, the least and the most of them.

    values, low, high: of one length, at least 1.
    """

    label: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int = 1

    def renamed(self, label: str) -> Curve:
        """The same curve under another label."""
        return Curve(label, self.values, self.low, self.high, self.seeds)


@dataclass(frozen=True)
class Curves:
    """Curves that share axes. Those of two runs compare where their keys are the same.

    key: what they were measured on, as JSON or a task.
    step: whether a value holds until the next (best so far) or lies on a slope (means).
    """

    key: object
    title: str
    y_heading: str
    x_heading: str
    curves: tuple[Curve, ...]
    step: bool


def best_so_far(searches: Sequence[Search]) -> Curves:
    """The best reward (Eq. 4) so far against evaluations, for each label of searches on one task.

    Several searches of a label are its seeds; their curve ends with the shortest one.
    """
    curves = []
    for label, mine in by_label(searches).items():
        length = min(len(search.trials) for search in mine)
        rewards = np.array([[trial.reward for trial in search.trials[:length]] for search in mine])
        curves.append(_over_seeds(label, np.maximum.accumulate(rewards, axis=1)))
    task = searches[0].task
    return Curves(task, "Learning curves", "best reward so far", "evaluations", tuple(curves), step=True)


def curves_of(run: Run) -> list[Curves]:
    """All curves of a run: a group for each task of its searches, and what its results hold beside."""
    results = run.record.get("results")
    found = [best_so_far(mine) for mine in by_task(run.searches).values()]
    if isinstance(results, Mapping):
        found += [group for group in (_meta_training(results), _mean_regret(results)) if group is not None]
    return found


def _over_seeds(label: str, values: np.ndarray) -> Curve:
    """The curve of (seeds, evaluations)."""
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    return Curve(label, tuple(mean.tolist()), tuple(low.tolist()), tuple(high.tolist()), len(values))


def _meta_training(results: Mapping[str, Any]) -> Curves | None:
    """The mean reward so far of a quickstart's meta-training ("meta_rewards")."""
    rewards = _numbers(results.get("meta_rewards"))
    if rewards is None:
        return None
    means = np.cumsum(rewards) / np.arange(1, len(rewards) + 1)
    curve = _over_seeds("meta-training", means[None])
    return Curves("meta-training", "Meta-training", "mean reward so far (Eq. 4)", "students", (curve,), step=False)


def _mean_regret(results: Mapping[str, Any]) -> Curves | None:
    """The mean regret of each agent of an arena ("agents", each with "mean_regret"), by its "best" rewards."""
    agents = results.get("agents")
    if not isinstance(agents, list):
        return None
    curves = []
    for agent in agents:
        regret = _numbers(agent.get("mean_regret")) if isinstance(agent, Mapping) else None
        if regret is not None:
            curves.append(_over_seeds(str(agent.get("agent")), np.array(regret)[None]))
    key = "regret " + json.dumps(results.get("best"), sort_keys=True)
    title = "Mean regret: what the best student would have brought beyond the best found"
    return Curves(key, title, "mean regret", "evaluations", tuple(curves), step=True) if curves else None


def _numbers(value: object) -> list[float] | None:
    """A list of one finite number or more; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    return value if all(isinstance(each, int | float) and math.isfinite(each) for each in value) else None
