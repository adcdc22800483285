"""A vector environment as stable-baselines3's VecEnv: flat states and actions, as many trials as granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.agent import Envs, OnTrial
from agents.state_encoder import features
from agents.trial import Trial, info_of, trial_of
from rcnas_env.wrappers import EncodedState, FlatAction
from rcnas_env.wrappers.encoded_state import Encoder


def flat_state(observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """One observation of RCNASEnv as float32 (4 · N_stage + 3,), without an encoder.

    The stages row by row, the mean and the standard deviation of LIPS over the eval images, the cost (of every image
    the same), all on `features`' scales.
    """
    found = features(observation)
    summary = [found.lips.mean(), found.lips.std(correction=0), found.cost.mean()]
    return np.array([*found.stages.flatten(), *summary], np.float32)


class SingleSpaces(gym.Env[Any, Any]):
    """The spaces of one environment out of several; it is asked for nothing else."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


class FlatVectorEnv(VecEnv):
    """`envs` behind the wrappers FlatAction and EncodedState, which read every action and every observation.

    All environments step together, so that their students are evaluated in one call of the engine. Where their
    episodes end (together: they have the same length) they are reset at once, as stable-baselines3 expects; the state
    before that is in the infos' terminal_observation.

    Args:
        envs: stepped until `evaluations` trials are in.
        encode: one observation → a flat state.
        size: its length.
        evaluations: trials to record; those of environments beyond it in the last step are left out.
        on_trial: called with each trial.
        seed: of the first reset; further resets go on from there.
        steps_taken: where in the annealing of ε the first reset goes on.
    """

    def __init__(
        self,
        envs: Envs,
        encode: Encoder,
        size: int,
        evaluations: int,
        on_trial: OnTrial | None = None,
        seed: int = 0,
        steps_taken: int = 0,
    ) -> None:
        self.envs, self.evaluations, self.on_trial = envs, evaluations, on_trial
        self.actions = FlatAction(SingleSpaces(envs.single_observation_space, envs.single_action_space))
        self.states = EncodedState(self.actions, encode, size)
        self.trials: list[Trial] = []
        self.steps_taken = steps_taken
        self._first_reset: dict[str, Any] = {"seed": seed, "options": {"steps_taken": steps_taken}}
        self._waiting: NDArray[Any] | None = None
        super().__init__(envs.num_envs, self.states.observation_space, self.actions.action_space)

    def reset(self) -> NDArray[np.float32]:
        """The states (num_envs, size) at the start of new episodes."""
        observations, _ = self.envs.reset(**self._first_reset)
        self._first_reset = {}
        return self._encoded(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take note of flat actions (num_envs, 4 · N_stage)."""
        self._waiting = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Evaluate their students.

        Raises:
            ValueError: an action is outside the space, or the episodes do not end together.
        """
        assert self._waiting is not None
        single = [self.actions.action(action) for action in self._waiting]
        batch = {part: np.stack([action[part] for action in single]) for part in ("keep", "switch")}
        observations, rewards, terminated, truncated, infos = self.envs.step(batch)
        for index in range(min(self.num_envs, self.evaluations - len(self.trials))):
            self.trials.append(trial_of(info_of(infos, index)))
            if self.on_trial:
                self.on_trial(self.trials[-1])
        self.steps_taken += self.num_envs
        states = self._encoded(observations)
        done = np.asarray(terminated) | np.asarray(truncated)
        given: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            if not done.all():
                raise ValueError(f"envs must have episodes of one length, got ends {done.tolist()}")
            given = [{"terminal_observation": state, "TimeLimit.truncated": True} for state in states]
            states = self.reset()
        return states, np.asarray(rewards, np.float32), done, given

    def close(self) -> None:
        """The environments stay open: they are the caller's."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Of the environments stable-baselines3 asks for their render mode alone."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported."""
        raise NotImplementedError("set_attr")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Not supported."""
        raise NotImplementedError("env_method")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """No environment is wrapped in `wrapper_class`, such as stable-baselines3's Monitor."""
        return [False for _ in self._get_indices(indices)]

    def _encoded(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        rows: Sequence[dict[str, Any]] = [
            {part: value[index] for part, value in observations.items()} for index in range(self.num_envs)
        ]
        return np.stack([self.states.observation(row) for row in rows])
