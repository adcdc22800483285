"""vpg+: the gradient against the clipped surrogate computed by hand, what is tried, what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal

from agents.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from agents.critic import AccuracyCritic
from agents.random_search import RandomSearch
from agents.vpg_plus import Drawn, VPGPlus, VPGPlusConfig, attack_key, predicted_rewards
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.reward import reward_terms
from rcnas_env.task import Task
from rcnas_env.wrappers import MaskedVectorState
from tests.landscape import encoder, environments, task, teacher

UNCLIPPED = 1e9


def plus(seed: int = 0, **config: Any) -> VPGPlus:
    return VPGPlus(encoder(), VPGPlusConfig(**config), seed)


def drawn(agent: VPGPlus, tasks: list[Task], seed: int = 0) -> list[Drawn]:
    """Draws in random states, with random values of both signs where they are within the budget."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    states = torch.randn(len(tasks), 3, agent.encoder.state, generator=generator)
    found = agent._draw(states, tasks, generator, False)
    for each in found:
        each.values[~each.over] = rng.normal(size=int((~each.over).sum()))
    return found


def noted(agent: VPGPlus) -> list[Drawn]:
    """What `agent` draws from now on."""
    found, real = list[Drawn](), agent._draw
    agent._draw = lambda *arguments: found.extend(each := real(*arguments)) or each  # type: ignore[method-assign]
    return found


def assert_equal_agents(ours: VPGPlus, theirs: VPGPlus) -> None:
    assert ours.memory() == theirs.memory()
    assert (ours.iteration, ours.steps_taken) == (theirs.iteration, theirs.steps_taken)
    weights = zip(ours.policy.state_dict().items(), theirs.policy.state_dict().items(), strict=True)
    assert all(mine[0] == other[0] and torch.equal(mine[1], other[1]) for mine, other in weights)


# -- the policy gradient ---------------------------------------------------------------------------------


def test_a_step_applies_the_gradient_of_the_clipped_surrogate() -> None:
    """At ratio 1: mean over the draws that are learnt from of A ∇ log π, plus the bonus on the switches' entropy."""
    agent = plus(draws=8, exploring=2, epochs=1, gradient_clip=UNCLIPPED, entropy_bonus=0.1)
    batch, before = drawn(agent, [task(budget_share=0.2), task("fgsm")]), deepcopy(agent.policy)
    assert any(each.over[:-2].any() for each in batch) and not batch[1].over.all()
    gain, count = torch.zeros(()), 0
    for each in batch:
        known = each.values[~each.over]
        advantages = np.clip((each.values - known.mean()) / known.std(), -2, 2)
        advantages[each.over] = -1
        for index in range(6):
            found = before(each.states[index : index + 1])
            switches = Bernoulli(logits=found.logits)
            shares = Normal(found.mean, found.log_std.exp()).log_prob(each.alpha[index])
            log_prob = shares.sum() + switches.log_prob(each.beta[index]).sum()
            gain, count = gain + advantages[index] * log_prob + 0.1 * switches.entropy().mean(), count + 1
    expected = torch.autograd.grad(gain / count, list(before.parameters()))
    report = agent._improve(batch)
    for parameter, gradient in zip(agent.policy.parameters(), expected, strict=True):
        assert parameter.grad is not None and gradient.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, -gradient, rtol=1e-4, atol=1e-5)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm().item()
    assert report.gradient_norm == pytest.approx(norm, rel=1e-4)


def test_a_probability_that_has_moved_far_enough_moves_no_further() -> None:
    """Advantages of +1 and −1: a large first step takes both ratios beyond 1 ± 0.2, where the gradient is 0."""

    def last_norm(**config: Any) -> float:
        agent = plus(draws=1, exploring=0, normalise=False, entropy_bonus=0.0, learning_rate=0.1, **config)
        batch = drawn(agent, [task(), task("fgsm")])
        batch[0].values[0], batch[1].values[0] = 1.0, -1.0
        return agent._improve(batch).gradient_norm

    assert last_norm(epochs=1) > 0.1
    assert last_norm(epochs=2) == 0.0
    assert last_norm(epochs=2, ratio_clip=UNCLIPPED) > 0.1


def test_draws_keep_the_probability_they_were_drawn_with() -> None:
    agent = plus(draws=6, exploring=2)
    for each in drawn(agent, [task(), task("fgsm")]):
        expected = agent.policy(each.states).log_prob(each.alpha, each.beta).detach()
        torch.testing.assert_close(each.log_prob, expected)
        actions = {"keep": torch.sigmoid(each.alpha).numpy(), "switch": each.beta.numpy().astype(np.int8)}
        rows = [{part: value[i] for part, value in actions.items()} for i in range(6)]
        assert each.students == [compress(each.task.teacher, row) for row in rows]


# -- advantages ------------------------------------------------------------------------------------------


def valued(values: list[float], over: list[bool]) -> Drawn:
    """So many draws with these values."""
    count = len(values)
    nothing = torch.zeros(count, 3, 2)
    students = [teacher()] * count
    return Drawn(
        task(), students, nothing, nothing, nothing, torch.zeros(count), np.array(values), np.array(over, bool)
    )


def test_advantages_are_relative_to_the_state_and_clipped() -> None:
    given = valued([0.0] * 8 + [3.0, -1.0, np.nan, 0.5, 0.5], [False] * 9 + [True] + [False] * 3)
    known = [0.0] * 8 + [3.0, 0.5, 0.5]
    found = plus(exploring=2, over_budget=0.7, advantage_clip=1.5)._advantages(given, overall=99.0)
    assert found[:8] == pytest.approx(-np.mean(known) / np.std(known), rel=1e-4)
    assert (3.0 - np.mean(known)) / np.std(known) > 1.5 and found[8] == 1.5
    assert found[9] == -0.7
    assert np.isnan(found[10:]).all(), "neither known nor predicted, and two exploring draws"
    plain = plus(exploring=0, normalise=False)._advantages(given, overall=99.0)
    assert plain[[0, 8, 9, 11]] == pytest.approx([-np.mean(known), 3 - np.mean(known), -1.0, 0.5 - np.mean(known)])


def test_a_single_known_value_is_held_against_the_batch() -> None:
    given = valued([0.5, np.nan, -1.0], [False, False, True])
    found = plus(exploring=0)._advantages(given, overall=0.4)
    assert found[[0, 2]] == pytest.approx([0.1 / (0.4 + 0.1), -1.0], rel=1e-4) and np.isnan(found[1])
    assert plus(exploring=0, normalise=False)._advantages(given, 0.4)[0] == pytest.approx(0.1)


def test_exploring_draws_are_uniform_over_the_action_space() -> None:
    agent = plus(draws=2_000, exploring=1_999, initial_std=0.1)
    (each,) = drawn(agent, [task()])
    shares, switches = torch.sigmoid(each.alpha[1:]).numpy(), each.beta[1:].numpy()
    assert abs(shares.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / 1_999)
    assert abs(shares.var(0) - 1 / 12).max() < 5 * np.sqrt(1 / 180 / 1_999)
    assert abs(switches.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(1_999)
    assert abs(each.alpha[0] - agent.policy(each.states[:1]).mean[0]).max() < 0.6, "the first one is the policy's"


# -- what is tried ---------------------------------------------------------------------------------------


def test_nothing_over_the_budget_is_tried_while_anything_drawn_is_within_it() -> None:
    tasks = [task(budget_share=0.02), task("fgsm", budget_share=0.1)]
    agent = plus(draws=6, exploring=2)
    seen = noted(agent)
    reports = agent.learn(environments(4, tasks, steps=3), 5)
    within = [trial.within_budget for report in reports for trial in report.trials]
    assert [not each.over.all() for each in seen] == within
    assert 0 < sum(within) < len(within), "both cases must occur"
    for each in seen:
        macs = np.array([cost(student).macs for student in each.students])
        assert np.array_equal(each.over, macs > each.task.budget)
        assert not each.over.all() or macs[each.chosen] == macs.min()


def test_without_the_budget_what_exceeds_it_is_tried() -> None:
    agent = plus(budget=False, draws=6, exploring=2)
    trials = agent.search(environments(2, task(budget_share=0.02)), 10)
    assert any(not trial.within_budget for trial in trials)


SMALL = Task("digits", "cw-40", teacher(2, 16), float(cost(teacher(2, 64)).macs))
"""Of few students."""


def test_a_search_tries_no_student_twice_while_new_ones_are_drawn() -> None:
    agent = plus(draws=64)
    trials = agent.search(environments(3, SMALL), 15) + agent.search(environments(3, SMALL), 15)
    assert len({trial.student for trial in trials}) == 30 == len(agent.tried)
    again = plus(draws=64, distinct=False).search(environments(3, SMALL), 30)
    assert len({trial.student for trial in again}) < 30


def test_a_search_on_another_task_starts_anew() -> None:
    agent, other = plus(), Task("digits", "fgsm", SMALL.teacher, SMALL.budget)
    agent.search(environments(2, SMALL), 6)
    trials = agent.search(environments(2, other), 4)
    assert agent.tried == {trial.student for trial in trials}
    assert agent.memory()["task"] == other.to_dict()


def test_the_critic_chooses_by_its_optimistic_prediction() -> None:
    agent = plus(distinct=False, optimism=0.5)
    agent.search(environments(2), 8)
    critic = AccuracyCritic.from_list(agent.critic.to_list())
    seen = noted(agent)
    agent.search(environments(1), 1)
    (each,) = seen
    angles, deviation = critic.predict(each.students, attack_key(each.task))
    reference = critic.predict([teacher()], attack_key(each.task))[0][0]
    merit = predicted_rewards(angles + 0.5 * deviation, reference, each.students, each.task)
    assert each.chosen == np.where(each.over, -np.inf, merit).argmax()
    others = ~each.over & (np.arange(64) != each.chosen)
    assert each.values[others] == pytest.approx(predicted_rewards(angles, reference, each.students, each.task)[others])


def test_predicted_rewards_are_those_of_equation_4_within_the_budget() -> None:
    rng, own = np.random.default_rng(0), task(budget_share=10.0)
    (each,) = drawn(plus(draws=20), [own])
    accuracies = rng.random(20)
    for teacher_accuracy in (0.0, 0.4, 1.0):
        found = predicted_rewards(
            np.arcsin(np.sqrt(accuracies)), np.arcsin(np.sqrt(teacher_accuracy)), each.students, own
        )
        expected = [
            reward_terms(cost(student), cost(own.teacher), own.budget, accuracy, teacher_accuracy, 0.0).reward
            for student, accuracy in zip(each.students, accuracies, strict=True)
        ]
        assert found == pytest.approx(expected)


# -- learning --------------------------------------------------------------------------------------------


def test_thirty_evaluations_from_scratch_beat_sixty_at_random() -> None:
    """Best reward, mean of three seeds: 0.51 against 0.21."""
    ours = mean(max(each.reward for each in plus(seed).search(environments(1), 30)) for seed in range(3))
    theirs = mean(
        max(each.reward for each in RandomSearch(task(), seed).search(environments(1), 60)) for seed in range(3)
    )
    assert ours > theirs + 0.1


# -- checkpoints -----------------------------------------------------------------------------------------


def meta() -> Any:
    return environments(2, [task("fgsm"), task("pgd-20", budget_share=0.3)], steps=3)


def test_meta_training_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    whole, part = plus(seed=5), plus(seed=5)
    reports = whole.learn(meta(), 4)
    part.learn(meta(), 2)
    save_checkpoint(part, tmp_path / "agent")
    resumed, _ = load_checkpoint(tmp_path / "agent")
    assert isinstance(resumed, VPGPlus) and resumed.config == part.config
    assert_equal_agents(resumed, part)
    assert resumed.learn(meta(), 2) == reports[2:]
    assert_equal_agents(resumed, whole)


def test_a_search_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    whole = plus(seed=6)
    whole.learn(meta(), 1)
    whole.search(environments(2, SMALL), 6)
    save_checkpoint(whole, tmp_path / "agent")
    resumed, _ = load_checkpoint(tmp_path / "agent")
    assert isinstance(resumed, VPGPlus) and len(resumed.tried) == 6
    assert_equal_agents(resumed, whole)
    trials = whole.search(environments(2, SMALL), 6)
    assert resumed.search(environments(2, SMALL), 6) == trials
    assert resumed.incumbent(trials) == whole.incumbent(trials)
    assert_equal_agents(resumed, whole)


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no critic": (lambda memory: memory.pop("critic"), "missing 'critic'"),
    "unknown part": (lambda memory: memory.update(mood="good"), "unknown 'mood'"),
    "bad critic": (lambda memory: memory.update(critic=[]), "critic must be"),
    "bad accuracy": (lambda memory: memory["critic"][3][0].__setitem__(2, [2.0]), "accuracy must .*got 2.0"),
    "bad points": (lambda memory: memory["critic"].__setitem__(3, 5), "does not hold an agent"),
    "tried no list": (lambda memory: memory.update(tried=5), "does not hold an agent"),
    "tried no network": (lambda memory: memory.update(tried=[{}]), "network must have the fields"),
    "bad task": (lambda memory: memory["task"].update(attack="sneeze"), "unknown attack 'sneeze'"),
    "task no object": (lambda memory: memory.update(task="half"), "task must be an object"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("checkpoint") / "agent"
    agent = plus()
    agent.search(environments(2), 4)
    save_checkpoint(agent, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def load_changed(files: dict[str, bytes], folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Load the checkpoint of `files` with its settings changed."""
    content = json.loads(files["agent.json"])
    change(content)
    (folder / "weights.safetensors").write_bytes(files["weights.safetensors"])
    (folder / "agent.json").write_text(json.dumps(content), encoding="utf-8")
    load_checkpoint(folder)


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_memory_is_told_by_what_it_is(intact: dict[str, bytes], tmp_path: Path, case: str) -> None:
    change, message = MALFORMED[case]
    with pytest.raises(CheckpointError, match=message):
        load_changed(intact, tmp_path, lambda content: change(content["memory"]))


def test_without_a_memory_there_is_no_agent(intact: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="memory must be an object .*got None"):
        load_changed(intact, tmp_path, lambda content: content.update(memory=None))


@pytest.mark.parametrize("masked", [False, True])
def test_it_takes_the_reward_s_weight_from_the_environments_behind_any_wrapper(masked: bool) -> None:
    envs: Any = environments(1, compression_emphasis=0.0)
    agent = plus()
    agent.search(MaskedVectorState(envs, ("cost",)) if masked else envs, 1)
    assert agent._emphasis == 0.0
