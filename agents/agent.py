"""The protocol that every searcher follows: spend evaluations on a task, return what was tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agents.trial import Trial

OnTrial = Callable[[Trial], None]
"""Called with each trial as it is done; for progress bars and learning curves."""

Envs = VectorEnv[Any, Any, Any]


def batched(proposals: Sequence[dict[str, NDArray[Any]]], num_envs: int) -> dict[str, NDArray[Any]]:
    """One action an environment, stacked; environments left over repeat the last: equal jobs are evaluated once.

    Args:
        proposals: at least one, at most `num_envs`, of the parts "keep" and "switch".
        num_envs: how many rows each part gets.
    """
    every = [*proposals, *[proposals[-1]] * (num_envs - len(proposals))]
    return {part: np.stack([action[part] for action in every]) for part in proposals[0]}


class Agent(Protocol):
    """Searches a task for a student.

    An agent that knows how noisy rewards are may also have `incumbent(trials) -> Trial | None`: which of the trials it
    takes for the best so far. Of all others that is the one of the best reward (`incumbent_of`).
    """

    name: str

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """Try `evaluations` students in `envs` (RCNASVectorEnv on one task); fewer where the agent needs fewer.

        Every trial counts, also one that the environment did not have to train.
        """


def incumbent_of(agent: Agent, trials: Sequence[Trial]) -> Trial | None:
    """The trial within the budget that the agent would deliver: of its own choice, or the first of the best reward."""
    own = getattr(agent, "incumbent", None)
    if own is not None:
        chosen: Trial | None = own(trials)
        return chosen
    return max((trial for trial in trials if trial.within_budget), key=lambda trial: trial.reward, default=None)
