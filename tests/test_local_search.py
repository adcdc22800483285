"""Local search: what a neighbour is, when it moves and when it starts anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.black_box import Tried
from agents.local_search import LocalSearch, neighbours
from agents.trial import Trial
from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.compression import compress, planes_multiple
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import PEAK_REWARD, best_student
from rcnas_env.task import Task
from tests.landscape import environments, task, teacher

SMALL = NetworkSpec(
    (StageSpec(1, 16), StageSpec(1, 16, downsample=True), StageSpec(2, 16, downsample=True)),
    StemSpec(16),
    input=(1, 8, 8),
)
"""Planes 8 or 16 a stage (16 alone where robust), in the last 1 or 2 blocks: 3 · 2 · 3 · 2 · 3 · 2 · 2 students."""


def small_task() -> Task:
    return task(budget_share=100.0, network=SMALL)


def decisions(student: NetworkSpec) -> np.ndarray:
    return np.array([[s.planes, s.depth, s.downsample, s.robust] for s in student.stages]).ravel()


@pytest.mark.parametrize("network", [teacher(), teacher(5, 48), SMALL])
def test_neighbours_are_all_students_that_differ_in_one_decision(network: NetworkSpec) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        student = compress(network, {"keep": rng.random((3, 2)), "switch": np.array([[0, 0], [1, 0], [0, 0]])})
        found = neighbours(student, network)
        assert student not in found
        assert all(compress(network, action) == neighbour for neighbour, action in found.items())
        basic = [n for n in found if not any(stage.robust for stage in n.stages)]
        assert all((decisions(n) != decisions(student)).sum() == 1 for n in basic)
        widths = sum(stage.planes // planes_multiple(stage.planes) - 1 for stage in network.stages)
        depths = sum(stage.depth - 1 for stage in network.stages)
        assert len(basic) == widths + depths + 3  # one down-sampling switch a stage
        assert len(found) == len(basic) + 3  # and one robust switch


def test_neighbourhood_is_mutual_where_planes_are_not_bound_by_the_block() -> None:
    student = compress(teacher(), {"keep": np.full((3, 2), 0.5), "switch": np.ones((3, 2), int)})
    for neighbour in neighbours(student, teacher()):
        assert student in neighbours(neighbour, teacher())


def replayed(trials: list[Trial], own: Task) -> tuple[int, int]:
    """(moves, starts) of a climb with these trials, one at a time; every step is checked against the definition."""
    current: Trial | None = None
    seen: set[NetworkSpec] = set()
    moves = starts = 0
    for trial in trials:
        assert trial.student not in seen
        if current is not None:
            around = neighbours(current.student, own.teacher)
            fresh = {n for n in around if n not in seen and cost(n).macs <= own.budget}
            if fresh:
                assert trial.student in fresh
            else:
                current = None
        seen.add(trial.student)
        if current is None:
            current, starts = trial, starts + 1
        elif trial.reward > current.reward:
            current, moves = trial, moves + 1
    return moves, starts


@pytest.mark.parametrize(("own", "evaluations"), [(task(budget_share=0.3), 60), (small_task(), 120)])
def test_a_search_climbs_without_trying_a_student_twice(own: Task, evaluations: int) -> None:
    trials = LocalSearch(own, seed=1).search(environments(1, own), evaluations)
    moves, starts = replayed(trials, own)
    assert len(trials) == evaluations and moves >= 3
    assert (starts > 1) == (own == small_task())
    assert all(trial.within_budget for trial in trials)


def test_every_student_of_a_small_space_is_tried_and_then_the_search_ends() -> None:
    own = small_task()
    trials = LocalSearch(own).search(environments(3, own), 10_000)
    assert len({trial.student for trial in trials}) == len(trials) == 3 * 2 * 3 * 2 * 3 * 2 * 2
    assert max(trial.reward for trial in trials) == pytest.approx(PEAK_REWARD)


def test_it_starts_anew_at_a_local_optimum(tmp_path: Path) -> None:
    own = small_task()
    agent = LocalSearch(own)
    first = agent.propose(1)[0]
    agent.observe(Tried(first, compress(own.teacher, first), 1.0))
    while agent.current is not None:
        (action,) = agent.propose(1)
        agent.observe(Tried(action, compress(own.teacher, action), 0.5))
    tried = {each.student for each in agent.history}
    assert tried == {compress(own.teacher, first), *neighbours(compress(own.teacher, first), own.teacher)}
    (restart,) = agent.propose(1)
    assert compress(own.teacher, restart) not in tried
    agent.save(tmp_path / "agent.json")
    assert LocalSearch.load(tmp_path / "agent.json").current is None


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_the_best_of_the_landscape(seed: int) -> None:
    """Which has one optimum only; 200 evaluations on the larger space reach it for eight seeds of eight."""
    trials = LocalSearch(task(), seed).search(environments(4), 200)
    assert max(trials, key=lambda trial: trial.reward).student == best_student(task())
