"""The hybrid action as one flat vector, for learners that take no Dict actions (stable-baselines3)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rcnas_env.validation import require_integer


def _stages(env: gym.Env[Any, Any]) -> int:
    if not isinstance(env.action_space, spaces.Dict) or set(env.action_space) != {"keep", "switch"}:
        raise ValueError(f"env must have RCNASEnv's hybrid action space, got {env.action_space}")
    shape = env.action_space["keep"].shape
    assert shape is not None
    return int(shape[0])


class FlatAction(gym.ActionWrapper[Any, Any, Any]):
    """`Box(-1, 1, (4 · stages,))`, for PPO, A2C, SAC, TD3.

    First keep's shares, row by row, mapped from [−1, 1] to [0, 1]; then the switches, on where positive.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.stages = _stages(env)
        self.action_space = spaces.Box(-1.0, 1.0, (4 * self.stages,), np.float32)

    def action(self, action: Any) -> dict[str, NDArray[Any]]:
        """The hybrid action of a flat one.

        Raises:
            ValueError: it has another shape, or is outside [−1, 1] or NaN.
        """
        flat = np.asarray(action, np.float64)
        if flat.shape != self.action_space.shape or not (np.abs(flat) <= 1).all():
            raise ValueError(f"action must be {4 * self.stages} numbers in [-1, 1], got {action!r}")
        keep, switch = flat.reshape(2, self.stages, 2)
        return {"keep": ((keep + 1) / 2).astype(np.float32), "switch": (switch > 0).astype(np.int8)}


class DiscreteAction(gym.ActionWrapper[Any, Any, Any]):
    """`MultiDiscrete`: for every share one of `levels` equally spaced values from 1/levels to 1, then the switches.

    For learners of discrete actions, and for enumerating students.
    """

    def __init__(self, env: gym.Env[Any, Any], levels: int = 8) -> None:
        super().__init__(env)
        self.stages = _stages(env)
        self.levels = require_integer("levels", levels, 2)
        self.action_space = spaces.MultiDiscrete([self.levels] * (2 * self.stages) + [2] * (2 * self.stages))

    def action(self, action: Any) -> dict[str, NDArray[Any]]:
        """The hybrid action of a discrete one.

        Raises:
            ValueError: it is outside the space.
        """
        flat = np.asarray(action)
        if flat.dtype.kind not in "iu" or not self.action_space.contains(flat):
            raise ValueError(f"action must be in {self.action_space}, got {action!r}")
        keep, switch = flat.reshape(2, self.stages, 2)
        return {"keep": ((keep + 1) / self.levels).astype(np.float32), "switch": switch.astype(np.int8)}
