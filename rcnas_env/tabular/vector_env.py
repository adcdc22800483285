"""`gym.make_vec("RCNAS-Tabular-v0", num_envs=N)`: N environments on a table, a step being a few NumPy operations."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rcnas_env import META_EPISODE_STEPS, reward
from rcnas_env.compression import action_space
from rcnas_env.env import Observation, observation_space
from rcnas_env.tabular.env import default_tasks
from rcnas_env.tabular.evaluator import TableEvaluator
from rcnas_env.tabular.table import Table
from rcnas_env.tabular.task_arrays import TaskBatch, task_arrays
from rcnas_env.task import N_STAGE, Tasks
from rcnas_env.validation import require_choice, require_integer, require_number, require_options, shown

Arrays = NDArray[Any]
Mask = NDArray[np.bool_]


class TabularVectorEnv(VectorEnv[Observation, dict[str, Arrays], Arrays]):
    """`num_envs` environments in lockstep on one table; spaces and rewards are TabularEnv's.

    Every argument but `num_envs` and `max_episode_steps` is TabularEnv's. Autoreset is Gymnasium's default,
    next-step: the step after a truncation resets that environment, ignores its action and has reward 0. ε anneals
    over `annealing_steps` steps of all environments together.

    Infos hold arrays of one entry an environment, each with its mask `_key` as Gymnasium has it: student and teacher
    (rows of the table's space: `table.space.network(row)`), attack (number in `table.attacks`), budget, params, macs,
    within_budget, robust_accuracy, clean_accuracy, teacher_accuracy, simulated_seconds.

    Args:
        num_envs: at least 1.
        max_episode_steps: T; episodes are truncated after so many steps.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = META_EPISODE_STEPS,
        table: str | Table = "digits",
        tasks: Tasks | None = None,
        noise: bool = True,
        training_seed: int = 0,
        penalty: str = "annealed",
        annealing_steps: int = 500,
        compression_emphasis: float = 1.0,
    ) -> None:
        self.num_envs = require_integer("num_envs", num_envs, 1)
        self.max_episode_steps = require_integer("max_episode_steps", max_episode_steps, 1)
        self.penalty = require_choice("penalty", penalty, reward.PENALTIES)
        self.annealing_steps = require_integer("annealing_steps", annealing_steps, 0)
        self.emphasis = require_number("compression_emphasis", compression_emphasis, minimum=0.0, maximum=1.0)
        evaluator = TableEvaluator(table, noise)
        self.table = evaluator.table
        self._accuracies = evaluator.accuracies(require_integer("training_seed", training_seed, 0))
        chosen = default_tasks(self.table) if tasks is None else tasks
        self._tasks = task_arrays(chosen, evaluator, self.num_envs, self.max_episode_steps)
        self.single_action_space, self.single_observation_space = (
            action_space(N_STAGE),
            observation_space(self.table.images),
        )
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._gmacs = (self.table.macs / 1e9).astype(np.float32)
        self._stages = self.table.space.stages.astype(np.float32)
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._finished = np.zeros(self.num_envs, bool)
        self._task: TaskBatch | None = None
        self.steps_taken = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset every environment; one seed for all. `options["steps_taken"]`: where in the annealing to go on.

        Raises:
            ValueError: seed is a list: all environments draw from one generator; or options name a task.
        """
        if isinstance(seed, list):
            raise ValueError(f"seed must be one integer for all environments, got {shown(seed)}")
        super().reset(seed=seed)
        options = dict(require_options("options", options))
        if "task" in options:
            raise ValueError("options['task'] must not be given: all environments sample from tasks")
        if unknown := sorted(set(options) - {"steps_taken"}, key=str):
            gym.logger.warn(f"options of reset that are not 'steps_taken' play no part, got {unknown}")
        steps = options.get("steps_taken", self.steps_taken if seed is None else 0)
        self.steps_taken = require_integer("options['steps_taken']", steps, 0)
        self._elapsed[:], self._finished[:] = 0, False
        self._tasks.reset(np.ones(self.num_envs, bool))
        self._task = self._tasks.sample(self.np_random, self.num_envs)
        return self._observe(self._task), {}

    def step(self, actions: Any) -> tuple[Observation, Arrays, Arrays, Arrays, dict[str, Any]]:
        """One step of every environment; one whose episode was truncated before is reset instead.

        Raises:
            ValueError: actions are not batched parts of the action space, one row an environment.
        """
        task, acting = self._task, ~self._finished
        if task is None:
            raise ValueError("reset() must be called before step()")
        keep, switch = self._validated(actions, acting)
        students = self.table.space.compress(task.teacher, keep, switch)
        rewards, infos = self._score(task, students, acting)
        self._tasks.reset(self._finished)
        self._tasks.add_students(acting, students, task.budget)
        self.steps_taken += int(acting.sum())
        self._elapsed = np.where(acting, self._elapsed + 1, 0)
        self._finished = self._elapsed >= self.max_episode_steps
        self._task = self._tasks.sample(self.np_random, self.num_envs)
        nothing = np.zeros(self.num_envs, bool)
        return self._observe(self._task), rewards, nothing, self._finished.copy(), infos

    def _score(self, task: TaskBatch, students: Arrays, acting: Mask) -> tuple[Arrays, dict[str, Any]]:
        """Eq. 4 for every environment that acts, 0 elsewhere; and the infos."""
        table, column = self.table, 1 + task.attack
        teacher_accuracy = self._accuracies[task.teacher, column]
        robust = self._accuracies[students, column]
        compression = 1.0 - table.params[students] / table.params[task.teacher]
        weight = 1.0 - self.emphasis + self.emphasis * compression * (2.0 - compression)
        value = weight * (robust / np.maximum(teacher_accuracy, 1 / table.images))
        within = table.macs[students] <= task.budget
        annealing = reward.linear_annealing(self.steps_taken, self.annealing_steps)
        hard = self.penalty == "hard"
        over = np.full(self.num_envs, reward.OVER_BUDGET_REWARD) if hard else annealing * (value + 1.0) - 1.0
        rewards = np.where(acting, np.where(within, value, over), 0.0)
        training, attacking = table.seconds(students, task.attack)
        values = {
            "student": students,
            "teacher": task.teacher,
            "attack": task.attack,
            "budget": task.budget,
            "params": table.params[students],
            "macs": table.macs[students],
            "within_budget": within,
            "robust_accuracy": robust,
            "clean_accuracy": self._accuracies[students, 0],
            "teacher_accuracy": teacher_accuracy,
            "simulated_seconds": training + attacking,
        }
        return rewards, values | {f"_{name}": acting for name in values}

    def _observe(self, task: TaskBatch) -> Observation:
        images = self.table.images
        return {
            "stages": self._stages[task.teacher],
            "lips": self.table.lips(task.teacher, task.attack),
            "cost": np.repeat(self._gmacs[task.teacher], images).reshape(-1, images),
        }

    def _validated(self, actions: Any, acting: Mask) -> tuple[Arrays, Arrays]:
        """(keep, switch) of batched actions, those of environments that act inside the space, all others put there."""
        try:
            keep, switch = np.asarray(actions["keep"], np.float64), np.asarray(actions["switch"])
        except (KeyError, TypeError, IndexError, ValueError, RuntimeError, OverflowError):
            raise ValueError(f'actions must be {{"keep": …, "switch": …}}, got {shown(actions)}') from None
        shape = (self.num_envs, N_STAGE, 2)
        if keep.shape != shape or switch.shape != shape:
            raise ValueError(f"actions' keep and switch must have shape {shape}, got {keep.shape} and {switch.shape}")
        if not acting.all():
            keep, switch = keep.copy(), switch.copy()
            keep[~acting], switch[~acting] = 1.0, 0
        if switch.dtype.kind not in "biuf":
            raise ValueError("actions['switch'] must be zeros and ones")
        if not ((keep >= 0) & (keep <= 1)).all():  # NaN fails too
            raise ValueError("actions['keep'] must be numbers in [0, 1]")
        if not ((switch == 0) | (switch == 1)).all():
            raise ValueError("actions['switch'] must be zeros and ones")
        return keep, switch.astype(np.int64)
