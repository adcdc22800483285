"""`RCNAS-Tabular-v0`: `RCNAS-v0` on a table, thousands of steps a second."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import validate_action
from rcnas_env.cost import cost
from rcnas_env.env import RCNASEnv
from rcnas_env.presets import BUDGET_SHARES
from rcnas_env.tabular.evaluator import TableEvaluator
from rcnas_env.tabular.table import Table
from rcnas_env.task import TaskBuffers, Tasks, TeacherEntry


class TableJob(NamedTuple):
    """A network under an attack: row and number in the table."""

    row: int
    attack: int


class TableEntry(NamedTuple):
    """What an environment needs to know of an Evaluation; `rcnas_env.evaluation.record` has the fields' meaning."""

    macs: int
    clean_accuracy: float
    robust_accuracy: float
    adversarial_loss: float
    lips: NDArray[np.float32]
    training_seconds: float
    attack_seconds: float
    diverged: bool = False
    from_store: bool = False


class TabularEnv(RCNASEnv):
    """RCNASEnv on a table: nothing is trained, every student of the table's space is known.

    Spaces, rewards and infos are RCNASEnv's, and equal to those of `gym.make("RCNAS-v0", engine="tabular",
    engine_options={"table": …})` on the same tasks; only faster. `info["effort"].evaluation_seconds` is what the step
    would have taken.

    Args:
        table: name or path of a table, or the Table itself; "digits" comes with the package.
        tasks: as RCNASEnv's; None for `default_tasks`.
        noise: whether an accuracy is that of one training, as recorded or drawn from measured residuals by
            `training_seed` (True), or the expectation over training seeds.
        options: `penalty`, `annealing_steps`, `compression_emphasis`, `training_seed`, `render_mode` of RCNASEnv.

    Raises:
        NotInTableError: the table says nothing about a task; at the latest when it is sampled.
    """

    def __init__(
        self, table: str | Table = "digits", tasks: Tasks | None = None, noise: bool = True, **options: Any
    ) -> None:
        own = {"penalty", "annealing_steps", "compression_emphasis", "training_seed", "render_mode"}
        for name in options:
            if name not in own:
                raise ValueError(f"options must be among {', '.join(sorted(own))} for a table, got {name!r}")
        self._table_evaluator = TableEvaluator(table, noise)
        self.table = self._table_evaluator.table
        chosen = default_tasks(self.table) if tasks is None else tasks
        super().__init__(tasks=chosen, recipe=self.table.recipe, engine=self._table_evaluator, store=None, **options)
        self._accuracies = self._table_evaluator.accuracies(self.training_seed)

    def _student(self, action: Any) -> NetworkSpec:
        keep, switch = validate_action(action)
        return self.table.space.network(self.table.space.student(self._teacher_row, keep, switch))

    def _job(self, network: NetworkSpec) -> TableJob:  # type: ignore[override]
        row, attack = self._table_evaluator.numbers(network, self.task)
        if network is self.task.teacher:
            self._teacher_row = row
        return TableJob(row, attack)

    def _evaluate(self, job: TableJob) -> TableEntry:  # type: ignore[override]
        row, attack = job
        table, accuracies = self.table, self._accuracies[row]
        training, attacking = table.seconds_of(row, attack)
        return TableEntry(
            macs=int(table.macs[row]),
            clean_accuracy=float(accuracies[0]),
            robust_accuracy=float(accuracies[1 + attack]),
            adversarial_loss=table.loss(row, attack),
            lips=table.lips_of(row, attack),
            training_seconds=training,
            attack_seconds=attacking,
        )


def default_tasks(table: Table) -> TaskBuffers:
    """The table's attacks × its space's teacher, with budgets of a quarter and a half of the teacher's MACs."""
    teacher = table.space.teacher
    budgets = tuple(float(round(share * cost(teacher).macs)) for share in BUDGET_SHARES)
    return TaskBuffers((table.dataset,), table.attacks, (TeacherEntry(teacher, budgets),))
