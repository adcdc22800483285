"""The hybrid distribution against torch.distributions, and the policy against Eq. 3."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from agents.policy import LOG_STD_RANGE, HybridDistribution, HybridPolicy, to_action
from rcnas_env.compression import action_space

SHAPE = (5, 3, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distribution(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> HybridDistribution:
    draws = generator(1)
    mean, log_std, logits = (torch.randn(shape, generator=draws, dtype=dtype) for _ in range(3))
    return HybridDistribution(mean, 0.5 * log_std, 1.5 * logits)


def reference(of: HybridDistribution) -> tuple[Normal, Bernoulli]:
    return Normal(of.mean, of.log_std.exp()), Bernoulli(logits=of.logits)


def sample(of: HybridDistribution, seed: int = 0) -> tuple[Tensor, Tensor]:
    alpha, beta = of.sample(generator(seed))
    return alpha.to(of.mean.dtype), beta.to(of.mean.dtype)


def test_log_prob_is_that_of_a_normal_and_a_bernoulli() -> None:
    found = distribution()
    alpha, beta = sample(found)
    normal, bernoulli = reference(found)
    expected = (normal.log_prob(alpha) + bernoulli.log_prob(beta)).sum(dim=(1, 2))
    torch.testing.assert_close(found.log_prob(alpha, beta), expected, rtol=1e-10, atol=1e-10)


def test_the_density_is_equation_5_to_the_letter() -> None:
    """A two-dimensional normal's and a pair of coins' densities a stage, added."""
    found = distribution()
    alpha, beta = sample(found)
    expected = torch.zeros(SHAPE[0], dtype=torch.float64)
    for i in range(SHAPE[1]):
        covariance = torch.diag_embed((2 * found.log_std[:, i]).exp())
        gaussian = MultivariateNormal(found.mean[:, i], covariance).log_prob(alpha[:, i]).exp()
        chances = torch.sigmoid(found.logits[:, i])
        expected += gaussian + torch.where(beta[:, i] == 1, chances, 1 - chances).prod(dim=1)
    torch.testing.assert_close(found.density(alpha, beta), expected, rtol=1e-10, atol=1e-12)


def test_log_prob_of_one_action_by_hand() -> None:
    one = HybridDistribution(torch.tensor([[[1.0]]]), torch.tensor([[[math.log(2)]]]), torch.tensor([[[math.log(3)]]]))
    found = one.log_prob(torch.tensor([[[5.0]]]), torch.tensor([[[0.0]]]))
    assert found.item() == pytest.approx(-2 - math.log(2 * math.sqrt(2 * math.pi)) + math.log(0.25), rel=1e-6)


def test_log_prob_stays_finite_at_extreme_odds() -> None:
    extreme = HybridDistribution(torch.zeros(SHAPE), torch.zeros(SHAPE), torch.full(SHAPE, 200.0))
    assert extreme.log_prob(torch.zeros(SHAPE), torch.zeros(SHAPE)).isfinite().all()
    assert extreme.entropy().isfinite().all()


def test_entropy_is_that_of_a_normal_and_a_bernoulli() -> None:
    found = distribution()
    normal, bernoulli = reference(found)
    expected = (normal.entropy() + bernoulli.entropy()).sum(dim=(1, 2))
    torch.testing.assert_close(found.entropy(), expected, rtol=1e-10, atol=1e-10)


def scalar(log_prob: bool) -> Callable[[Tensor], Tensor]:
    """log π of fixed actions, or the entropy, as a function of (mean, log_std, logits) stacked."""
    alpha, beta = sample(distribution((2, 3, 2)))

    def function(stacked: Tensor) -> Tensor:
        found = HybridDistribution(*stacked)
        return (found.log_prob(alpha, beta) if log_prob else found.entropy()).sum()

    return function


@pytest.mark.parametrize("log_prob", [True, False], ids=["log_prob", "entropy"])
def test_gradients_agree_with_finite_differences(log_prob: bool) -> None:
    function, start = scalar(log_prob), distribution((2, 3, 2))
    stacked = torch.stack([start.mean, start.log_std, start.logits]).requires_grad_()
    (gradient,) = torch.autograd.grad(function(stacked), stacked)
    step, flat = 1e-5, stacked.detach().flatten()
    differences = torch.zeros_like(flat)
    for index in range(len(flat)):
        values = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[index] += sign * step
            values.append(function(moved.view_as(stacked)))
        differences[index] = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(gradient.flatten(), differences, rtol=1e-6, atol=1e-8)
    assert (gradient[2].abs() > 0).all()


def test_sampling_has_the_stated_mean_deviation_and_odds() -> None:
    """Within five standard errors at 20,000 draws of each of the entries."""
    n, one = 20_000, distribution((1, 3, 2))
    many = HybridDistribution(*(value.expand(n, 3, 2) for value in (one.mean, one.log_std, one.logits)))
    alpha, beta = sample(many)
    std, odds = one.log_std[0].exp(), torch.sigmoid(one.logits[0])
    assert ((alpha.mean(0) - one.mean[0]).abs() < 5 * std / math.sqrt(n)).all()
    assert ((alpha.std(0) - std).abs() < 5 * std / math.sqrt(2 * n)).all()
    assert ((beta.mean(0) - odds).abs() < 5 * (odds * (1 - odds) / n).sqrt()).all()
    assert set(beta.unique().tolist()) == {0.0, 1.0}
    entries = torch.cat([alpha.flatten(1), beta.flatten(1)], dim=1)
    correlations = torch.corrcoef(entries.T) - torch.eye(12, dtype=entries.dtype)
    assert correlations.abs().max() < 5 / math.sqrt(n)


def test_samples_are_the_generators_and_leave_the_global_stream_alone() -> None:
    state, found = torch.get_rng_state(), distribution()
    first, again, other = (found.sample(generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
    assert not first[0].requires_grad


def test_the_mode_is_the_likeliest_action() -> None:
    found = distribution()
    alpha, beta = (value.double() for value in found.mode())
    best = found.log_prob(alpha, beta)
    for seed in range(20):
        other = sample(found, seed)
        assert (found.log_prob(*other) <= best).all()
    flipped = beta.clone()
    flipped[:, 1, 0] = 1 - flipped[:, 1, 0]
    assert (found.log_prob(alpha, flipped) < best).all()


def test_actions_are_in_the_environments_space() -> None:
    wild = HybridDistribution(torch.zeros(50, 3, 2), torch.full((50, 3, 2), 3.0), torch.zeros(50, 3, 2))
    alpha, beta = wild.sample(generator())
    actions = to_action(alpha, beta)
    space = action_space()
    assert all(space.contains({part: value[i] for part, value in actions.items()}) for i in range(50))
    np.testing.assert_allclose(actions["keep"], 1 / (1 + np.exp(-alpha.double().numpy())), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(actions["switch"], beta.numpy())


def states(count: int = 200, size: int = 8, seed: int = 3) -> Tensor:
    return torch.randn(count, 3, size, generator=generator(seed))


def test_the_policy_is_equation_3() -> None:
    policy, inputs = HybridPolicy(8, hidden=6), states(4)
    found = policy(inputs)
    for i in range(3):
        shared = policy.trunk(inputs[:, i])
        gaussian, bernoulli = policy.gaussian[i](shared), policy.bernoulli[i](shared)
        torch.testing.assert_close(found.mean[:, i], gaussian[:, :2])
        torch.testing.assert_close(found.log_std[:, i], gaussian[:, 2:])
        torch.testing.assert_close(found.logits[:, i], bernoulli)


def test_stages_have_heads_of_their_own() -> None:
    policy, inputs = HybridPolicy(8), states(2)
    same = inputs[:, :1].expand(-1, 3, -1)
    found = policy(same)
    for part in (found.mean, found.log_std, found.logits):
        assert not torch.allclose(part[:, 0], part[:, 1]) and not torch.allclose(part[:, 1], part[:, 2])
    with torch.no_grad():
        policy.gaussian[1].weight += 1.0  # type: ignore[operator]
    changed = policy(same)
    moved = (changed.mean - found.mean).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False, True, False]
    assert torch.equal(changed.logits, found.logits)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("part", ["mean", "log_std", "logits"])
def test_both_heads_of_every_stage_update_the_shared_trunk(stage: int, part: str) -> None:
    policy = HybridPolicy(8)
    getattr(policy(states(4)), part)[:, stage].sum().backward()
    trunk = [parameter.grad for parameter in policy.trunk.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trunk)
    heads = {name: p.grad for name, p in policy.named_parameters() if not name.startswith("trunk")}
    chosen = "bernoulli" if part == "logits" else "gaussian"
    touched = {name for name, gradient in heads.items() if gradient is not None and gradient.abs().sum() > 0}
    assert touched == {f"{chosen}.{stage}.weight", f"{chosen}.{stage}.bias"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_new_policy_keeps_about_half_and_tosses_fair_coins(seed: int) -> None:
    found = HybridPolicy(8, seed=seed)(states(2_000))
    actions = to_action(*found.sample(generator(seed)))
    assert abs(actions["keep"].mean(axis=0) - 0.5).max() < 0.06
    assert abs(actions["switch"].mean(axis=0) - 0.5).max() < 0.06
    assert actions["keep"].std() > 0.15


@pytest.mark.parametrize("initial_std", [0.3, 1.0, 2.0])
def test_a_new_policys_deviation_is_as_set(initial_std: float) -> None:
    found = HybridPolicy(8, initial_std=initial_std)(states())
    assert found.log_std.exp().median().item() == pytest.approx(initial_std, rel=0.1)


def test_the_deviation_is_bounded() -> None:
    policy = HybridPolicy(8)
    for bias, bound in ((-50.0, LOG_STD_RANGE[0]), (50.0, LOG_STD_RANGE[1])):
        with torch.no_grad():
            for head in policy.gaussian:
                head.bias[2:] = bias  # type: ignore[operator,index]
        assert (policy(states(2)).log_std == bound).all()


def test_initial_weights_are_the_seeds_and_leave_the_global_stream_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (HybridPolicy(8, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["trunk.0.weight"], other["trunk.0.weight"])
