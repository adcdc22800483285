"""Regularised evolution against the paper's Algorithm 1, step by step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from agents.black_box import HybridAction, Tried, hybrid_action
from agents.evolution import RegularisedEvolution
from agents.random_search import RandomSearch
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import PEAK_REWARD
from tests.landscape import environments, task, teacher

TASK = task()
MIDDLE = hybrid_action(np.full((3, 2), 0.5), [[0, 0], [1, 0], [1, 0]])


def tried(reward: float, action: HybridAction = MIDDLE) -> Tried:
    return Tried(action, compress(TASK.teacher, action), reward)


def entries(action: HybridAction) -> np.ndarray:
    return np.concatenate([action["keep"].ravel(), action["switch"].ravel()])


def test_the_population_is_the_last_p_tried_however_good_the_older_ones_were() -> None:
    agent = RegularisedEvolution(TASK, population=3, tournament=3)
    for reward in (0.9, 0.1, 0.2, 0.3, 0.25):
        agent.observe(tried(reward))
    living = agent.living()
    assert [each.reward for each in living] == [0.2, 0.3, 0.25]
    assert agent.parent(living, np.random.default_rng(0)).reward == 0.3


def test_a_tournament_of_s_draws_s_different_ones_and_takes_the_best() -> None:
    """The best of 5 is in a tournament of 2 with probability 2/5, the worst never wins one."""
    agent = RegularisedEvolution(TASK, population=5, tournament=2)
    living, rng, n = [tried(reward) for reward in (0.3, 0.5, 0.1, 0.4, 0.2)], np.random.default_rng(1), 4_000
    won = Counter(agent.parent(living, rng).reward for _ in range(n))
    expected = {0.5: 0.4, 0.4: 0.3, 0.3: 0.2, 0.2: 0.1}
    assert set(won) == set(expected)
    for reward, share in expected.items():
        assert abs(won[reward] / n - share) < 5 * (share * (1 - share) / n) ** 0.5


def test_a_mutation_changes_one_entry_each_equally_often() -> None:
    agent, rng, n = RegularisedEvolution(TASK, step=0.1), np.random.default_rng(2), 3_600
    changed = np.stack([entries(agent.mutate(MIDDLE, rng)) - entries(MIDDLE) for _ in range(n)])
    moved = changed != 0
    assert (moved.sum(1) <= 1).all()
    assert abs(moved.mean(0) - 1 / 12).max() < 5 * (11 / 144 / n) ** 0.5
    steps = changed[:, :6][moved[:, :6]]
    assert steps.std() == pytest.approx(0.1, rel=0.1) and abs(steps.mean()) < 0.02
    assert set(np.abs(changed[:, 6:][moved[:, 6:]])) == {1}
    assert all(
        0 <= entries(agent.mutate(hybrid_action(np.ones((3, 2)), MIDDLE["switch"]), rng)).max() <= 1 for _ in "ab"
    )


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_children_are_one_change_from_a_parent_other_students_and_within_the_budget(share: float) -> None:
    own = task(budget_share=share)
    agent = RegularisedEvolution(own, population=6, tournament=3)
    agent.search(environments(1, own), 30)
    for number in range(6, 30):
        child, living = agent.history[number], agent.history[number - 6 : number]
        distances = [int((entries(child.action) != entries(each.action)).sum()) for each in living]
        assert 1 in distances
        assert child.student not in [each.student for each, d in zip(living, distances, strict=True) if d == 1]
        assert cost(child.student).macs <= own.budget


def test_more_environments_than_the_population_has_room_for_are_served() -> None:
    agent = RegularisedEvolution(TASK, population=3, tournament=2)
    assert len(agent.propose(8)) == 8
    assert len(agent.search(environments(8), 20)) == 20


def test_the_first_p_are_random_students() -> None:
    agent = RegularisedEvolution(TASK, seed=3, population=5)
    agent.search(environments(1), 5)
    drawn = np.stack([entries(each.action) for each in agent.history])
    assert (np.count_nonzero(drawn[:, None] != drawn[None], axis=2)[~np.eye(5, dtype=bool)] > 2).all()


def test_evolution_beats_random_search() -> None:
    """Best of 100 students, medians of three seeds."""
    best = {
        kind: np.median(
            [max(trial.reward for trial in kind(TASK, seed).search(environments(4), 100)) for seed in range(3)]
        )
        for kind in (RegularisedEvolution, RandomSearch)
    }
    assert best[RegularisedEvolution] > best[RandomSearch] + 0.15 * PEAK_REWARD


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("population", 1, "an integer of at least 2"),
        ("population", 2.5, "an integer of at least 2"),
        ("tournament", 0, "an integer from 1 to 20"),
        ("tournament", 21, "an integer from 1 to 20"),
        ("step", 0.0, "a finite number, above 0 and at most 1"),
        ("step", float("nan"), "a finite number"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be {allowed}.*got {value}"):
        RegularisedEvolution(TASK, **{name: value})


def test_the_task_must_be_one_and_the_environments_must_be_on_it() -> None:
    with pytest.raises(ValueError, match="task must be a Task, got 'digits'"):
        RegularisedEvolution("digits")  # type: ignore[arg-type]
    for other in (task(budget_share=0.5), task(network=teacher(4, 64))):
        with pytest.raises(ValueError, match="envs must be on the agent's task"):
            RegularisedEvolution(TASK).search(environments(2, other), 2)
