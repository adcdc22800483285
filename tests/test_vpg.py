"""The gradient step against Eq. 5 computed by hand, and what an iteration is made of."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from agents.trial import Trial
from agents.vpg import VPG, Experience, VPGConfig
from tests.landscape import encoder, environments, task

UNCLIPPED = 1e9


def vpg(seed: int = 0, **config: object) -> VPG:
    return VPG(encoder(), VPGConfig(**config), seed)  # type: ignore[arg-type]


def experience(agent: VPG, num_envs: int = 4, seed: int = 0) -> Experience:
    """Random states, actions of the policy in them, random rewards of both signs."""
    draws = torch.Generator().manual_seed(seed)
    states = torch.randn(num_envs, 3, agent.encoder.state, generator=draws)
    with torch.no_grad():
        alpha, beta = agent.policy(states).sample(draws)
    return Experience(states, alpha, beta, torch.randn(num_envs, generator=draws))


def ascent(policy: nn.Module, episode: Sequence[Experience], baselines: Sequence[float], bonus: float) -> list[Tensor]:
    """Σ_t (r_t − b_t) ∇ log π(a_t | s_t), mean over environments, one action at a time with torch.distributions."""
    total = [torch.zeros_like(parameter) for parameter in policy.parameters()]
    for step, baseline in zip(episode, baselines, strict=True):
        for i, reward in enumerate(step.rewards):
            found = policy(step.states[i : i + 1])
            normal, bernoulli = Normal(found.mean, found.log_std.exp()), Bernoulli(logits=found.logits)
            log_prob = normal.log_prob(step.alpha[i]).sum() + bernoulli.log_prob(step.beta[i]).sum()
            gain = (reward - baseline) * log_prob + bonus * (normal.entropy().sum() + bernoulli.entropy().sum())
            for sum_, gradient in zip(total, torch.autograd.grad(gain, list(policy.parameters())), strict=True):
                sum_ += gradient / len(step.rewards)
    return total


def assert_applied(agent: VPG, gradients: list[Tensor]) -> None:
    """The last update descended along −`gradients`."""
    for parameter, gradient in zip(agent.policy.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, -gradient, rtol=1e-4, atol=1e-5)
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("bonus", [0.0, 0.1])
def test_an_update_applies_equation_5(steps: int, bonus: float) -> None:
    agent = vpg(gradient_clip=UNCLIPPED, entropy_bonus=bonus)
    episode = [experience(agent, seed=step) for step in range(steps)]
    before = deepcopy(agent.policy)
    report = agent.update(episode)
    gradients = ascent(before, episode, [0.0] * steps, bonus)
    assert_applied(agent, gradients)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    assert report.gradient_norm == pytest.approx(norm, rel=1e-4)


def test_the_density_form_applies_equation_5_to_the_letter() -> None:
    """r_t ∇ (N(α_i | μ_i, Σ_i) + Ber(β_i | p_i)), stage by stage; the mean over environments."""
    agent = vpg(gradient_clip=UNCLIPPED, form="density", initial_std=0.5)
    step = experience(agent)
    before = deepcopy(agent.policy)
    found = before(step.states)
    normal, bernoulli = Normal(found.mean, found.log_std.exp()), Bernoulli(logits=found.logits)
    gaussian = normal.log_prob(step.alpha).exp().prod(dim=2)
    coins = bernoulli.log_prob(step.beta).exp().prod(dim=2)
    gain = (step.rewards * (gaussian + coins).sum(dim=1)).mean()
    agent.update([step])
    assert_applied(agent, list(torch.autograd.grad(gain, list(before.parameters()))))


def test_an_update_climbs_by_one_step_of_adam() -> None:
    agent = vpg(gradient_clip=UNCLIPPED, learning_rate=0.02)
    episode = [experience(agent)]
    expected = deepcopy(agent.policy)
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.02)
    for parameter, gradient in zip(expected.parameters(), ascent(expected, episode, [0.0], 0.0), strict=True):
        parameter.grad = -gradient
    optimizer.step()
    log_prob = agent.policy(episode[0].states).log_prob(episode[0].alpha, episode[0].beta).detach()
    agent.update(episode)
    for ours, theirs in zip(agent.policy.parameters(), expected.parameters(), strict=True):
        # Adam's first step is ±lr however small the gradient: rounding decides where it is all but 0
        clear = theirs.grad.abs() > 1e-5  # type: ignore[union-attr]
        torch.testing.assert_close(ours[clear], theirs[clear], rtol=1e-4, atol=1e-5)
    gained = agent.policy(episode[0].states).log_prob(episode[0].alpha, episode[0].beta).detach() - log_prob
    assert (gained * episode[0].rewards).sum() > 0


def test_the_running_baseline_is_the_mean_of_all_rewards_so_far() -> None:
    agent = vpg(gradient_clip=UNCLIPPED, baseline="running")
    seen: list[Tensor] = []
    for update in range(3):
        episode = [experience(agent, seed=10 * update + step) for step in range(2)]
        seen.extend(step.rewards for step in episode)
        mean = torch.cat(seen).mean().item()
        before = deepcopy(agent.policy)
        agent.update(episode)
        assert_applied(agent, ascent(before, episode, [mean, mean], 0.0))
    assert agent.reward_count == 24


def test_equal_rewards_above_the_running_baseline_still_count() -> None:
    """The baseline is no mean over the batch alone, which would cancel them."""
    agent = vpg(baseline="running")
    agent.reward_sum, agent.reward_count = -10.0, 10
    step = experience(agent)
    equal = Experience(step.states, step.alpha, step.beta, torch.ones_like(step.rewards))
    assert agent.update([equal]).gradient_norm > 0.1


def test_the_gradient_is_clipped_to_its_norm() -> None:
    agent = vpg(gradient_clip=0.5)
    episode = [experience(agent)]
    gradients = ascent(deepcopy(agent.policy), episode, [0.0], 0.0)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 1
    agent.update(episode)
    assert_applied(agent, [0.5 * gradient / norm for gradient in gradients])


def test_the_report_gives_the_policys_entropy_before_the_step() -> None:
    agent = vpg()
    step = experience(agent)
    expected = agent.policy(step.states).entropy().mean().item()
    assert agent.update([step]).entropy == pytest.approx(expected)


def updates_made(agent: VPG) -> int:
    return int(next(iter(agent.optimizer.state.values()))["step"])


@pytest.mark.parametrize(("update", "sizes"), [("step", [1] * 5), ("episode", [5])])
def test_updates_per_iteration(update: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """T gradient steps of one time step each, or one of all T."""
    agent, learnt = vpg(update=update), list[Sequence[Experience]]()
    real = agent.update
    monkeypatch.setattr(agent, "update", lambda episode: learnt.append(episode) or real(episode))
    report = agent.step(environments(2, steps=5))
    assert [len(episode) for episode in learnt] == sizes
    assert updates_made(agent) == len(sizes)
    rewards = torch.cat([step.rewards for episode in learnt for step in episode])
    assert rewards.tolist() == pytest.approx([trial.reward for trial in report.trials])
    assert len(report.trials) == agent.steps_taken == 10
    assert report.mean_reward == pytest.approx(rewards.mean().item())


def test_the_encoder_stays_frozen() -> None:
    agent = vpg()
    before = [value.clone() for value in agent.encoder.state_dict().values()]
    agent.learn(environments(2), 3)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.encoder.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in agent.encoder.parameters())


def iteration(number: int, seed: int = 0, disturbed: bool = False) -> tuple[Trial, ...]:
    """The trials of one iteration of an agent with the policy of seed 0."""
    agent, envs = vpg(seed=seed), environments(3, [task("fgsm"), task("cw-40")], steps=4)
    agent.policy.load_state_dict(vpg().policy.state_dict())
    agent.iteration = number
    if disturbed:
        envs.reset(seed=99)
        envs.step(envs.action_space.sample())
        agent.act({part: value[0] for part, value in envs.reset(seed=7)[0].items()}, torch.Generator())
    return agent.step(envs).trials


def test_an_iterations_randomness_derives_from_seed_and_iteration_alone() -> None:
    state = torch.get_rng_state()
    reference = iteration(5)
    assert iteration(5) == iteration(5, disturbed=True) == reference
    assert iteration(6) != reference
    assert iteration(5, seed=1) != reference
    assert torch.equal(torch.get_rng_state(), state)


def test_every_iteration_draws_other_actions_for_the_same_task() -> None:
    students = []
    for number in (5, 6):
        agent = vpg()
        agent.iteration = number
        students.append([trial.student for trial in agent.step(environments(4)).trials])
    assert all(a != b for a, b in zip(*students, strict=True))


def test_every_iteration_resets_with_a_seed_of_its_own_and_the_annealing_where_it_was() -> None:
    agent, envs = vpg(), environments(2, steps=3)
    seeds, annealing, reset = [], [], envs.reset

    def noted(**arguments: Any) -> Any:
        found = reset(**arguments)
        seeds.append(arguments["seed"])
        annealing.append(envs.envs[0].annealing)
        return found

    envs.reset = noted  # type: ignore[method-assign]
    for env in envs.envs:
        env.annealing_steps = 24
    agent.learn(envs, 4)
    assert len(set(seeds)) == 4
    assert annealing == [1.0, 0.75, 0.5, 0.25]


def test_act_is_the_mode_without_a_generator_and_a_draw_with_one() -> None:
    agent, envs = vpg(), environments(1)
    observation = {part: value[0] for part, value in envs.reset(seed=0)[0].items()}
    mode = agent.act(observation)
    assert all(np.array_equal(mode[part], agent.act(observation)[part]) for part in mode)
    assert envs.single_action_space.contains(mode)
    drawn = [agent.act(observation, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0]["keep"], drawn[1]["keep"])
    assert not np.array_equal(drawn[0]["keep"], drawn[2]["keep"])


@pytest.mark.parametrize(("evaluations", "num_envs"), [(1, 1), (5, 2), (4, 4), (3, 8)])
def test_a_search_reports_the_students_it_was_granted(evaluations: int, num_envs: int) -> None:
    agent, seen = vpg(), list[Trial]()
    trials = agent.search(environments(num_envs), evaluations, seen.append)
    assert len(trials) == evaluations and seen == trials


def test_experience_beyond_the_granted_evaluations_is_not_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, learnt = vpg(), list[Experience]()
    real = agent.update
    monkeypatch.setattr(agent, "update", lambda episode: learnt.extend(episode) or real(episode))
    report = agent.step(environments(5), evaluations=3)
    rewards = [trial.reward for trial in report.trials]
    assert [tuple(value.shape) for value in (learnt[0].states, learnt[0].alpha, learnt[0].beta)] == [
        (3, 3, agent.encoder.state), (3, 3, 2), (3, 3, 2)
    ]  # fmt: skip
    assert learnt[0].rewards.tolist() == pytest.approx(rewards) and len(rewards) == 3
    assert report.mean_reward == pytest.approx(np.mean(rewards))
    assert rewards == [trial.reward for trial in vpg().step(environments(5)).trials[:3]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0), ("learning_rate", float("nan")), ("update", "epoch"), ("baseline", "critic"),
        ("entropy_bonus", -0.1), ("gradient_clip", 0), ("hidden", 0), ("hidden", 2.5), ("initial_std", -1),
        ("initial_std", 4.0),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"vpg\.{field} must be .*got {value!r}"):
        VPGConfig(**{field: value})  # type: ignore[arg-type]


def test_a_seed_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        VPG(encoder(), seed=-1)
