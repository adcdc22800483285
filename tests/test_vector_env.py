"""N environments in lockstep: what each would give alone, from one call of the engine a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.task import Task, TaskBuffers, TeacherEntry
from rcnas_env.vector_env import RCNASVectorEnv

if TYPE_CHECKING:
    from tests.conftest import CountingEvaluator

SEED, N, STEPS = 7, 3, 14
OPTIONS: dict[str, Any] = {"engine": "analytic", "store": None, "recipe": {"n_eval": 12}}


def make(num_envs: int = N, **options: Any) -> RCNASVectorEnv:
    env = gym.make_vec("RCNAS-v0", num_envs=num_envs, **{**OPTIONS, **options})
    assert isinstance(env, RCNASVectorEnv)
    return env


def actions(env: RCNASVectorEnv, count: int) -> list[dict[str, Any]]:
    env.action_space.seed(SEED)
    return [env.action_space.sample() for _ in range(count)]


def alone(seed: int, index: int, batches: list[dict[str, Any]], **options: Any) -> list[tuple[Any, float, bool, Any]]:
    """What the environment `index` does by itself: (observation, reward, truncated, info), resets as steps."""
    env = gym.make("RCNAS-v0", **{**OPTIONS, **options})
    observation, info = env.reset(seed=seed)
    found = [(observation, 0.0, False, info)]
    for batch in batches:
        if found[-1][2]:
            observation, info = env.reset()
            found.append((observation, 0.0, False, info))
            continue
        observation, reward, terminated, truncated, info = env.step({part: batch[part][index] for part in batch})
        assert not terminated
        found.append((observation, reward, truncated, info))
    return found


@pytest.mark.parametrize("options", [{"annealing_steps": 0}, {"penalty": "hard"}], ids=["annealed", "hard"])
def test_each_environment_does_what_it_would_alone(options: dict[str, Any]) -> None:
    env = make(**options)
    batches = actions(env, STEPS)
    singles = [alone(SEED + index, index, batches, **options) for index in range(N)]
    observations, infos = env.reset(seed=SEED)
    assert env.observation_space.contains(observations)
    steps = [(observations, np.zeros(N), np.zeros(N, bool), infos)]
    for batch in batches:
        observations, rewards, terminated, truncated, infos = env.step(batch)
        assert env.observation_space.contains(observations)
        assert terminated.tolist() == [False] * N
        steps.append((observations, rewards, truncated, infos))
    for time, (observations, rewards, truncated, infos) in enumerate(steps):
        for index in range(N):
            observation, reward, end, info = singles[index][time]
            assert {part: observations[part][index].tolist() for part in observation} == {
                part: value.tolist() for part, value in observation.items()
            }
            assert (rewards[index], truncated[index]) == (reward, end)
            assert infos["next_task"]["budget"][index] == info["next_task"]["budget"]
            if "robust_accuracy" in info:
                assert infos["evaluated"][index] == info["evaluated"]
                assert infos["teacher_accuracy"][index] == info["teacher_accuracy"]
                if info["evaluated"]:
                    assert infos["robust_accuracy"][index] == info["robust_accuracy"]
    assert len({steps[3][0]["lips"][index].tobytes() for index in range(N)}) > 1


def test_the_step_after_a_truncation_resets() -> None:
    env = make(max_episode_steps=2)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=SEED)
    batches = actions(env, 6)
    batches[2] = {part: np.full_like(value, -1) for part, value in batches[2].items()}  # ignored, so not refused
    found = [env.step(batch)[1:] for batch in batches]
    assert [ends.tolist() for _, _, ends, _ in found] == [[end] * N for end in (False, True, False) * 2]
    for index, (rewards, _, _, infos) in enumerate(found):
        assert ("student" in infos) == (index % 3 != 2)
        if index % 3 == 2:
            assert rewards.tolist() == [0.0] * N
    assert env.steps_taken == 4 * N  # a reset is no step


def test_episodes_take_five_steps_as_registered() -> None:
    env = make()
    env.reset(seed=SEED)
    assert [env.step(batch)[3].all() for batch in actions(env, 5)] == [False] * 4 + [True]


def test_one_call_of_the_engine_a_step_serves_all_students(counting_evaluator: CountingEvaluator) -> None:
    env = make(engine=counting_evaluator, max_episode_steps=2)
    calls = counting_evaluator.calls
    env.reset(seed=SEED)
    assert [len(call) for call in calls] == [N]  # the teachers
    batches = actions(env, 3)
    for batch in batches[:2]:
        calls.clear()
        env.step(batch)
        assert [len(call) for call in calls] == [N, N]  # the students, then the next teachers
        assert all(job.network != job.task.teacher for job in calls[0])
        assert all(job.network == job.task.teacher for job in calls[1])
    calls.clear()
    env.step(batches[2])  # the reset: no students
    assert [len(call) for call in calls] == [N]


def test_students_that_need_no_evaluation_are_not_asked_for(counting_evaluator: CountingEvaluator) -> None:
    task = Task("digits", "fgsm", "WRN-10-2", 1.0)  # that no student keeps to
    env = make(engine=counting_evaluator, tasks=task, annealing_steps=0)
    env.reset(seed=SEED)
    counting_evaluator.calls.clear()
    _, rewards, _, _, infos = env.step(actions(env, 1)[0])
    assert [job.network for call in counting_evaluator.calls for job in call] == [task.teacher] * N
    assert rewards.tolist() == [-1.0] * N
    assert infos["evaluated"].tolist() == [False] * N


def test_each_environment_has_buffers_of_its_own() -> None:
    given = TaskBuffers(["digits"], ["fgsm"], [TeacherEntry("WRN-10-2", (4e5,))])
    env = make(tasks=given)
    env.reset(seed=SEED)
    _, _, _, _, infos = env.step(actions(env, 1)[0])
    joined = [each.tasks.students["digits"] for each in env.envs]  # type: ignore[attr-defined]
    assert [len(entries) for entries in joined] == [1] * N
    assert [entries[0].network.to_dict()["stages"] for entries in joined] == infos["student"]["stages"].tolist()
    assert given.students == {}


def test_annealing_counts_the_steps_of_all_and_survives_resets() -> None:
    env = make(annealing_steps=4 * N)
    env.reset(seed=SEED)
    batches = actions(env, 3)
    assert env.step(batches[0])[-1]["reward_terms"]["annealing"].tolist() == [1.0] * N
    assert env.step(batches[1])[-1]["reward_terms"]["annealing"].tolist() == [0.75] * N
    env.reset()
    assert env.steps_taken == 2 * N
    assert env.step(batches[2])[-1]["reward_terms"]["annealing"].tolist() == [0.5] * N
    env.reset(seed=SEED)
    assert env.steps_taken == 0
    env.reset(options={"steps_taken": 3 * N})
    assert env.step(batches[0])[-1]["reward_terms"]["annealing"].tolist() == [0.25] * N


def test_a_seed_each_may_be_given() -> None:
    env = make()
    together = env.reset(seed=SEED)[0]
    listed = env.reset(seed=[SEED + 2, SEED + 1, SEED])[0]
    for part in together:
        np.testing.assert_array_equal(listed[part], together[part][::-1])
    with pytest.raises(ValueError, match=r"seed must be one integer or 3 of them, got \[1, 2\]"):
        env.reset(seed=[1, 2])


def test_progress_is_reported_for_students_and_teachers() -> None:
    seen: list[tuple[Job, Evaluation]] = []
    tasks = [Task("digits", attack, "WRN-10-2", 4e5) for attack in ("fgsm", "clean")]
    env = make(num_envs=1, tasks=tasks, on_done=lambda *each: seen.append(each))
    env.reset(seed=SEED)
    env.step(actions(env, 1)[0])
    assert len(seen) == 3  # teacher, student, next teacher
    assert all(job.key == evaluation.key for job, evaluation in seen)


def test_closing_closes_an_engine_of_its_own_only(counting_evaluator: CountingEvaluator) -> None:
    given = make(engine=counting_evaluator)
    given.close()
    assert not counting_evaluator.closed
    named = make()
    named.evaluator = counting_evaluator
    named.close()
    assert counting_evaluator.closed


def test_every_environment_is_rendered() -> None:
    env = make(render_mode="ansi")
    env.reset(seed=SEED)
    env.step(actions(env, 1)[0])
    pictures = env.render()
    assert pictures is not None
    assert len(pictures) == N
    assert len(set(pictures)) == N
    assert make().render() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer of at least 1, got 0"),
        ({"penalty": "soft"}, "penalty must be one of 'annealed', 'hard', got 'soft'"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RCNASVectorEnv(**{**OPTIONS, **options})
