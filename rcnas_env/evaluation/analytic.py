"""A closed-form landscape with a known optimum: nothing is trained. For tests of learning, not for research."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.evaluation.evaluator import OnDone, register_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store
from rcnas_env.task import Task
from rcnas_env.validation import require_number

PEAK_REWARD = 0.8
"""Eq. 4's reward of the best student of any task (its C(2 − C) must be at least PEAK_REWARD · TEACHER_ACCURACY)."""

TEACHER_ACCURACY = 0.4
"""Robust accuracy of every teacher."""

SEVERITY = {"clean": 0.0, "fgsm": 0.3, "pgd": 0.6, "cw": 0.8, "autoattack": 1.0}
"""How hard an attack is, from 0 to 1, by the part of its name before a dash; others count as 0.5."""


def best_action(task: Task) -> dict[str, NDArray[np.float64] | NDArray[np.int8]]:
    """The best action: the harder the attack, the wider the first stage and the narrower the last."""
    severity = SEVERITY.get(task.attack.split("-")[0], 0.5)
    keep = np.array([[0.4 + 0.3 * severity, 0.75], [0.55, 0.5], [0.6 - 0.3 * severity, 0.3]])
    switch = np.array([[0, 1], [1, 0], [1, 1 if severity > 0.5 else 0]], dtype=np.int8)
    return {"keep": keep, "switch": switch}


def best_student(task: Task) -> NetworkSpec:
    """The student whose reward is PEAK_REWARD.

    Raises:
        ValueError: it costs more than the task's budget, so that the optimum is not known.
    """
    student = compress(task.teacher, best_action(task))
    macs = cost(student).macs
    if macs > task.budget:
        raise ValueError(f"task.budget must be at least {macs} for the analytic optimum to be known, got {task.budget}")
    return student


def landscape_reward(student: NetworkSpec, task: Task, width: float) -> float:
    """PEAK_REWARD · exp(−d²), d the distance from the best student: shares by `width`, switches by a half each."""
    best = compress(task.teacher, best_action(task))
    squared = 0.0
    for ours, theirs, teacher in zip(student.stages, best.stages, task.teacher.stages, strict=True):
        squared += ((ours.planes - theirs.planes) / (width * teacher.planes)) ** 2
        squared += ((ours.depth - theirs.depth) / (width * teacher.depth)) ** 2
        squared += 0.25 * ((ours.downsample != theirs.downsample) + (ours.robust != theirs.robust))
    return PEAK_REWARD * math.exp(-squared)


class AnalyticEvaluator:
    """Robust accuracy in closed form, such that Eq. 4 within the budget is `landscape_reward`.

    Args:
        store: unused; looking up would cost more than computing.
        width: how wide the peak is, in shares of the teacher's planes and depth.
        noise: standard deviation of Gaussian noise on accuracy, a function of the job.
    """

    def __init__(self, store: Store | None = None, width: float = 0.5, noise: float = 0.0) -> None:
        self.width = require_number("width", width, minimum=0.0, exclusive_minimum=True)
        self.noise = require_number("noise", noise, minimum=0.0)

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """See `Evaluator`."""
        found: dict[Job, Evaluation] = {}  # by job, not by key: accuracy here depends on the task's teacher
        for job in dict.fromkeys(jobs):
            found[job] = self._evaluate(job)
            if on_done:
                on_done(job, found[job])
        return [found[job] for job in jobs]

    def close(self) -> None:
        """Nothing to let go of."""

    def accuracy(self, job: Job) -> float:
        """Robust accuracy in [0, 1] of the job's network; it depends on the task's teacher.

        Raises:
            ValueError: the network has no stages.
        """
        if not isinstance(job.network, NetworkSpec):
            raise ValueError(f"job.network must be a NetworkSpec for the analytic engine, got {job.network!r}")
        if job.network == job.task.teacher:
            return TEACHER_ACCURACY
        compression = 1 - cost(job.network).params / cost(job.task.teacher).params
        weight = compression * (2 - compression)
        if weight <= 0:
            return 0.0
        value = landscape_reward(job.network, job.task, self.width) * TEACHER_ACCURACY / weight
        if self.noise:
            value += self.noise * np.random.default_rng(int(job.key[:16], 16)).standard_normal()
        return min(1.0, max(0.0, value))

    def _evaluate(self, job: Job) -> Evaluation:
        network_cost, images, accuracy = cost(job.network), job.recipe.n_eval, self.accuracy(job)
        severity = SEVERITY.get(job.task.attack.split("-")[0], 0.5)
        spread = (np.arange(images) + 0.5) / images
        lips = (1 + 4 * severity) * (0.5 + spread) * math.log10(network_cost.macs + 10)
        return Evaluation(
            key=job.key,
            params=network_cost.params,
            macs=network_cost.macs,
            images=images,
            clean_accuracy=accuracy,
            robust_accuracy=accuracy,
            adversarial_loss=-math.log(max(accuracy, 1e-3)),
            robust=tuple(bool(share < accuracy) for share in spread),
            lips=() if job.source_job else tuple(float(value) for value in lips),
            zero_perturbations=0.0,
            diverged=False,
            training_seconds=0.0,
            attack_seconds=0.0,
            provenance={"engine": "analytic", "width": self.width, "noise": self.noise},
        )


register_engine("analytic", AnalyticEvaluator)
