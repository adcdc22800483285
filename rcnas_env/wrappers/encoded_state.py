"""A frozen state encoder in front of a learner that wants a flat state (Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Encoder = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]
"""One observation of RCNASEnv → a float vector of fixed length."""


class EncodedState(gym.ObservationWrapper[Any, Any, Any]):
    """Observations are `encoder(observation)`, float32 (size,).

    Args:
        env: with RCNASEnv's observations.
        encoder: frozen, such as `agents.state_encoder.StateEncoder.encode`.
        size: length of its output.
    """

    def __init__(self, env: gym.Env[Any, Any], encoder: Encoder, size: int) -> None:
        super().__init__(env)
        self.encoder = encoder
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The encoded observation.

        Raises:
            ValueError: the encoder's output has another length than `size`.
        """
        encoded = np.asarray(self.encoder(observation), np.float32).reshape(-1)
        if encoded.shape != self.observation_space.shape:
            raise ValueError(
                f"size must be the encoder's output length, {len(encoded)}: {self.observation_space.shape}"
            )
        return encoded
