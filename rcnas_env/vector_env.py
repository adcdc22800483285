"""N tasks a step: `gym.make_vec("RCNAS-v0", num_envs=N)`. Their evaluations go to the engine in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rcnas_env import META_EPISODE_STEPS
from rcnas_env.env import Observation, RCNASEnv
from rcnas_env.evaluation.evaluator import Evaluator, OnDone, make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store, open_store
from rcnas_env.validation import require_integer, require_options, shown

Arrays = NDArray[Any]


class RCNASVectorEnv(VectorEnv[Observation, dict[str, Arrays], Arrays]):
    """`num_envs` environments in lockstep on one engine, so that a pool of workers has something to share out.

    Every argument but these is RCNASEnv's. Autoreset is Gymnasium's default, next-step: the step after a
    truncation resets that environment, ignores its action and has reward 0.

    Args:
        num_envs: tasks a step, at least 1.
        max_episode_steps: T; episodes are truncated after so many steps.
        on_done: called as each student's or teacher's evaluation arrives (progress bars).

    In batched infos Gymnasium turns the None of a student that was not trained into NaN where another one was;
    `infos["evaluated"]` tells them apart.

    ε anneals over `annealing_steps` steps of all environments together.
    """

    metadata = {**RCNASEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = META_EPISODE_STEPS,
        tasks: Any = None,
        engine: str | Evaluator = "trained",
        engine_options: Mapping[str, Any] | None = None,
        store: str | os.PathLike[str] | Store | None = "default",
        on_done: OnDone | None = None,
        **options: Any,
    ) -> None:
        self.num_envs = require_integer("num_envs", num_envs, 1)
        self.max_episode_steps = require_integer("max_episode_steps", max_episode_steps, 1)
        self._owns_engine = isinstance(engine, str)
        self.evaluator = make_engine(engine, open_store(store), **require_options("engine_options", engine_options))
        # each environment has buffers of its own: students of one episode are no teachers of another
        self.envs = [
            RCNASEnv(tasks=deepcopy(tasks), engine=self.evaluator, store=None, **options) for _ in range(self.num_envs)
        ]
        self.on_done = on_done
        first = self.envs[0]
        self.render_mode = first.render_mode
        self.single_action_space, self.single_observation_space = first.action_space, first.observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._elapsed = np.zeros(self.num_envs, int)
        self._finished = np.zeros(self.num_envs, bool)
        self.steps_taken = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset every environment; one seed is spread as seed, seed + 1, … over them."""
        if seed is not None and not isinstance(seed, list):
            seed = require_integer("seed", seed, 0)
        first = seed  # a name that the comprehension's type does not widen again
        seeds = (
            first if isinstance(first, list) else [None if first is None else first + i for i in range(self.num_envs)]
        )
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be one integer or {self.num_envs} of them, got {shown(seed)}")
        jobs: list[Job | None] = []
        for env, own_seed in zip(self.envs, seeds, strict=True):
            super(RCNASEnv, env).reset(seed=own_seed)
            env.steps_taken = self.steps_taken
            jobs.append(env.begin_episode(own_seed, options))
        self._elapsed[:], self._finished[:] = 0, False
        self.steps_taken = self.envs[0].steps_taken
        observations = self._observe(jobs)
        infos: dict[str, Any] = {}
        for index, env in enumerate(self.envs):
            infos = self._add_info(infos, {"next_task": env.task.to_dict()}, index)
        return observations, infos

    def step(self, actions: Any) -> tuple[Observation, Arrays, Arrays, Arrays, dict[str, Any]]:
        """One step of every environment; one whose episode was truncated before is reset instead.

        Raises:
            ValueError: actions are not batched parts of RCNASEnv's action, one row an environment.
        """
        if not isinstance(actions, Mapping) or any(_rows(part) != self.num_envs for part in actions.values()):
            raise ValueError(f"actions must be a mapping of parts with {self.num_envs} rows each, got {shown(actions)}")
        for env in self.envs:
            env.steps_taken = self.steps_taken
        steps = [
            None if finished else env.begin_step({part: value[index] for part, value in actions.items()})
            for index, (env, finished) in enumerate(zip(self.envs, self._finished, strict=True))
        ]
        evaluations = self._evaluate([step.job if step else None for step in steps])
        rewards = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        for index, (env, step) in enumerate(zip(self.envs, steps, strict=True)):
            if step is not None:
                rewards[index], info = env.score(step, evaluations[index])
                infos = self._add_info(infos, info, index)
        self.steps_taken += sum(step is not None for step in steps)
        self._elapsed = np.where(self._finished, 0, self._elapsed + 1)
        jobs = [
            env.begin_episode() if finished else env.next_task()
            for env, finished in zip(self.envs, self._finished, strict=True)
        ]
        observations = self._observe(jobs)
        self._finished = self._elapsed >= self.max_episode_steps
        for index, env in enumerate(self.envs):
            infos = self._add_info(infos, {"next_task": env.task.to_dict()}, index)
        return observations, rewards, np.zeros(self.num_envs, bool), self._finished.copy(), infos

    def render(self) -> tuple[Any, ...] | None:
        """What each environment renders."""
        return None if self.render_mode is None else tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, and the engine unless it was given."""
        for env in self.envs:
            env.close()
        if self._owns_engine:
            self.evaluator.close()

    def _evaluate(self, jobs: list[Job | None]) -> list[Evaluation | None]:
        """The evaluations of the jobs that there are, from one call of the engine."""
        present = [job for job in jobs if job is not None]
        found = iter(self.evaluator.evaluate(present, self.on_done) if present else [])
        return [None if job is None else next(found) for job in jobs]

    def _observe(self, teacher_jobs: list[Any]) -> Observation:
        teachers = self._evaluate(teacher_jobs)
        single = [env.observe(teacher) for env, teacher in zip(self.envs, teachers, strict=True) if teacher]
        return {part: np.stack([observation[part] for observation in single]) for part in single[0]}


def _rows(part: object) -> int:
    """The number of rows of a part of the actions; −1 for what has none."""
    try:
        return -1 if isinstance(part, str | bytes | Mapping) else len(part)  # type: ignore[arg-type]
    except TypeError:  # a number, an array of no dimension
        return -1
