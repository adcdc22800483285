"""What is to be found on a task of a table: every student's expected reward, and the best; for regrets."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec
from rcnas_env.reward import OVER_BUDGET_REWARD
from rcnas_env.tabular.evaluator import TableEvaluator
from rcnas_env.tabular.space import Rows, first_generation
from rcnas_env.tabular.table import Table
from rcnas_env.task import Task
from rcnas_env.validation import require_number

Floats = NDArray[np.float64]


class TaskLandscape:
    """Expected rewards (Eq. 4 at ε = 0, expected accuracies of student and teacher) of a task's students.

    Args:
        table: whose space holds the task's teacher.
        task: one of the table's data set and attacks.
        compression_emphasis: λ of `rcnas_env.reward`; 1 is Eq. 4.

    Raises:
        NotInTableError: the table says nothing about the task.
        ValueError: λ is out of range.
    """

    def __init__(self, table: Table, task: Task, compression_emphasis: float = 1.0) -> None:
        self.table, self.task = table, task
        self.emphasis = require_number("compression_emphasis", compression_emphasis, minimum=0.0, maximum=1.0)
        self.teacher_row, self.attack = TableEvaluator(table).task_numbers(task)

    @functools.cached_property
    def students(self) -> Rows:
        """(n,): rows of all students that one action makes of the teacher, sorted."""
        return first_generation(self.table.space, self.teacher_row)

    @functools.cached_property
    def rewards(self) -> Floats:
        """(n,): expected rewards of `students`."""
        return self._rewards(self.students)

    @functools.cached_property
    def best(self) -> float:
        """The highest expected reward of any student."""
        return float(self.rewards.max())

    @property
    def best_student(self) -> NetworkSpec:
        """The student of the highest expected reward."""
        return self.table.space.network(int(self.students[self.rewards.argmax()]))

    def expected_reward(self, student: NetworkSpec) -> float:
        """Eq. 4 at ε = 0 with the expected accuracies of student and teacher."""
        return float(self._rewards(np.array([self.table.space.row(student)]))[0])

    def expected_accuracy(self, student: NetworkSpec) -> float:
        """Robust accuracy under the task's attack, in expectation over training seeds."""
        return float(self.table.expected[self.table.space.row(student), 1 + self.attack])

    def simulated_seconds(self, student: NetworkSpec) -> float:
        """What training and attacking the student takes on one core of the recording machine."""
        training, attack = self.table.seconds(np.array([self.table.space.row(student)]), np.array([self.attack]))
        return float(training[0] + attack[0])

    def _rewards(self, rows: Rows) -> Floats:
        table, column = self.table, 1 + self.attack
        compression = 1 - table.params[rows] / table.params[self.teacher_row]
        weight = 1 - self.emphasis + self.emphasis * compression * (2 - compression)
        teacher = max(float(table.expected[self.teacher_row, column]), 1 / table.images)
        rewards = weight * table.expected[rows, column] / teacher
        return np.where(table.macs[rows] <= self.task.budget, rewards, OVER_BUDGET_REWARD)
