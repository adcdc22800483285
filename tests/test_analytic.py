"""The analytic engine: its optimum is where and what it says, and it is the only one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import PEAK_REWARD, TEACHER_ACCURACY, AnalyticEvaluator, best_action, best_student
from rcnas_env.evaluation.job import Job
from rcnas_env.reward import reward_terms
from rcnas_env.task import Task
from tests import tiny


def reward(engine: AnalyticEvaluator, student: NetworkSpec, task: Task, annealing: float = 0.0) -> float:
    """Eq. 4 of a student of the task, from the engine's evaluations."""
    jobs = [Job(network, task, tiny.RECIPE) for network in (student, task.teacher)]
    ours, teachers = (evaluation.robust_accuracy for evaluation in engine.evaluate(jobs))
    return reward_terms(cost(student), cost(task.teacher), task.budget, ours, teachers, annealing).reward


@pytest.mark.parametrize("teacher", ["WRN-10-2", "WRN-16-1", "WRN-28-10", "WRN-70-16"])
@pytest.mark.parametrize("attack", ["clean", "fgsm", "pgd-20", "cw-40", "autoattack"])
def test_analytic_optimum_has_the_peak_reward(teacher: str, attack: str) -> None:
    task = Task("digits", attack, teacher, 1e12)  # type: ignore[arg-type]
    best = best_student(task)
    assert best == compress(task.teacher, best_action(task))
    assert reward(AnalyticEvaluator(), best, task) == pytest.approx(PEAK_REWARD, rel=1e-9)
    teacher_job = Job(task.teacher, task, tiny.RECIPE)
    assert AnalyticEvaluator().accuracy(teacher_job) == TEACHER_ACCURACY


@pytest.mark.parametrize(("attack", "annealing"), [("fgsm", 0.0), ("autoattack", 1.0)])
def test_no_other_student_exceeds_the_analytic_optimum(attack: str, annealing: float) -> None:
    unlimited = Task("digits", attack, "WRN-28-10", 1e12)  # type: ignore[arg-type]
    task = dataclasses.replace(unlimited, budget=1.01 * cost(best_student(unlimited)).macs)
    engine, rng, best = AnalyticEvaluator(), np.random.default_rng(0), best_student(unlimited)
    rewards = {}
    for _ in range(1000):
        student = compress(task.teacher, {"keep": rng.random((3, 2)), "switch": rng.integers(0, 2, (3, 2))})
        rewards[student] = reward(engine, student, task, annealing)
        near = dict(best_action(task))  # the peak's surroundings are where another optimum would be
        near["keep"] = np.clip(near["keep"] + 0.1 * rng.standard_normal((3, 2)), 0, 1)
        rewards[compress(task.teacher, near)] = reward(engine, compress(task.teacher, near), task, annealing)
    rewards.pop(best, None)
    assert len(rewards) > 1000
    assert max(rewards.values()) < PEAK_REWARD
    assert max(rewards.values()) > 0.5 * PEAK_REWARD  # there is a slope towards it
    assert len({round(value, 6) for value in rewards.values()}) > 100


def test_optimum_depends_on_the_attack() -> None:
    students = [best_student(Task("digits", attack, "WRN-28-10", 1e12)) for attack in ("fgsm", "autoattack")]  # type: ignore[arg-type]
    assert students[0] != students[1]


def test_analytic_optimum_over_budget_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"task\.budget must be at least \d+ .* got 10"):
        best_student(Task("digits", "fgsm", "WRN-10-2", 10))  # type: ignore[arg-type]


def test_teachers_differ_although_the_key_does_not() -> None:
    jobs = [tiny.job(teacher=tiny.network(planes)) for planes in (12, 32)]
    assert jobs[0].key == jobs[1].key
    found = AnalyticEvaluator().evaluate(jobs)
    assert found[0].robust_accuracy != found[1].robust_accuracy


def test_noise_is_a_function_of_the_job() -> None:
    jobs = [tiny.job(seed=seed, teacher=tiny.network(32)) for seed in range(200)]
    quiet, first, again = (
        [evaluation.robust_accuracy for evaluation in AnalyticEvaluator(noise=noise).evaluate(jobs)]
        for noise in (0.0, 0.02, 0.02)
    )
    assert len(set(quiet)) == 1 and 0.1 < quiet[0] < 0.9
    assert first == again
    assert np.std(first) == pytest.approx(0.02, rel=0.2) and np.mean(first) == pytest.approx(quiet[0], abs=0.006)
    for option, build in itertools.product((-1.0, float("nan")), WRONG_OPTIONS):
        with pytest.raises(ValueError, match="must be a finite number"):
            build(option)


WRONG_OPTIONS: tuple[Callable[[float], AnalyticEvaluator], ...] = (
    lambda value: AnalyticEvaluator(noise=value),
    lambda value: AnalyticEvaluator(width=value),
)
