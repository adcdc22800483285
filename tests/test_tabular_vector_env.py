"""The vectorised table: what N environments would give, their buffers apart, at its rate."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from scipy import stats

from rcnas_env.tabular.env import TabularEnv, default_tasks
from rcnas_env.tabular.evaluator import NotInTableError
from rcnas_env.tabular.table import load_table
from rcnas_env.tabular.vector_env import TabularVectorEnv
from rcnas_env.task import Task, TaskBuffers, TeacherEntry

TABLE = load_table("digits")
TASK = Task("digits", "pgd-20", "WRN-16-1", 660_000.0)
N, STEPS = 5, 16
RATE_FLOOR = 20_000
"""Steps a second; far below what benchmarks.tabular_steps finds, for machines that do other things besides."""


def make(num_envs: int = N, **options: Any) -> TabularVectorEnv:
    env = gym.make_vec("RCNAS-Tabular-v0", num_envs=num_envs, **options)
    assert isinstance(env, TabularVectorEnv)
    return env


def actions(num_envs: int, count: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "keep": rng.random((num_envs, 3, 2), dtype=np.float32) * rng.choice([0.5, 1], (num_envs, 1, 1)),
            "switch": rng.integers(0, 2, (num_envs, 3, 2), dtype=np.int8),
        }
        for _ in range(count)
    ]


# -- one environment a time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"penalty": "hard"},
        {"noise": False, "training_seed": 4},
        {"compression_emphasis": 0.3},
        {"compression_emphasis": 0.0, "max_episode_steps": 1},
    ],
    ids=str,
)
def test_each_environment_does_what_gymnasium_s_own_vector_of_single_ones_does(options: dict[str, Any]) -> None:
    """Observations, rewards and truncations, the reset steps of next-step autoreset among them."""
    options = {"max_episode_steps": 3, "tasks": TASK, "annealing_steps": 0, **options}
    ours = make(**options)
    single = [lambda: gym.make("RCNAS-Tabular-v0", **options)] * N
    theirs = SyncVectorEnv(single, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert (ours.single_action_space, ours.observation_space) == (theirs.single_action_space, theirs.observation_space)
    observation, _ = ours.reset(seed=1)
    expected, _ = theirs.reset(seed=1)
    within = 0
    for action in actions(N, STEPS):
        for part in expected:
            # the exponential of LIPS is taken in other precisions: the last bit of a float32 may differ
            rounding = 3e-7 if part == "lips" else 0
            np.testing.assert_allclose(observation[part], expected[part], rtol=rounding)
            assert observation[part].dtype == expected[part].dtype
        observation, rewards, terminated, truncated, infos = ours.step(action)
        expected, their_rewards, their_terminated, their_truncated, their_infos = theirs.step(action)
        exact = options.get("compression_emphasis", 1.0) == 1.0  # another order of λ · C · (2 − C) rounds otherwise
        np.testing.assert_allclose(rewards, their_rewards, rtol=0 if exact else 1e-14)
        assert (terminated.tolist(), truncated.tolist()) == (their_terminated.tolist(), their_truncated.tolist())
        assert ours.observation_space.contains(observation)
        for name in ("params", "macs", "teacher_accuracy"):
            acting = their_infos.get(f"_{name}", np.zeros(N, bool))
            assert infos[f"_{name}"].tolist() == acting.tolist()
            assert infos[name][acting].tolist() == their_infos[name][acting].tolist() if acting.any() else True
        within += int((infos["within_budget"] & infos["_within_budget"]).sum())
    assert within > 5


def test_infos_are_those_of_a_single_environment() -> None:
    env, single = make(1, tasks=TASK), TabularEnv(tasks=TASK)
    for each in (env, single):
        each.reset(seed=0)
    for action in actions(1, 5):
        _, rewards, _, _, infos = env.step(action)
        _, reward, _, _, info = single.step({part: action[part][0] for part in action})
        assert rewards[0] == reward  # ε < 1 here: annealed over budget
        found = {name: infos[name][0] for name in infos if not name.startswith("_")}
        assert TABLE.space.network(found["student"]).to_dict() == info["student"]
        assert TABLE.space.network(found["teacher"]) == TASK.teacher
        assert (TABLE.attacks[found["attack"]], found["budget"]) == (TASK.attack, TASK.budget)
        assert found["within_budget"] == info["reward_terms"]["within_budget"]
        for name in ("params", "macs", "robust_accuracy", "clean_accuracy", "teacher_accuracy"):
            assert found[name] == info[name], name
        assert found["simulated_seconds"] == pytest.approx(info["effort"].evaluation_seconds)


# -- buffers and sampling ------------------------------------------------------------------------------


def test_students_of_one_environment_are_teachers_in_no_other() -> None:
    length, base = 6, TABLE.space.row(TABLE.space.teacher)
    budgets = (400_000.0, 800_000.0)
    env = make(tasks=TaskBuffers(("digits",), ("fgsm", "cw-40"), (TeacherEntry("WRN-16-1", budgets),)),
               max_episode_steps=length)  # fmt: skip
    env.reset(seed=2)
    own: list[list[tuple[int, float]]] = [[] for _ in range(N)]
    descended = 0
    for action in actions(N, 10 * (length + 1), seed=3):
        _, _, _, _, infos = env.step(action)
        for index in range(N):
            if not infos["_student"][index]:  # the reset
                assert len(own[index]) == length
                own[index] = []
                continue
            teacher, budget = int(infos["teacher"][index]), float(infos["budget"][index])
            assert (teacher == base and budget in budgets) or (teacher, budget) in own[index]
            descended += (teacher, budget) in own[index]
            own[index].append((int(infos["student"][index]), budget))
    assert descended > 50


def test_a_reset_forgets_students_and_a_seed_repeats_the_run() -> None:
    base = TABLE.space.row(TABLE.space.teacher)
    env = make(max_episode_steps=50, tasks=default_tasks(TABLE))
    runs = []
    for _ in range(2):
        observation, _ = env.reset(seed=9)
        steps = [env.step(action) for action in actions(N, 6)]
        runs.append([observation["lips"].tolist(), *([s[1].tolist(), s[0]["stages"].tolist()] for s in steps)])
    assert runs[0] == runs[1]
    env.reset()
    assert env.step(actions(N, 1)[0])[-1]["teacher"].tolist() == [base] * N
    env.reset(seed=10)
    assert [env.step(action)[1].tolist() for action in actions(N, 6)] != [each[0] for each in runs[0][1:]]


MANY = 6_000
"""Environments whose first tasks are counted."""


def counts(*columns: NDArray[Any]) -> dict[tuple[float, ...], int]:
    """How often each combination is met."""
    found, times = np.unique(np.stack(columns), axis=1, return_counts=True)
    return dict(zip(map(tuple, found.T.tolist()), times.tolist(), strict=True))


def test_tasks_of_a_list_are_sampled_uniformly() -> None:
    tasks = [Task("digits", attack, "WRN-16-1", budget) for attack in TABLE.attacks for budget in (3e5, 6e5)]
    env = make(MANY, tasks=tasks)
    env.reset(seed=0)
    infos = env.step(actions(MANY, 1)[0])[-1]
    found = counts(infos["attack"], infos["budget"])
    assert len(found) == len(tasks) and stats.chisquare([*found.values()]).pvalue > 1e-3


def test_an_attack_a_teacher_and_one_of_its_budgets_are_each_sampled_uniformly() -> None:
    teachers = (TeacherEntry("WRN-16-1", (3e5, 6e5)), TeacherEntry("WRN-10-1", (1e5,)))
    env = make(MANY, tasks=TaskBuffers(("digits",), TABLE.attacks, teachers))
    env.reset(seed=0)
    first = env.step(actions(MANY, 1)[0])[-1]
    found = counts(first["attack"], first["budget"])  # no budget is of both teachers
    shares = {3e5: 1 / 4, 6e5: 1 / 4, 1e5: 1 / 2}
    expected = [shares[budget] * MANY / len(TABLE.attacks) for _, budget in found]
    assert len(found) == 3 * len(TABLE.attacks) and stats.chisquare([*found.values()], expected).pvalue > 1e-3
    # with a student in its buffer, each of an environment's three entries is a teacher as often
    second = env.step(actions(MANY, 1)[0])[-1]
    own = ~np.isin(first["student"], first["teacher"])  # a student that is no base teacher too
    joined = (second["teacher"] == first["student"])[own]
    assert stats.binomtest(int(joined.sum()), int(own.sum()), 1 / 3).pvalue > 1e-3


def test_annealing_counts_the_steps_of_all_and_survives_resets() -> None:
    huge = {"keep": np.ones((N, 3, 2), np.float32), "switch": np.tile([[0, 0], [1, 0], [1, 0]], (N, 1, 1))}
    # the teacher itself: C = 0, so that the reward over budget is ε − 1
    env = make(tasks=TASK, annealing_steps=4 * N, max_episode_steps=2)
    env.reset(seed=0)
    rewards = [env.step(huge)[1].tolist() for _ in range(8)]
    assert [each[0] for each in rewards] == [0.0, -0.25, 0.0, -0.5, -0.75, 0.0, -1.0, -1.0]
    assert all(len(set(each)) == 1 for each in rewards)
    env.reset(options={"steps_taken": N})
    assert env.step(huge)[1].tolist() == [-0.25] * N
    env.reset(seed=0)
    assert env.steps_taken == 0


def test_a_reset_step_ignores_its_action() -> None:
    """As RCNASVectorEnv's does: nothing about it is refused."""
    env = make(tasks=TASK, max_episode_steps=1)
    env.reset(seed=0)
    good = actions(N, 1)[0]
    assert env.step(good)[3].all()
    _, rewards, _, truncated, _ = env.step({part: np.full_like(value, -1) for part, value in good.items()})
    assert rewards.tolist() == [0.0] * N and not truncated.any()


def test_a_batch_of_a_thousand_is_fast() -> None:
    env = make(1_024)
    env.reset(seed=0)
    batches = actions(1_024, 30)
    env.step(batches[0])
    start = time.perf_counter()
    for action in batches:
        env.step(action)
    assert 1_024 * len(batches) / (time.perf_counter() - start) > RATE_FLOOR


# -- what is refused -----------------------------------------------------------------------------------


class Sampled:
    """A TaskSource whose sampling nobody knows."""

    def reset(self) -> None: ...

    def sample(self, rng: np.random.Generator) -> Task:
        return TASK

    def add_student(self, task: Task, student: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer of at least 1, got 0"),
        ({"penalty": "soft"}, "penalty must be one of 'annealed', 'hard', got 'soft'"),
        ({"annealing_steps": -1}, "annealing_steps must be an integer of at least 0, got -1"),
        ({"compression_emphasis": 1.5}, "compression_emphasis must be .*at most 1, got 1.5"),
        ({"training_seed": 0.5}, "training_seed must be an integer of at least 0, got 0.5"),
        ({"noise": None}, "noise must be true or false, got None"),
        ({"table": "digit"}, "unknown table 'digit'"),
        ({"tasks": Sampled()}, "tasks must be a Task, a list of them, or TaskBuffers for a vectorised table"),
        ({"tasks": 3}, "tasks must be a Task, a list of them, or a TaskSource, got 3"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularVectorEnv(**options)


@pytest.mark.parametrize("tasks", [
    Task("digits", "clean", "WRN-16-1", 1e5),
    [TASK, Task("digits", "pgd-20", "WRN-10-2", 1e5)],
    TaskBuffers(("digits", "fashion-mnist"), ("fgsm",), (TeacherEntry("WRN-16-1", (1e5,)),)),
    TaskBuffers(("digits",), ("fgsm", "pgd-7"), (TeacherEntry("WRN-16-1", (1e5,)),)),
    TaskBuffers(("digits",), ("fgsm",), (TeacherEntry("WRN-16-1", (1e5,)),), attack_source="teacher"),
], ids=["attack", "teacher", "data set", "attacks", "source"])  # fmt: skip
def test_tasks_that_the_table_does_not_know_are_refused_at_once(tasks: Any) -> None:
    with pytest.raises(NotInTableError, match="for table 'digits', got|network must be a student of"):
        TabularVectorEnv(tasks=tasks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": np.zeros((N + 1, 3, 2))}, r"keep and switch must have shape \(5, 3, 2\), got \(6, 3, 2\) and"),
        ({"switch": np.zeros((3, 2))}, r"keep and switch must have shape \(5, 3, 2\), got .* and \(3, 2\)"),
        ({"keep": np.full((N, 3, 2), 1.01)}, r"actions\['keep'\] must be numbers in \[0, 1\]"),
        ({"keep": np.full((N, 3, 2), np.nan)}, r"actions\['keep'\] must be numbers in \[0, 1\]"),
        ({"keep": "all"}, r'actions must be \{"keep": …, "switch": …\}, got'),
        ({"switch": np.full((N, 3, 2), 2)}, r"actions\['switch'\] must be zeros and ones"),
        ({"switch": np.full((N, 3, 2), 0.5)}, r"actions\['switch'\] must be zeros and ones"),
    ],
)
def test_bad_actions_are_named_and_change_nothing(changes: dict[str, Any], message: str) -> None:
    good = actions(N, 1)[0]
    env, untouched = make(), make()
    for each in (env, untouched):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step({**good, **changes})
    for bad in ([], {"keep": good["keep"]}, None):
        with pytest.raises(ValueError, match="actions must be"):
            env.step(bad)
    assert env.step(good)[1].tolist() == untouched.step(good)[1].tolist()


def test_a_list_of_seeds_and_a_step_before_the_reset_are_refused() -> None:
    env = make()
    with pytest.raises(ValueError, match=r"reset\(\) must be called before step\(\)"):
        env.step(actions(N, 1)[0])
    with pytest.raises(ValueError, match=r"seed must be one integer for all environments, got \[1, 2\]"):
        env.reset(seed=[1, 2])


def test_a_task_cannot_be_chosen_at_reset_without_a_word() -> None:
    """RCNASVectorEnv takes options["task"]; where it has no effect, saying nothing would hide it."""
    with pytest.raises(ValueError, match="options"):
        make().reset(options={"task": TASK})
