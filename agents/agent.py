"""The protocol that every searcher follows: spend evaluations on a task, return what was tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gymnasium.vector import VectorEnv

from agents.trial import Trial

OnTrial = Callable[[Trial], None]
"""Called with each trial as it is done; for progress bars and learning curves."""

Envs = VectorEnv[Any, Any, Any]


class Agent(Protocol):
    """Searches a task for a student."""

    name: str

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """Try `evaluations` students in `envs` (RCNASVectorEnv on one task); fewer where the agent needs fewer.

        Every trial counts, also one that the environment did not have to train.
        """
