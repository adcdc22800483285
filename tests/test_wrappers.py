"""Wrappers: flat and discrete actions, encoded and masked states, phases; a stable-baselines3 learner behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stable_baselines3 import PPO

import rcnas_env  # noqa: F401  (registers the ids)
from rcnas_env.env import RCNASEnv
from rcnas_env.task import FixedTasks, Task, TaskBuffers, TeacherEntry
from rcnas_env.wrappers import (
    DiscreteAction,
    EncodedState,
    FineTuning,
    FlatAction,
    MaskedState,
    MaskedVectorState,
    MetaTraining,
)

TASK = Task("digits", "clean", "WRN-16-1", 123_456.0)
N_EVAL = 12


def make(**options: Any) -> gym.Env[Any, Any]:
    return gym.make("RCNAS-v0", **{"engine": "analytic", "store": None, "recipe": {"n_eval": N_EVAL}, **options})


def lists(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in parts.items()}


FLAT, DISCRETE = FlatAction(make()), DiscreteAction(make(), levels=4)


def test_flat_corners_are_the_hybrid_space_s() -> None:
    assert lists(FLAT.action(-np.ones(12))) == {"keep": [[0.0] * 2] * 3, "switch": [[0] * 2] * 3}
    assert lists(FLAT.action(np.ones(12))) == {"keep": [[1.0] * 2] * 3, "switch": [[1] * 2] * 3}
    assert lists(FLAT.action(np.zeros(12))) == {"keep": [[0.5] * 2] * 3, "switch": [[0] * 2] * 3}


def test_flat_actions_are_shares_row_by_row_and_then_switches() -> None:
    flat = [-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1e-6, -1e-6, 0.3, -0.3, 1.0, -1.0]
    assert lists(FLAT.action(flat)) == {
        "keep": [[0.0, 0.25], [0.5, 0.625], [0.75, 1.0]],
        "switch": [[1, 0], [1, 0], [1, 0]],
    }


@given(arrays(np.float32, 12, elements=st.floats(-1, 1, width=32)))
def test_flat_actions_are_always_in_the_hybrid_space(flat: np.ndarray) -> None:
    assert FLAT.action_space.contains(flat)
    hybrid = FLAT.action(flat)
    assert FLAT.env.action_space.contains(hybrid)
    back = np.concatenate([hybrid["keep"].ravel() * 2 - 1, np.where(hybrid["switch"], 1, -1).ravel()])
    np.testing.assert_allclose(back[:6], flat[:6], atol=1e-6)
    np.testing.assert_array_equal(back[6:] > 0, flat[6:] > 0)


@pytest.mark.parametrize(
    "bad", [np.zeros(11), np.zeros((3, 4)), np.full(12, 1.5), np.full(12, -1.01), np.full(12, np.nan), 0.0, None]
)
def test_bad_flat_actions_are_named(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"action must be 12 numbers in \[-1, 1\], got"):
        FLAT.action(bad)


def test_discrete_corners() -> None:
    assert lists(DISCRETE.action(np.zeros(12, int))) == {"keep": [[0.25] * 2] * 3, "switch": [[0] * 2] * 3}
    most = DISCRETE.action_space.nvec - 1
    assert most.tolist() == [3] * 6 + [1] * 6
    assert lists(DISCRETE.action(most)) == {"keep": [[1.0] * 2] * 3, "switch": [[1] * 2] * 3}
    mixed = DISCRETE.action(np.array([0, 1, 2, 3, 0, 1, 0, 1, 1, 0, 0, 0]))
    assert lists(mixed) == {"keep": [[0.25, 0.5], [0.75, 1.0], [0.25, 0.5]], "switch": [[0, 1], [1, 0], [0, 0]]}
    assert DISCRETE.env.action_space.contains(mixed)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(11, int),
        np.zeros((2, 6), int),
        np.array([4] + [0] * 11),
        np.array([0] * 11 + [2]),
        np.array([-1] + [0] * 11),
        np.full(12, 0.5),
        np.full(12, np.nan),
        None,
        ["wide"] * 12,
    ],
)
def test_bad_discrete_actions_are_named(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"action must be in MultiDiscrete\(.*\), got"):
        DISCRETE.action(bad)


def test_an_action_wrapper_refuses_other_environments_and_levels() -> None:
    for wrapper in (FlatAction, DiscreteAction):
        with pytest.raises(ValueError, match="env must have RCNASEnv's hybrid action space, got Discrete"):
            wrapper(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="levels must be an integer of at least 2, got 1"):
        DiscreteAction(make(), levels=1)


@pytest.mark.parametrize("wrapper", [FlatAction, DiscreteAction])
def test_a_wrapped_step_is_the_hybrid_one(wrapper: Any) -> None:
    wrapped, plain = wrapper(make()), make()
    for env in (wrapped, plain):
        env.reset(seed=0)
    wrapped.action_space.seed(0)
    for _ in range(5):
        action = wrapped.action_space.sample()
        found, expected = wrapped.step(action), plain.step(wrapped.action(action))
        assert lists(found[0]) == lists(expected[0])
        assert found[1:4] == expected[1:4]


def test_encoded_states_are_the_encoder_s_vectors() -> None:
    def encode(observation: dict[str, Any]) -> Any:
        return np.concatenate([observation["stages"].ravel(), [observation["lips"].mean()]]).astype(np.float64)[None]

    env, plain = EncodedState(make(), encode, size=13), make()
    found, expected = env.reset(seed=0)[0], plain.reset(seed=0)[0]
    for _ in range(3):
        assert env.observation_space.contains(found)
        np.testing.assert_array_equal(found, encode(expected)[0].astype(np.float32))
        action = plain.action_space.sample()
        found, expected = env.step(action)[0], plain.step(action)[0]


@pytest.mark.parametrize("hidden", [(), ("lips",), ("cost", "stages"), ["lips", "cost", "stages"]])
def test_masked_parts_are_zero_and_others_as_they_were(hidden: Any) -> None:
    env, plain = MaskedState(make(), hidden), make()
    found, expected = env.reset(seed=0)[0], plain.reset(seed=0)[0]
    action = plain.action_space.sample()
    for _ in range(2):
        assert env.observation_space.contains(found)
        for part, value in expected.items():
            assert value.any()
            np.testing.assert_array_equal(found[part], np.zeros_like(value) if part in hidden else value)
        found, expected = env.step(action)[0], plain.step(action)[0]


def make_vector() -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.make_vec("RCNAS-v0", num_envs=2, engine="analytic", store=None, recipe={"n_eval": N_EVAL}, tasks=TASK)


def test_masked_parts_are_zero_in_every_environment_of_a_vector() -> None:
    envs, plain = MaskedVectorState(make_vector(), ["lips", "cost"]), make_vector()
    plain.action_space.seed(0)
    found, expected = envs.reset(seed=0)[0], plain.reset(seed=0)[0]
    for _ in range(2):
        np.testing.assert_array_equal(found["stages"], expected["stages"])
        for part in ("lips", "cost"):
            assert expected[part].any() and found[part].shape == expected[part].shape and not found[part].any()
        action = plain.action_space.sample()
        found, expected = envs.step(action)[0], plain.step(action)[0]


def test_an_unknown_part_is_named() -> None:
    for wrap in (lambda: MaskedState(make(), ["lip"]), lambda: MaskedVectorState(make_vector(), ["lip"])):
        with pytest.raises(ValueError, match="hidden must be one of 'stages', 'lips', 'cost', got 'lip'"):
            wrap()


def ends(env: gym.Env[Any, Any], count: int) -> list[bool]:
    env.reset(seed=0)
    env.action_space.seed(0)
    found = []
    for _ in range(count):
        found.append(env.step(env.action_space.sample())[3])
        if found[-1]:
            env.reset()
    return found


def test_meta_training_samples_the_buffers_for_five_steps() -> None:
    buffers = TaskBuffers(["digits"], ["clean", "cw-40"], [TeacherEntry("WRN-16-1", (123_456.0,))])
    env = MetaTraining(make(max_episode_steps=-1), buffers)
    assert ends(env, 10) == [False, False, False, False, True] * 2
    assert ends(MetaTraining(make(), buffers, steps=2), 4) == [False, True] * 2
    bare = env.unwrapped
    assert isinstance(bare, RCNASEnv)
    assert bare.tasks == buffers and bare.tasks is not buffers
    attacks = {env.reset(seed=seed)[1]["next_task"]["attack"] for seed in range(20)}
    assert attacks == {"clean", "cw-40"}


@pytest.mark.parametrize(
    "wrap", [lambda env: MetaTraining(env, FixedTasks((TASK,)), 10), lambda env: FineTuning(env, TASK, 6)]
)
def test_a_limit_inside_that_would_end_episodes_first_is_named(wrap: Callable[[gym.Env[Any, Any]], object]) -> None:
    message = r"steps must be no more than .* max_episode_steps, 5, .*give max_episode_steps=\d+ to gym.make"
    with pytest.raises(ValueError, match=message):
        wrap(make())
    wrap(make(max_episode_steps=10))


def test_fine_tuning_repeats_one_task_for_one_step() -> None:
    env = FineTuning(make(), TASK)
    assert ends(env, 4) == [True] * 4
    assert isinstance(env.unwrapped, RCNASEnv)
    assert env.unwrapped.tasks == FixedTasks((TASK,))
    for _ in range(3):
        assert Task.from_dict(env.reset()[1]["next_task"]) == TASK
        assert Task.from_dict(env.step(env.action_space.sample())[-1]["next_task"]) == TASK  # no student instead


def test_phases_are_for_rcnas_only() -> None:
    with pytest.raises(ValueError, match="env must be an RCNASEnv, got"):
        FineTuning(gym.make("CartPole-v1"), TASK)


def test_a_stable_baselines3_learner_learns_behind_flat_actions() -> None:
    model = PPO("MultiInputPolicy", FlatAction(make()), n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(24)
    assert model.num_timesteps == 24
    after = list(model.policy.parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in after)
    assert any(not bool((one == other).all()) for one, other in zip(before, after, strict=True))
