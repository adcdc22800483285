"""Observations without some of their parts: the ablations of LIPS and Cost (paper section 4.4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorObservationWrapper
from numpy.typing import NDArray

from rcnas_env.validation import require_choice

PARTS = ("stages", "lips", "cost")


def _masked(observation: dict[str, NDArray[Any]], hidden: Sequence[str]) -> dict[str, NDArray[Any]]:
    return {part: np.zeros_like(value) if part in hidden else value for part, value in observation.items()}


class MaskedState(gym.ObservationWrapper[Any, Any, Any]):
    """Zeroes the `hidden` parts of the observation; its space stays as it was.

    Raises:
        ValueError: a part is none of "stages", "lips", "cost".
    """

    def __init__(self, env: gym.Env[Any, Any], hidden: Sequence[str]) -> None:
        super().__init__(env)
        self.hidden = tuple(require_choice("hidden", part, PARTS) for part in hidden)

    def observation(self, observation: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The observation with the hidden parts zero."""
        return _masked(observation, self.hidden)


class MaskedVectorState(VectorObservationWrapper):
    """`MaskedState` for a vector environment: zeroes the `hidden` parts of every environment's observation.

    Raises:
        ValueError: a part is none of "stages", "lips", "cost".
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], hidden: Sequence[str]) -> None:
        super().__init__(env)
        self.hidden = tuple(require_choice("hidden", part, PARTS) for part in hidden)

    def observations(self, observations: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The observations with the hidden parts zero."""
        return _masked(observations, self.hidden)
