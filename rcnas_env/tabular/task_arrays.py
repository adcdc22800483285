"""Tasks as numbers of a table, sampled for a batch of environments at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcnas_env.tabular.evaluator import TableEvaluator
from rcnas_env.tabular.space import Rows
from rcnas_env.task import FixedTasks, Task, TaskBuffers, Tasks, make_task_source, resolve_teacher


@dataclass
class TaskBatch:
    """One task an environment: rows of the teachers, numbers of the attacks, budgets in MACs; (num_envs,) each."""

    teacher: Rows
    attack: Rows
    budget: NDArray[np.float64]


class FixedTaskArrays:
    """Tasks from a list, each equally likely: `rcnas_env.task.FixedTasks`."""

    def __init__(self, tasks: Sequence[Task], evaluator: TableEvaluator) -> None:
        numbers = [evaluator.task_numbers(task) for task in tasks]
        self._teacher, self._attack = np.array(numbers, np.int64).T
        self._budget = np.array([task.budget for task in tasks], np.float64)

    def reset(self, where: NDArray[np.bool_]) -> None:
        """Nothing to re-initialise."""

    def sample(self, rng: np.random.Generator, count: int) -> TaskBatch:
        """A task for each of `count` environments."""
        chosen = rng.integers(len(self._budget), size=count)
        return TaskBatch(self._teacher[chosen], self._attack[chosen], self._budget[chosen])

    def add_students(self, where: NDArray[np.bool_], students: Rows, budgets: NDArray[np.float64]) -> None:
        """Students do not become teachers here."""


class BufferArrays:
    """The attack and architecture buffers of every environment: `rcnas_env.task.TaskBuffers`.

    Args:
        buffers: of the table's data set alone.
        evaluator: of the table.
        num_envs: each has a student buffer of its own.
        most_students: that an episode can add, its length.
    """

    def __init__(self, buffers: TaskBuffers, evaluator: TableEvaluator, num_envs: int, most_students: int) -> None:
        for task in buffers.base_tasks():
            evaluator.task_numbers(task)  # every combination is validated
        space = evaluator.table.space
        entries = buffers.teachers
        widest = max(len(entry.budgets) for entry in entries)
        self._attacks = np.array([evaluator.table.attacks.index(attack) for attack in buffers.attacks])
        self._base = len(entries)
        self._teacher = np.zeros((num_envs, self._base + most_students), np.int64)
        self._choices = np.ones((num_envs, self._base + most_students), np.int64)  # budgets of each entry
        self._budget = np.zeros((num_envs, self._base + most_students, widest))
        for position, entry in enumerate(entries):
            self._teacher[:, position] = space.row(resolve_teacher(entry.network, evaluator.table.dataset))
            self._choices[:, position] = len(entry.budgets)
            self._budget[:, position, : len(entry.budgets)] = entry.budgets
        self._entries = np.full(num_envs, self._base)

    def reset(self, where: NDArray[np.bool_]) -> None:
        """Forget the students of the environments where the mask says."""
        self._entries[where] = self._base

    def sample(self, rng: np.random.Generator, count: int) -> TaskBatch:
        """An attack, a teacher and one of its budgets for each environment, each uniformly."""
        envs = np.arange(count)
        attack = self._attacks[rng.integers(len(self._attacks), size=count)]
        entry = rng.integers(self._entries)
        budget = self._budget[envs, entry, rng.integers(self._choices[envs, entry])]
        return TaskBatch(self._teacher[envs, entry], attack, budget)

    def add_students(self, where: NDArray[np.bool_], students: Rows, budgets: NDArray[np.float64]) -> None:
        """Put each student into its environment's architecture buffer, with the budget of the task it came from."""
        envs = np.flatnonzero(where)
        position = self._entries[envs]
        self._teacher[envs, position] = students[envs]
        self._budget[envs, position, 0] = budgets[envs]
        self._choices[envs, position] = 1
        self._entries[envs] += 1


def task_arrays(
    tasks: Tasks, evaluator: TableEvaluator, num_envs: int, most_students: int
) -> FixedTaskArrays | BufferArrays:
    """Arrays of a Task, a list of them, or TaskBuffers.

    Raises:
        ValueError: another TaskSource, whose sampling is not known.
        NotInTableError: the table says nothing about one of the tasks.
    """
    source = make_task_source(tasks)
    if isinstance(source, FixedTasks):
        return FixedTaskArrays(source.tasks, evaluator)
    if isinstance(source, TaskBuffers):
        return BufferArrays(source, evaluator, num_envs, most_students)
    raise ValueError(f"tasks must be a Task, a list of them, or TaskBuffers for a vectorised table, got {tasks!r}")
