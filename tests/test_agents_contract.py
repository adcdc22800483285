"""The contract of every registered agent: spends what it is granted, inside the space, repeatably, and learns."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch

from agents.agent import Agent, incumbent_of
from agents.black_box import BlackBoxSearch
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.critic import AccuracyCritic
from agents.random_search import RandomSearch
from agents.registry import agent_settings, known_agents, make_agent, register_agent
from agents.sb3 import SB3Agent
from agents.sb3_settings import LEARNERS
from agents.trial import Trial
from agents.vpg import VPG
from agents.vpg_plus import VPGPlus, VPGPlusConfig, attack_key
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.registry import UnknownNameError
from rcnas_env.task import Task
from rcnas_env.vector_env import RCNASVectorEnv
from tests.landscape import encoder, environments, observations, task

SEARCHERS = tuple(name for name in known_agents() if name != "scaling-rule")
"""Those that try as many students as they are granted; the rule has one network."""
BUDGETED = ("random-search", "evolution", "local-search", "tpe", "bayesian")
"""Those that know a student's cost before they try it: the black-box searchers."""
POLICIES = ("vpg", "vpg+", *LEARNERS)
"""Those that learn a policy, which `act` asks for an action."""
FEW: dict[str, dict[str, Any]] = {
    "evolution": {"population": 4, "tournament": 2},
    "tpe": {"startup": 4},
    "bayesian": {"startup": 6},  # each proposal beyond takes about half a second
    **dict.fromkeys(("ppo", "a2c", "trpo", "recurrent-ppo"), {"rollout": 4}),
    **dict.fromkeys(("sac", "td3", "crossq"), {"learning_starts": 3}),
}
"""Settings under which the few evaluations of a test go beyond the random ones at the start."""


def agent(name: str, seed: int = 0, **settings: Any) -> Agent:
    return make_agent(
        name, task(), seed, encoder() if name in ("vpg", "vpg+") else None, **{**FEW.get(name, {}), **settings}
    )


def searched(name: str, evaluations: int = 7, num_envs: int = 2, seed: int = 0) -> list[Trial]:
    return agent(name, seed).search(environments(num_envs), evaluations)


def streams() -> tuple[Any, ...]:
    """The state of every process-wide random stream, in comparable form."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (kind, keys.tolist(), *rest), torch.get_rng_state().tolist(), torch.initial_seed()


def recorded(envs: RCNASVectorEnv) -> list[Any]:
    """What `envs` is given from now on, action by action."""
    given, step = [], envs.step

    def noted(actions: Any) -> Any:
        given.append(actions)
        return step(actions)

    envs.step = noted  # type: ignore[method-assign]
    return given


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize(("evaluations", "num_envs"), [(7, 1), (7, 2)])
def test_as_many_trials_as_granted_each_told_and_each_what_its_action_makes(
    name: str, evaluations: int, num_envs: int
) -> None:
    envs, told = environments(num_envs), list[Trial]()
    given = recorded(envs)
    trials = agent(name).search(envs, evaluations, told.append)
    assert len(trials) == evaluations and told == trials
    assert len(given) == -(-evaluations // num_envs), "more steps than the evaluations need"
    assert all(envs.action_space.contains(actions) for actions in given)
    rows = [{part: value[i] for part, value in actions.items()} for actions in given for i in range(num_envs)]
    assert [trial.student for trial in trials] == [compress(task().teacher, row) for row in rows[:evaluations]]
    assert [trial.macs for trial in trials] == [cost(trial.student).macs for trial in trials]


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_seed_decides_the_trials_and_process_wide_streams_play_no_part(name: str) -> None:
    before = streams()
    first = searched(name)
    assert streams() == before
    torch.rand(5), np.random.rand(5), random.random()  # noqa: NPY002
    assert searched(name) == first
    assert searched(name, seed=1) != first


@pytest.mark.parametrize("kind", [VPG, VPGPlus])
def test_meta_training_leaves_process_wide_streams_alone(kind: type[VPG]) -> None:
    before = streams()
    kind(encoder()).learn(environments(2, [task("fgsm"), task("pgd-20")], steps=2), 2)
    assert streams() == before


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize(("evaluations", "num_envs"), [(3, 1), (7, 4)])
def test_longer_episodes_give_no_more_than_was_granted(name: str, evaluations: int, num_envs: int) -> None:
    assert len(agent(name).search(environments(num_envs, steps=5), evaluations)) == evaluations


@pytest.mark.parametrize("name", ["vpg", "vpg+", "random-search"])
def test_environments_that_are_left_over_train_nothing_of_their_own(name: str) -> None:
    envs = environments(4)
    given = recorded(envs)
    agent(name).search(envs, 5)
    for part in ("keep", "switch"):
        assert np.ptp(given[-1][part], axis=0).max() == 0, "the second step has one evaluation left, for four rows"


@pytest.mark.parametrize("name", SEARCHERS)
def test_no_evaluations_are_no_trials(name: str) -> None:
    assert searched(name, evaluations=0) == []


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("evaluations", [-1, 2.5, True])
def test_a_number_of_evaluations_out_of_range_is_named(name: str, evaluations: Any) -> None:
    with pytest.raises(ValueError, match=f"evaluations must be an integer of at least 0, got {evaluations}"):
        searched(name, evaluations=evaluations)


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_seed_out_of_range_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        agent(name, seed=-1)


@pytest.mark.parametrize("name", known_agents())
def test_an_unknown_setting_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"settings of '{re.escape(name)}' must be among .*got 'momentun'"):
        agent(name, momentun=0.9)


@pytest.mark.parametrize("name", known_agents())
def test_the_settings_listed_are_those_taken(name: str) -> None:
    listed = agent_settings(name)
    assert agent(name, **listed)
    assert not {"task", "seed", "encoder"} & set(listed)


@pytest.mark.parametrize("name", BUDGETED)
def test_those_who_know_the_cost_try_nothing_over_the_budget(name: str) -> None:
    tight = task(budget_share=0.15)
    trials = make_agent(name, tight, seed=2, **FEW.get(name, {})).search(environments(2, tight), 8)
    assert len(trials) == 8 and all(trial.within_budget for trial in trials)


def saved_and_loaded(searcher: Agent, path: Path) -> Agent:
    if isinstance(searcher, VPG):
        save_checkpoint(searcher, path)
        return load_checkpoint(path)[0]
    assert isinstance(searcher, SB3Agent | BlackBoxSearch | RandomSearch)
    searcher.save(path)
    return type(searcher).load(path)


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_loaded_agent_goes_on_as_the_saved_one_would_have(name: str, tmp_path: Path) -> None:
    before, after = (7, 2) if name == "bayesian" else (8, 4)  # half a second for each of its own proposals
    original = agent(name)
    original.search(environments(2), before)
    loaded = saved_and_loaded(original, tmp_path / "agent")
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    continued = original.search(environments(2), after)
    assert loaded.search(environments(2), after) == continued
    assert agent(name).search(environments(2), after) != continued, "nothing was remembered"


@pytest.mark.parametrize("name", [*BUDGETED, "vpg", "vpg+"])
def test_a_search_in_two_parts_with_a_file_between_is_the_search_in_one(name: str, tmp_path: Path) -> None:
    """Not so of stable-baselines3's, which build their model anew for each search (docs/agents.md)."""
    first = agent(name)
    trials = first.search(environments(2), 8)
    trials += saved_and_loaded(first, tmp_path / "agent").search(environments(2), 4)
    assert agent(name).search(environments(2), 12) == trials


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_acts_inside_the_space_by_what_it_learnt_also_when_loaded(name: str, tmp_path: Path) -> None:
    learner, envs = agent(name), environments(2)
    observation = {part: value[0] for part, value in observations(1).items()}
    before = learner.act(observation)  # type: ignore[attr-defined]
    learner.search(envs, 8)
    action = learner.act(observation)  # type: ignore[attr-defined]
    assert envs.single_action_space.contains(before) and envs.single_action_space.contains(action)
    assert not np.array_equal(action["keep"], before["keep"]), "nothing was learnt"
    for again in (learner, saved_and_loaded(learner, tmp_path / "agent")):
        found = again.act(observation)  # type: ignore[attr-defined]
        assert all(np.array_equal(found[part], action[part]) for part in ("keep", "switch"))


def test_searchers_without_a_policy_have_no_act() -> None:
    assert {name for name in known_agents() if hasattr(agent(name), "act")} == set(POLICIES)


ENOUGH = {"bayesian": 16, "vpg+": 40, "tpe": 100, "td3": 100, "sac": 140, "crossq": 140}
"""Evaluations after which an agent is held against random search; 200 where not named."""
COSTLY = ("a2c", "bayesian", "crossq", "recurrent-ppo", "sac", "td3", "trpo")
"""Those that take seconds to learn that much; of stable-baselines3's, PPO stands for them in every run of the tests."""


@functools.cache
def best_reward(name: str, evaluations: int, seed: int) -> float:
    """Of the students that an agent with its default settings tries (Bayesian optimisation: those of FEW)."""
    settings = FEW["bayesian"] if name == "bayesian" else {}
    searcher = make_agent(name, task(), seed, encoder() if name in ("vpg", "vpg+") else None, **settings)
    return max(trial.reward for trial in searcher.search(environments(4), evaluations))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in COSTLY else [])
        for name in sorted(set(SEARCHERS) - {"random-search"})
    ],
)
def test_an_agent_learns_the_landscape_better_than_random_search(name: str) -> None:
    """The best student, mean of two seeds, against the median of random search's over five."""
    evaluations = ENOUGH.get(name, 200)
    ours = mean(best_reward(name, evaluations, seed) for seed in range(2))
    assert ours > median(best_reward("random-search", evaluations, seed) for seed in range(5)) + 0.02


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name not in ("vpg", "vpg+")])
def test_the_same_trials_by_parts_count_the_same(name: str) -> None:
    searcher = agent(name)
    parts = [len(searcher.search(environments(2), count)) for count in (3, 1, 4)]
    assert parts == [3, 1, 4]


def test_the_scaling_rule_tries_its_one_network() -> None:
    assert len(make_agent("scaling-rule", task()).search(environments(2), 5)) == 1
    assert make_agent("scaling-rule", task()).search(environments(2), 0) == []


def test_names_are_unique_and_unknown_ones_list_the_known() -> None:
    assert len(known_agents()) == len(set(known_agents())) == 15
    with pytest.raises(UnknownNameError, match="unknown agent 'pppo'; known: .*Did you mean 'ppo'"):
        make_agent("pppo", task())
    with pytest.raises(ValueError, match="agent 'ppo' is registered already"):
        register_agent("ppo", make_agent)
    with pytest.raises(ValueError, match="encoder must be a StateEncoder for agent 'vpg', got None"):
        make_agent("vpg", task())


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "vpg+"])
def test_an_agent_without_a_choice_of_its_own_delivers_the_first_of_the_best_rewards(name: str) -> None:
    own = task(budget_share=0.5)
    over, low, first, second = trial(own, 1.0, 2.0), trial(own, 0.3, 0.2), trial(own, 0.4, 0.6), trial(own, 0.5, 0.6)
    assert incumbent_of(agent(name), [over, low, first, second]) is first
    assert incumbent_of(agent(name), [over]) is incumbent_of(agent(name), []) is None


def trial(own: Task, keep: float, reward: float) -> Trial:
    action = {"keep": np.full((3, 2), keep), "switch": np.array([[0, 0], [1, 0], [1, 0]])}
    student = compress(own.teacher, action)
    costs = cost(student)
    return Trial(student, costs.params, costs.macs, costs.macs <= own.budget, reward, 0.5, False)


def judged(**config: bool) -> tuple[VPGPlus, Trial, list[Trial]]:
    """(agent, good, trials): the lucky one's reward is the highest; other trainings of its like were poor."""
    own, agent = task(budget_share=0.5), VPGPlus(encoder(), VPGPlusConfig(**config))
    lucky, good, over = trial(own, 0.5, 0.9), trial(own, 0.3, 0.6), trial(own, 1.0, 2.0)
    assert not over.within_budget
    critic = AccuracyCritic()
    for accuracy in (0.6, 0.2, 0.22, 0.18):
        critic.observe(lucky.student, attack_key(own), accuracy)
    for accuracy in (0.45, 0.5, 0.48):
        critic.observe(good.student, attack_key(own), accuracy)
    agent.remember({"critic": critic.to_list(), "tried": [], "task": own.to_dict(), "emphasis": 1.0})
    return agent, good, [over, lucky, good]


def test_the_critic_delivers_no_lucky_trial() -> None:
    agent, good, trials = judged()
    assert incumbent_of(agent, trials) is agent.incumbent(trials) is good
    assert agent.incumbent(trials[:1]) is None, "over the budget"


@pytest.mark.parametrize("config", [{"own_choice": False}, {"critic": False}])
def test_without_the_critics_word_the_best_reward_is_delivered(config: dict[str, bool]) -> None:
    agent, _, trials = judged(**config)
    assert agent.incumbent(trials) is trials[1]
    assert agent.incumbent(trials[:1]) is None


def test_before_any_search_the_best_reward_is_delivered() -> None:
    agent, _, trials = judged()
    agent.remember({**agent.memory(), "task": None})
    assert agent.incumbent(trials) is trials[1]
