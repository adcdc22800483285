"""What a student is worth apart from luck: the noise-free expected rewards that incumbents are judged by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean
from typing import Protocol

from experiments.arena_settings import ArenaSettings
from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.compression import compress_stage, planes_multiple
from rcnas_env.cost import Cost, cost
from rcnas_env.evaluation.analytic import PEAK_REWARD, TEACHER_ACCURACY, AnalyticEvaluator, best_student
from rcnas_env.evaluation.evaluator import Evaluator
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.reward import reward_terms
from rcnas_env.seeding import derive_seed
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.table import load_table
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe

MOST_STUDENTS = 100_000
"""Enumerating more students to find the best of them would take minutes."""

FIXED_SECONDS, SECONDS_PER_MMAC = 2.0, 10.0
"""The analytic engine's fiction of time: seconds a student, and seconds for each million of its MACs. Of the order of
what the digits preset takes on one core, no measurement."""


class Landscape(Protocol):
    """Expected rewards under one task (Eq. 4 at ε = 0)."""

    @property
    def best(self) -> float | None:
        """The greatest expected reward of a student within the budget; None where nobody knows."""

    def expected_reward(self, student: NetworkSpec) -> float:
        """Eq. 4 at ε = 0 with expected accuracies."""

    def simulated_seconds(self, student: NetworkSpec) -> float:
        """What training and attacking the student takes, in seconds."""


def expected_eq4(student: Evaluation, teacher: Evaluation, budget: float, emphasis: float = 1.0) -> float:
    """Eq. 4 at ε = 0 from two evaluations; `emphasis` is λ."""
    return reward_terms(
        Cost(student.params, student.macs),
        Cost(teacher.params, teacher.macs),
        budget,
        student.robust_accuracy,
        teacher.robust_accuracy,
        annealing=0.0,
        smallest_accuracy=1 / teacher.images,
        compression_emphasis=emphasis,
    ).reward


class AnalyticLandscape:
    """The analytic engine's, without its noise.

    Args:
        task: judged under.
        recipe: only its n_eval matters here.
        emphasis: λ of the reward.
    """

    def __init__(self, task: Task, recipe: Recipe, emphasis: float = 1.0) -> None:
        self.task, self.recipe, self.emphasis = task, recipe, emphasis
        self._evaluator = AnalyticEvaluator()
        self.best: float = self._best()

    def expected_reward(self, student: NetworkSpec) -> float:
        """See `Landscape`."""
        accuracy = self._evaluator.accuracy(Job(student, self.task, self.recipe))
        teacher = cost(self.task.teacher)
        return reward_terms(
            cost(student),
            teacher,
            self.task.budget,
            accuracy,
            TEACHER_ACCURACY,
            annealing=0.0,
            compression_emphasis=self.emphasis,
        ).reward

    def simulated_seconds(self, student: NetworkSpec) -> float:
        """See `Landscape`."""
        return seconds_by_macs(cost(student).macs)

    def _best(self) -> float:
        """PEAK_REWARD where its student is within the budget (at λ = 1), else the best of all students."""
        try:
            reached = self.expected_reward(best_student(self.task))
        except ValueError:  # it is not
            reached = -math.inf
        if self.emphasis == 1 and math.isclose(reached, PEAK_REWARD):
            return PEAK_REWARD
        return max(
            self.expected_reward(student)
            for student in students(self.task.teacher)
            if cost(student).macs <= self.task.budget
        )


class LiveLandscape:
    """Real training's, estimated: the mean over `judge_seeds` trainings that no search has seen.

    What an agent selects by its reward has been lucky in its training; a training by another seed is not. It is judged
    on the same eval images, so that luck with these stays. The best student is unknown.

    Args:
        evaluator: the trained engine, with a store.
        task: judged under.
        recipe: of all trainings.
        training_seed: of the run's own trainings, whose time counts.
        judge_seeds: trainings of each incumbent, at least 1.
        emphasis: λ of the reward.
    """

    best = None

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        recipe: Recipe,
        training_seed: int,
        judge_seeds: int,
        emphasis: float = 1.0,
    ) -> None:
        self.evaluator, self.task, self.recipe, self.training_seed = evaluator, task, recipe, training_seed
        self.emphasis = emphasis
        self.judges = [derive_seed(0, "judge", index) % 2**31 for index in range(judge_seeds)]

    def expected_reward(self, student: NetworkSpec) -> float:
        """See `Landscape`; from each judge's training of the student and of the teacher."""
        jobs = [Job(student, self.task, self.recipe, seed) for seed in self.judges]
        found = self.evaluator.evaluate([*jobs, *(job.teacher_job for job in jobs)])
        pairs = zip(found[: len(jobs)], found[len(jobs) :], strict=True)
        return mean(expected_eq4(ours, teacher, self.task.budget, self.emphasis) for ours, teacher in pairs)

    def simulated_seconds(self, student: NetworkSpec) -> float:
        """See `Landscape`; measured when the run's own training was done, be it for an earlier run."""
        return seconds_of(self.evaluator.evaluate([Job(student, self.task, self.recipe, self.training_seed)])[0])


def make_landscape(settings: ArenaSettings, evaluator: Evaluator, task: Task, training_seed: int) -> Landscape:
    """The landscape of the settings' engine under `task`.

    Raises:
        ValueError: the analytic optimum under the task is not known, or the table is unknown.
        NotInTableError: the table says nothing about the task.
    """
    emphasis = settings.compression_emphasis
    if settings.engine == "analytic":
        return AnalyticLandscape(task, settings.recipe, emphasis)
    if settings.engine == "trained":
        return LiveLandscape(evaluator, task, settings.recipe, training_seed, settings.judge_seeds, emphasis)
    return TaskLandscape(load_table(settings.table), task, emphasis)


def students(teacher: NetworkSpec) -> Iterator[NetworkSpec]:
    """Every student that one compression makes of `teacher`.

    Raises:
        ValueError: there are more than MOST_STUDENTS.
    """
    choices = [sorted(_stage_students(stage), key=repr) for stage in teacher.stages]
    if (count := math.prod(map(len, choices))) > MOST_STUDENTS:
        raise ValueError(f"task.teacher must have at most {MOST_STUDENTS:,} students, got {count:,}")
    return (replace(teacher, stages=stages) for stages in itertools.product(*choices))


def _stage_students(stage: StageSpec) -> set[StageSpec]:
    widths = max(1, math.ceil(stage.planes / planes_multiple(stage.planes)))
    return {
        compress_stage(stage, width / widths, depth / stage.depth, downsample, robust)
        for width in range(widths + 1)
        for depth in range(stage.depth + 1)
        for downsample in (False, True)
        for robust in (False, True)
    }


def seconds_of(evaluation: Evaluation) -> float:
    """What an evaluation takes, as its engine tells; by its MACs where the engine (the analytic one) tells nothing.

    One that failed counts as nothing: how long it was tried is not told.
    """
    told = evaluation.training_seconds + evaluation.attack_seconds
    if "failed" in evaluation.provenance:
        return 0.0
    return told if told > 0 else seconds_by_macs(evaluation.macs)


def seconds_by_macs(macs: int) -> float:
    """The analytic engine's fiction of time."""
    return FIXED_SECONDS + SECONDS_PER_MMAC * macs / 1e6
