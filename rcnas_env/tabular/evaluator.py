"""The engine that answers from a table, every student of its space: the tabular twin of the trained one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_env.architecture import Network
from rcnas_env.evaluation.evaluator import OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.tabular.table import Floats, Table, load_table
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_boolean, shown

HOW_COMPUTED = ("precision", "threads", "folded", "compilation", "attack_batch_size", "n_test")
"""Recipe fields that a job may have otherwise than the table: they say how it is computed, not what."""


class NotInTableError(LookupError):
    """A job of another data set, attack, recipe or space than the table's."""


class TableEvaluator:
    """Answers in microseconds what the trained engine would in seconds.

    Args:
        table: name or path of a table, or the Table itself.
        noise: whether an evaluation is that of one training (True), or the expectation over training seeds.
    """

    def __init__(self, table: str | Table, noise: bool = True) -> None:
        if not isinstance(table, str | Path | Table):
            raise ValueError(f"table must be a table's name or path, or a Table, got {shown(table)}")
        self.table = table if isinstance(table, Table) else load_table(str(table))
        self.noise = require_boolean("noise", noise)
        self._recipes: dict[Recipe, None] = {}
        self._attacks: dict[Task, int] = {}  # of tasks found valid: thousands of jobs a second have the same
        self._image_order = np.argsort(np.argsort(self.table.array("lips_pattern"), axis=1), axis=1)

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """See `Evaluator`.

        Raises:
            NotInTableError: the table says nothing about one of the jobs; nothing has been evaluated then.
        """
        numbers = {job: self._job_numbers(job) for job in dict.fromkeys(jobs)}
        found = {}
        for job, (row, attack) in numbers.items():
            found[job] = self._evaluation(job, row, attack)
            if on_done:
                on_done(job, found[job])
        return [found[job] for job in jobs]

    def close(self) -> None:
        """Nothing to let go of."""

    def task_numbers(self, task: Task) -> tuple[int, int]:
        """(row of the teacher, number of the attack) of a task in the table.

        Raises:
            NotInTableError: the table says nothing about the task.
        """
        table = self.table
        self._require("dataset", task.dataset, table.dataset)
        if task.attack not in table.attacks:
            self._require("attack", task.attack, f"one of {', '.join(table.attacks)}")
        self._require("epsilon of the attack", task.radius, table.card["epsilon"])
        self._require("attack_source", task.attack_source, "student")
        return self._row(task.teacher), table.attacks.index(task.attack)

    def numbers(self, network: Network, task: Task) -> tuple[int, int]:
        """(row of the network, number of the attack) in the table.

        Raises:
            NotInTableError: the table says nothing about one of them.
        """
        attack = self._attacks.get(task)
        if attack is None:
            attack = self._attacks[task] = self.task_numbers(task)[1]
        return self._row(network), attack

    def accuracies(self, seed: int) -> Floats:
        """(N, 1 + A): clean and robust accuracies of every network, trained by `seed`, or expected without noise."""
        return self.table.accuracies_of_all(seed) if self.noise else self.table.expected

    def _job_numbers(self, job: Job) -> tuple[int, int]:
        self._require("split", job.split, "eval")
        self._require_recipe(job.recipe)
        return self.numbers(job.network, job.task)

    def _row(self, network: Network) -> int:
        try:
            return self.table.space.row(network)
        except KeyError as error:
            raise NotInTableError(f"table {self.table.name!r}: {error.args[0]}") from None

    def _require(self, field: str, value: object, allowed: object) -> None:
        if value != allowed:
            raise NotInTableError(f"{field} must be {allowed} for table {self.table.name!r}, got {value}")

    def _require_recipe(self, recipe: Recipe) -> None:
        if recipe in self._recipes:  # thousands of jobs a second have the same
            return
        theirs = recipe.to_dict()
        for field, value in self.table.recipe.to_dict().items():
            if field not in HOW_COMPUTED:
                self._require(f"recipe.{field}", theirs[field], value)
        self._recipes[recipe] = None

    def _evaluation(self, job: Job, row: int, attack: int) -> Evaluation:
        table, accuracies = self.table, self.accuracies(job.seed)[row]
        clean, robust = float(accuracies[0]), float(accuracies[1 + attack])
        training, attacking = table.seconds_of(row, attack)
        order = self._image_order[attack]  # images whose output moves least stand first
        return Evaluation(
            key=job.key,
            params=int(table.params[row]),
            macs=int(table.macs[row]),
            images=table.images,
            clean_accuracy=clean,
            robust_accuracy=robust,
            adversarial_loss=table.loss(row, attack),
            robust=tuple((order < round(robust * table.images)).tolist()),
            lips=tuple(table.lips_of(row, attack).tolist()),
            zero_perturbations=0.0,
            diverged=False,
            training_seconds=training,
            attack_seconds=attacking,
            provenance=self._provenance(row, job.seed),
        )

    def _provenance(self, row: int, seed: int) -> dict[str, Any]:
        return {
            "engine": "tabular",
            "table": self.table.name,
            "sha256": self.table.card["sha256"],
            "recorded": self.noise and self.table.is_recorded(row, seed),
        }
