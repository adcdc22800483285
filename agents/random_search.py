"""Random search: uniform actions, over-budget ones drawn again (a student's cost is known without training)."""

from __future__ import annotations

import numpy as np

from agents.agent import Envs, OnTrial
from agents.trial import Trial, info_of, trial_of
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.task import Task

MOST_DRAWS = 10_000
"""Draws for one student before the budget counts as out of reach."""


class RandomSearch:
    """Uniform over the action space, within the budget.

    Args:
        task: whose budget is kept.
        seed: of the actions.
    """

    name = "random search"

    def __init__(self, task: Task, seed: int = 0) -> None:
        self.task = task
        self._rng = np.random.default_rng(seed)

    def propose(self) -> dict[str, np.ndarray]:
        """An action whose student is within the budget.

        Raises:
            ValueError: none was found in MOST_DRAWS draws.
        """
        stages = len(self.task.teacher.stages)
        cheapest = None
        for _ in range(MOST_DRAWS):
            action: dict[str, np.ndarray] = {
                "keep": self._rng.random((stages, 2), dtype=np.float32),
                "switch": self._rng.integers(0, 2, (stages, 2), dtype=np.int8),
            }
            macs = cost(compress(self.task.teacher, action)).macs
            if macs <= self.task.budget:
                return action
            cheapest = macs if cheapest is None else min(cheapest, macs)
        raise ValueError(
            f"task.budget must be within reach of its teacher's students, got {self.task.budget:,.0f} MACs where "
            f"the cheapest of {MOST_DRAWS} random students costs {cheapest:,}"
        )

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """See `Agent`."""
        trials: list[Trial] = []
        while len(trials) < evaluations:
            envs.reset()
            proposals = [self.propose() for _ in range(envs.num_envs)]
            actions = {part: np.stack([proposal[part] for proposal in proposals]) for part in ("keep", "switch")}
            _, _, _, _, infos = envs.step(actions)
            for index in range(min(envs.num_envs, evaluations - len(trials))):
                trials.append(trial_of(info_of(infos, index)))
                if on_trial:
                    on_trial(trials[-1])
        return trials
