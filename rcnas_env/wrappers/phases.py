"""The two phases of training (paper section 3.3): many sampled tasks, then one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rcnas_env import META_EPISODE_STEPS
from rcnas_env.env import RCNASEnv
from rcnas_env.task import FixedTasks, Task, TaskSource
from rcnas_env.validation import require_integer


def _bare(env: gym.Env[Any, Any]) -> RCNASEnv:
    if not isinstance(env.unwrapped, RCNASEnv):
        raise ValueError(f"env must be an RCNASEnv, got {env.unwrapped!r}")
    return env.unwrapped


class _Phase(gym.Wrapper[Any, Any, Any, Any]):
    """Sets the tasks, and truncates episodes after `steps` steps."""

    def __init__(self, env: gym.Env[Any, Any], tasks: TaskSource, steps: int) -> None:
        super().__init__(env)
        self.steps = require_integer("steps", steps, 1)
        _require_no_lower_limit(env, self.steps)
        _bare(env).set_tasks(tasks)
        self._elapsed = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode of the phase."""
        self._elapsed = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; truncated at the phase's T."""
        observation, value, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        return observation, value, terminated, truncated or self._elapsed >= self.steps, info


def _require_no_lower_limit(env: gym.Env[Any, Any], steps: int) -> None:
    """A time limit inside would end episodes first."""
    while isinstance(env, gym.Wrapper):
        limit = getattr(env, "_max_episode_steps", None) if isinstance(env, gym.wrappers.TimeLimit) else None
        if limit is not None and limit < steps:
            raise ValueError(
                f"steps must be no more than the environment's own max_episode_steps, {limit}, got {steps}: "
                f"give max_episode_steps={steps} to gym.make"
            )
        env = env.env


class MetaTraining(_Phase):
    """Episodes of T = 5 steps over tasks sampled from `buffers` (Algorithm 1).

    Raises:
        ValueError: `env` ends its episodes before `steps`; give gym.make `max_episode_steps`.
    """

    def __init__(self, env: gym.Env[Any, Any], buffers: TaskSource, steps: int = META_EPISODE_STEPS) -> None:
        super().__init__(env, buffers, steps)


class FineTuning(_Phase):
    """Episodes of T = 1 step on one `task` (Algorithm 2).

    Raises:
        ValueError: `env` ends its episodes before `steps`; give gym.make `max_episode_steps`.
    """

    def __init__(self, env: gym.Env[Any, Any], task: Task, steps: int = 1) -> None:
        super().__init__(env, FixedTasks((task,)), steps)
