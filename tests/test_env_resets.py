"""Resets of the environment: broken off, with buffers of its own, with options that mean nothing."""

from __future__ import annotations

import gymnasium as gym
import pytest

from rcnas_env.env import RCNASEnv
from rcnas_env.task import TaskBuffers, TeacherEntry
from tests.conftest import CountingEvaluator

RECIPE = {"n_eval": 12}


@pytest.mark.parametrize("broken_off", ["first reset", "reset", "step"])
def test_after_a_teacher_s_evaluation_was_broken_off_a_reset_is_needed(
    broken_off: str, counting_evaluator: CountingEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = RCNASEnv(engine=counting_evaluator, store=None, recipe=RECIPE)
    action = env.action_space.sample()
    if broken_off != "first reset":
        env.reset(seed=0)

    def interrupted(teacher: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(env, "observe", interrupted)
        env.step(action) if broken_off == "step" else env.reset(seed=1)
    evaluated = len(counting_evaluator.calls)
    with pytest.raises(gym.error.ResetNeeded, match="broken off"):
        env.step(action)
    assert len(counting_evaluator.calls) == evaluated, "a student was evaluated beside another task's teacher"
    env.reset(seed=1)
    env.step(action)


def test_two_environments_share_no_buffers() -> None:
    buffers = TaskBuffers(["digits"], ["clean"], [TeacherEntry("WRN-16-1", (123_456.0,))])
    first, second = (RCNASEnv(tasks=buffers, engine="analytic", store=None, recipe=RECIPE) for _ in range(2))
    first.reset(seed=0)
    first.step(first.action_space.sample())
    second.reset(seed=0)
    assert isinstance(first.tasks, TaskBuffers) and isinstance(second.tasks, TaskBuffers)
    assert len(first.tasks.students["digits"]) == 1
    assert second.tasks.students == buffers.students == {}


def test_reset_options_without_a_meaning_are_told() -> None:
    with pytest.warns(UserWarning, match=r"not 'task' or 'steps_taken' play no part, got \['step_taken'\]"):
        RCNASEnv(engine="analytic", store=None).reset(options={"step_taken": 3})
