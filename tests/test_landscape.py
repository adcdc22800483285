"""A task's landscape on a table: the best is the best, and expected rewards are Eq. 4 of expected accuracies."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rcnas_env.architecture import NetworkSpec, named_network
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.reward import OVER_BUDGET_REWARD, reward_terms
from rcnas_env.tabular.evaluator import NotInTableError
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.table import load_table
from rcnas_env.task import Task

TABLE = load_table("digits")
TASKS = {
    "tight": Task("digits", "cw-40", "WRN-16-1", 250_000),
    "wide": Task("digits", "fgsm", "WRN-16-1", 1e9),
    "another teacher": Task("digits", "pgd-20", "WRN-10-1", 200_000),
}


def by_definition(task: Task, student: NetworkSpec, emphasis: float = 1.0) -> float:
    """Eq. 4 at ε = 0 from `reward_terms` and the table's expected accuracies."""
    column = 1 + TABLE.attacks.index(task.attack)
    accuracy, teacher = (float(TABLE.expected[TABLE.space.row(net), column]) for net in (student, task.teacher))
    costs = cost(student), cost(task.teacher)
    return reward_terms(*costs, task.budget, accuracy, teacher, 0.0, compression_emphasis=emphasis).reward


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_best_is_the_highest_of_all_students(task: Task) -> None:
    landscape = TaskLandscape(TABLE, task)
    rewards = [by_definition(task, TABLE.space.network(row)) for row in landscape.students.tolist()]
    np.testing.assert_allclose(landscape.rewards, rewards, rtol=1e-12)
    assert landscape.best == max(landscape.rewards) == landscape.expected_reward(landscape.best_student)
    assert cost(landscape.best_student).macs <= task.budget


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_random_action_does_better_and_all_lead_to_a_student(task: Task) -> None:
    landscape = TaskLandscape(TABLE, task)
    rng = np.random.default_rng(0)
    keep, switch = rng.random((20_000, 3, 2)), rng.integers(0, 2, (20_000, 3, 2))
    rows = TABLE.space.compress(np.full(20_000, TABLE.space.row(task.teacher)), keep, switch)
    position = np.searchsorted(landscape.students, rows)
    assert (landscape.students[position] == rows).all()
    found = landscape.rewards[position]
    assert found.max() <= landscape.best
    assert found.max() > 0.7 * landscape.best  # which is not out of reach
    for index in rng.integers(20_000, size=20):
        student = compress(task.teacher, {"keep": keep[index], "switch": switch[index]})
        assert landscape.expected_reward(student) == found[index]


def test_over_the_budget_the_reward_is_minus_one() -> None:
    task = TASKS["tight"]
    landscape = TaskLandscape(TABLE, task)
    over = TABLE.macs[landscape.students] > task.budget
    assert 0 < over.sum() < len(over)
    assert ((landscape.rewards == OVER_BUDGET_REWARD) == over).all()
    assert landscape.expected_reward(task.teacher) == -1.0
    exact = Task("digits", task.attack, task.teacher, float(cost(task.teacher).macs))
    assert TaskLandscape(TABLE, exact).expected_reward(task.teacher) == 0.0  # within it, and C = 0


@pytest.mark.parametrize("emphasis", [0.0, 0.3, 1.0])
def test_the_emphasis_is_the_reward_s(emphasis: float) -> None:
    task = TASKS["tight"]
    landscape = TaskLandscape(TABLE, task, emphasis)
    rows = np.random.default_rng(1).choice(len(landscape.students), 100, replace=False)
    for index in rows.tolist():
        student = TABLE.space.network(int(landscape.students[index]))
        assert landscape.rewards[index] == pytest.approx(by_definition(task, student, emphasis))
    if emphasis == 0.0:  # the budget alone limits the size: the most accurate student within it
        within = landscape.students[TABLE.macs[landscape.students] <= task.budget]
        most = TABLE.expected[within, 1 + TABLE.attacks.index(task.attack)].max()
        assert landscape.expected_accuracy(landscape.best_student) == most


def test_without_noise_the_environment_s_rewards_are_the_landscape_s() -> None:
    task = TASKS["another teacher"]
    landscape = TaskLandscape(TABLE, task)
    env = gym.make("RCNAS-Tabular-v0", tasks=task, noise=False, annealing_steps=0, max_episode_steps=40)
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = []
    for _ in range(40):
        _, reward, _, _, info = env.step(env.action_space.sample())
        student = NetworkSpec.from_dict(info["student"])
        assert landscape.expected_reward(student) == pytest.approx(reward, rel=1e-12)
        if info["evaluated"]:
            assert landscape.expected_accuracy(student) == info["robust_accuracy"]
            assert landscape.simulated_seconds(student) == pytest.approx(info["effort"].evaluation_seconds)
        rewards.append(reward)
    assert -1 in rewards and max(rewards) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": "clean"}, "attack must be one of fgsm, .*, got clean"),
        ({"teacher": named_network("WRN-10-2", (1, 8, 8), 10)}, "network must be a student of"),
        ({"epsilon": 0.3}, "epsilon of the attack must be 0.2 .* got 0.3"),
    ],
)
def test_a_task_that_the_table_does_not_know_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NotInTableError, match=message):
        TaskLandscape(TABLE, Task(**{**TASKS["tight"].to_dict(), "teacher": "WRN-16-1", **changes}))


def test_a_compression_emphasis_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="compression_emphasis must be .*, got 1.5"):
        TaskLandscape(TABLE, TASKS["tight"], 1.5)
