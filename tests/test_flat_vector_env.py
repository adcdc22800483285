"""stable-baselines3's VecEnv of N environments: what each would give alone behind FlatAction, from one call a step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from agents.flat_vector_env import FlatVectorEnv, flat_state
from agents.trial import trial_of
from rcnas_env.wrappers import EncodedState, FlatAction
from tests.conftest import CountingEvaluator

SEED, N, STEPS, SIZE = 7, 3, 12, 15
OPTIONS: dict[str, Any] = {"store": None, "recipe": {"n_eval": 12}, "annealing_steps": 0}  # ε anneals by all steps


def test_each_environment_does_what_it_would_alone(counting_evaluator: CountingEvaluator) -> None:
    """Two episodes of five steps and the beginning of a third."""
    envs = gym.make_vec("RCNAS-v0", num_envs=N, engine=counting_evaluator, **OPTIONS)
    together = FlatVectorEnv(envs, flat_state, SIZE, evaluations=N * STEPS, seed=SEED)
    alone = [
        EncodedState(FlatAction(gym.make("RCNAS-v0", engine="analytic", **OPTIONS)), flat_state, SIZE) for _ in range(N)
    ]
    states = together.reset()
    assert states.tolist() == [env.reset(seed=SEED + index)[0].tolist() for index, env in enumerate(alone)]
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, N, 12)).astype(np.float32)
    students, ends = [], 0
    for batch in actions:
        before = len(counting_evaluator.calls)
        states, rewards, dones, infos = together.step(batch)
        assert len(counting_evaluator.calls) - before <= 2 + dones.any()  # students; next teachers; those of a reset
        for index, env in enumerate(alone):
            state, reward, terminated, truncated, info = env.step(batch[index])
            students.append(trial_of(info))
            assert (rewards[index], dones[index]) == (np.float32(reward), terminated or truncated)
            if truncated:
                ends += 1
                assert infos[index]["terminal_observation"].tolist() == state.tolist()
                state, _ = env.reset()
            assert states[index].tolist() == state.tolist()
    assert [(trial.student, trial.reward) for trial in together.trials] == [(t.student, t.reward) for t in students]
    assert ends == 2 * N and len({trial.student for trial in students}) > STEPS
