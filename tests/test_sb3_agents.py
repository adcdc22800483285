"""stable-baselines3's learners: what they are shown, what their actions become, what of them is kept."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from agents.flat_vector_env import FlatVectorEnv, flat_state
from agents.sb3 import SB3Agent
from agents.sb3_settings import LEARNERS, class_arguments, complete_settings, learner_class
from agents.sb3_weights import model_tensors, restore_model
from agents.trial import Trial
from rcnas_env.compression import compress
from rcnas_env.random_streams import lent_random_streams
from rcnas_env.registry import UnknownNameError
from tests.landscape import encoder, environments, observations, task

ALGORITHMS = tuple(LEARNERS)
ON_POLICY = [name for name in ALGORITHMS if LEARNERS[name].on_policy]
OFF_POLICY = [name for name in ALGORITHMS if not LEARNERS[name].on_policy]


def single(index: int = 0) -> dict[str, Any]:
    return {part: value[index] for part, value in observations().items()}


# -- states and actions ----------------------------------------------------------------------------------


def test_a_flat_state_holds_stages_lips_and_cost_on_fixed_scales() -> None:
    observed = single()
    found = flat_state(observed)
    stages, lips = observed["stages"].astype(float), np.log10(1 + observed["lips"].astype(float))
    rows = np.column_stack([np.log2(1 + stages[:, 0]) / 10, np.log2(1 + stages[:, 1]) / 5, stages[:, 2:]])
    expected = [*rows.ravel(), lips.mean(), lips.std(), (3 + np.log10(observed["cost"][0])) / 4]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def flat_environment(num_envs: int, evaluations: int, steps: int = 1, **options: Any) -> FlatVectorEnv:
    return FlatVectorEnv(environments(num_envs, steps=steps), flat_state, 15, evaluations, **options)


def test_the_flat_environment_evaluates_flat_actions_and_ends_episodes_as_the_library_expects() -> None:
    told = list[Trial]()
    envs = flat_environment(2, 3, steps=2, on_trial=told.append, seed=5, steps_taken=40)
    states = envs.reset()
    assert states.shape == (2, 15) and envs.observation_space.contains(states[0])
    rng, given = np.random.default_rng(0), []
    for step in range(4):
        given.append(rng.uniform(-1, 1, (2, 12)).astype(np.float32))
        states, rewards, done, infos = envs.step(given[-1])
        assert done.tolist() == [step % 2 == 1] * 2
        assert all(
            ("terminal_observation" in info) == info.get("TimeLimit.truncated", False) == (step % 2 == 1)
            for info in infos
        )
        if step == 0:
            assert rewards.tolist() == pytest.approx([trial.reward for trial in envs.trials])
    assert envs.trials == told and len(told) == 3, "more than was granted"
    flat = [row for actions in given for row in actions][:3]
    assert [trial.student for trial in told] == [compress(task().teacher, envs.actions.action(row)) for row in flat]
    assert envs.steps_taken == 48 == envs.envs.steps_taken  # type: ignore[attr-defined]


def test_an_encoder_takes_the_place_of_the_flat_state() -> None:
    frozen = encoder()
    agent = SB3Agent("ppo", encoder=frozen, settings={"rollout": 4})
    before = [value.clone() for value in frozen.state_dict().values()]
    agent.search(environments(2), 8)
    assert agent.tensors["policy/mlp_extractor.policy_net.0.weight"].shape == (64, frozen.stages * frozen.state)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="encoder must be a StateEncoder or None, got 'lstm'"):
        SB3Agent("ppo", encoder="lstm")  # type: ignore[arg-type]


# -- learning --------------------------------------------------------------------------------------------


def parameters_changed(algorithm: str, evaluations: int, num_envs: int, **settings: Any) -> bool:
    """Whether a search of so many evaluations updates the policy."""
    agent = SB3Agent(algorithm, settings=settings)
    agent.search(environments(num_envs), evaluations)
    untouched = SB3Agent(algorithm, settings=settings)
    with lent_random_streams(untouched._learning_seed()):
        first = model_tensors(untouched._model(flat_environment(num_envs, 1), num_envs))
    return any(not torch.equal(first[name], value) for name, value in agent.tensors.items() if name in first)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_a_complete_rollout_is_learnt_from_and_no_student_beyond_those_granted(algorithm: str) -> None:
    assert parameters_changed(algorithm, 4, 2, rollout=4)
    assert not parameters_changed(algorithm, 3, 1, rollout=4)  # never complete
    assert not parameters_changed(algorithm, 3, 2, rollout=4)  # complete with a student that was not granted


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_random_actions_come_first_and_only_once(algorithm: str) -> None:
    settings = {"learning_starts": 6}
    assert not parameters_changed(algorithm, 6, 2, **settings)
    assert parameters_changed(algorithm, 8, 2, **settings)
    agent = SB3Agent(algorithm, settings=settings)
    agent.search(environments(2), 6)
    before = dict(agent.tensors)
    agent.search(environments(2), 2)
    assert any(not torch.equal(before[name], agent.tensors[name]) for name in before)


@pytest.mark.parametrize(("num_envs", "n_steps", "batch"), [(1, 16, 16), (3, 5, 15), (32, 1, 32)])
def test_updates_come_after_as_many_students_whatever_the_number_of_environments(
    num_envs: int, n_steps: int, batch: int
) -> None:
    found = class_arguments("ppo", complete_settings("ppo", {}), num_envs, 12)
    assert (found["n_steps"], found["batch_size"]) == (n_steps, batch)
    assert class_arguments("sac", complete_settings("sac", {}), num_envs, 12)["gradient_steps"] == 2 * num_envs


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_table_of_settings_is_never_written_to(algorithm: str) -> None:
    before = deepcopy({name: dict(LEARNERS[name].settings) for name in ALGORITHMS})
    given = {"policy_kwargs": dict(LEARNERS[algorithm].settings["policy_kwargs"])}
    agent = SB3Agent(algorithm, settings=given)
    own = deepcopy(given)
    agent.search(environments(1), 2)
    assert {name: dict(LEARNERS[name].settings) for name in ALGORITHMS} == before
    assert given == own == agent.given


def test_annealing_goes_on_from_search_to_search() -> None:
    agent, envs = SB3Agent("a2c"), environments(2)
    for env in envs.envs:
        env.annealing_steps = 8
    agent.search(envs, 3)
    assert agent.steps_taken == 4 and envs.envs[0].annealing == pytest.approx(0.5, abs=0.25)
    agent.search(envs, 4)
    assert agent.steps_taken == envs.steps_taken == 8


def test_an_interruption_leaves_agent_and_streams_as_they_were() -> None:
    agent = SB3Agent("ppo", settings={"rollout": 2})
    agent.search(environments(1), 4)
    before, steps, state = dict(agent.tensors), agent.steps_taken, torch.get_rng_state()

    def stop(trial: Trial) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.search(environments(1), 4, stop)
    assert agent.tensors == before and agent.steps_taken == steps
    assert torch.equal(torch.get_rng_state(), state)


def test_act_is_the_likeliest_action_before_and_after_a_search(tmp_path: Path) -> None:
    envs = environments(1)
    agent = SB3Agent("ppo", settings={"rollout": 4})
    state = torch.get_rng_state()
    untrained = agent.act(single())
    agent.search(envs, 8)
    trained = agent.act(single())
    assert envs.single_action_space.contains(untrained) and envs.single_action_space.contains(trained)
    assert not np.array_equal(untrained["keep"], trained["keep"])
    agent.save(tmp_path / "agent")
    loaded = SB3Agent.load(tmp_path / "agent").act(single())
    assert all(np.array_equal(loaded[part], trained[part]) for part in trained)
    assert torch.equal(torch.get_rng_state(), state)


# -- weights, files, streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_hold_networks_optimizers_and_temperature(algorithm: str) -> None:
    agent = SB3Agent(algorithm, settings={"rollout": 4} if algorithm in ON_POLICY else {"learning_starts": 0})
    agent.search(environments(2), 8)
    with lent_random_streams(0):
        model = agent._model(flat_environment(2, 1), 2)
        restored = model_tensors(model)
    assert restored.keys() == agent.tensors.keys()
    assert all(torch.equal(restored[name], value) for name, value in agent.tensors.items())
    optimizers = {name.split("/")[0] for name in agent.tensors if "optimizer" in name}
    assert optimizers >= ({"policy.optimizer"} if algorithm in ON_POLICY else {"actor.optimizer", "critic.optimizer"})
    networks = {name.removeprefix("policy/") for name in agent.tensors if name.startswith("policy/")}
    assert networks == set(model.policy.state_dict())
    with pytest.raises(ValueError, match="weights must be of policy.*got 'other/weight'"):
        restore_model(model, {**agent.tensors, "other/weight": torch.zeros(1)})
    name = next(iter(agent.tensors))
    with pytest.raises(ValueError, match="weights must be of a model with the same settings"):
        restore_model(model, {key: value for key, value in agent.tensors.items() if key != name})


def test_a_file_with_an_encoder_gives_it_back(tmp_path: Path) -> None:
    agent = SB3Agent("a2c", 3, encoder(7), {"rollout": 4})
    agent.save(tmp_path / "agent")
    loaded = SB3Agent.load(tmp_path / "agent")
    assert (loaded.algorithm, loaded.seed, loaded.given, loaded.name) == ("a2c", 3, {"rollout": 4}, "A2C")
    assert isinstance(loaded.encoder, nn.Module) and agent.encoder is not None
    ours, theirs = agent.encoder.state_dict(), loaded.encoder.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="agent file must be a safetensors file"):
        SB3Agent.load(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="agent file must be an object with the fields format, .*got None"):
        SB3Agent.load(path)
    agent = SB3Agent("a2c")
    agent.save(path)
    save_file(load_file(path), path, {"agent": '{"format": 1, "algorithm": "a2c"}'})
    with pytest.raises(ValueError, match="agent file must have the fields .*missing 'seed'"):
        SB3Agent.load(path)


def test_lent_streams_are_seeded_inside_and_given_back_after_an_exception() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    with lent_random_streams(1):
        first = draws()
    with lent_random_streams(0):
        expected = draws()
    with lent_random_streams(0), pytest.raises(RuntimeError), lent_random_streams(1):
        assert draws() == first
        torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
        raise RuntimeError
    with lent_random_streams(0):
        with lent_random_streams(1):
            draws()
        assert draws() == expected
    assert not torch.backends.cudnn.deterministic


# -- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_setting_is_the_classs_or_one_of_ours(algorithm: str) -> None:
    found = class_arguments(algorithm, complete_settings(algorithm, {}), 2, 12)
    assert complete_settings(algorithm, {"gamma": 0.5})["gamma"] == 0.5
    assert found["gamma"] == 0.0
    assert learner_class(algorithm).__name__ == LEARNERS[algorithm].class_name


def test_an_unknown_algorithm_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown algorithm 'dqn'; known: a2c, crossq, ppo"):
        SB3Agent("dqn")


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("ppo", {"n_steps": 5}, "settings of 'ppo' must be among .*got 'n_steps'"),
        ("ppo", {"batch_size": 5}, "settings of 'ppo' must be among .*got 'batch_size'"),
        ("sac", {"rollout": 5}, "settings of 'sac' must be among .*got 'rollout'"),
        ("ppo", {"rollout": 1}, r"settings\['rollout'\] must be an integer of at least 2, got 1"),
        ("ppo", {"learning_rate": 0}, r"settings\['learning_rate'\] must be a finite number, above 0, got 0"),
        ("td3", {"exploration_noise": -1}, r"settings\['exploration_noise'\] must be .* at least 0, got -1"),
        ("td3", {"gradient_steps": 0}, r"settings\['gradient_steps'\] must be an integer of at least 1, got 0"),
        ("crossq", {"learning_starts": -1}, r"settings\['learning_starts'\] must be an integer of at least 0"),
    ],
)
def test_a_setting_out_of_range_is_named(algorithm: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SB3Agent(algorithm, settings=settings)


def test_settings_that_could_not_be_saved_are_refused_before_a_search() -> None:
    with pytest.raises(ValueError, match="settings must be JSON values, which the agent is saved with"):
        SB3Agent("ppo", settings={"policy_kwargs": {"activation_fn": nn.ReLU}})
