"""The theory check's data, network and attacks against closed forms, autograd and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.theory.perturbation import fast_gradient, worst_margin
from experiments.theory.sparse_coding import TARGET_RANGE, SparseCoding
from tests.theory_samples import TAU, batch, network, task, torch_loss

# --- data -------------------------------------------------------------------------------------------------------------


def test_the_dictionary_is_orthonormal_and_the_target_in_range() -> None:
    drawn = SparseCoding.draw(40, 4, 0.1, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.dictionary.T @ drawn.dictionary, np.eye(40), atol=1e-5)
    sizes = np.abs(drawn.target)
    assert TARGET_RANGE[0] <= sizes.min() and sizes.max() <= TARGET_RANGE[1] and len(set(np.sign(drawn.target))) == 2
    assert np.linalg.norm(drawn.mixture_direction) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("dimension", "sparsity"), [(50, 4), (20, 1), (6, 6)])
def test_codes_have_the_stated_distribution(dimension: int, sparsity: int) -> None:
    n = 20_000
    codes = task(0, dimension, sparsity).codes(n, np.random.default_rng(3))
    small = np.float32(sparsity**-0.5)
    assert set(np.unique(np.abs(codes))) <= {np.float32(0), small, np.float32(1)}

    def within(found: float, chance: float, spread: float) -> None:
        assert abs(found - chance) < 5 * spread / math.sqrt(codes.size)

    share, one = sparsity / dimension, 1 / dimension
    within(float((codes != 0).mean()), share, math.sqrt(share * (1 - share)) + 1e-9)
    within(float((np.abs(codes) == 1).mean()), one, math.sqrt(one * (1 - one)))
    second = (2 - 1 / sparsity) / dimension
    within(float(codes.mean()), 0, math.sqrt(second))
    within(float((codes.astype(np.float64) ** 2).mean()), second, math.sqrt(second))
    covariance = np.cov(codes.T) - second * np.eye(dimension)
    assert np.abs(covariance).max() < 6 / math.sqrt(n)  # entries are independent, at most 1


def test_inputs_are_dictionary_times_code_and_labels_the_sign_of_the_target() -> None:
    clean = replace(task(noise=0.0), noise=0.0)
    inputs, labels = clean.sample(3000, np.random.default_rng(4))
    codes = inputs @ clean.dictionary
    assert set(np.unique(labels)) == {-1, 1}
    some = np.abs(codes).max(axis=1) > 1e-6
    assert 0 < (~some).mean() < 3 * (1 - 3 / 12) ** 12
    np.testing.assert_array_equal(labels[some], np.sign(codes @ clean.target)[some])
    assert abs(labels[~some].mean()) < 5 / math.sqrt((~some).sum())


def test_noise_adds_its_variance_to_each_direction() -> None:
    noisy = task(noise=0.5)
    inputs, _ = noisy.sample(20_000, np.random.default_rng(5))
    second = ((inputs @ noisy.dictionary) ** 2).mean(axis=0)
    np.testing.assert_allclose(second, (2 - 1 / 3) / 12 + 0.25, rtol=0.08)


# --- network ----------------------------------------------------------------------------------------------------------


def test_the_output_is_equation_6() -> None:
    net = network()
    inputs, _, noise = batch(20, net)
    expected = [
        sum(
            max(w @ x + r - net.bias, 0) - max(-(w @ x) + r - net.bias, 0)
            for w, r in zip(net.weights, rho, strict=True)
        )
        for x, rho in zip(inputs, noise, strict=True)
    ]
    np.testing.assert_allclose(net.output(inputs, noise), expected)


def test_the_network_is_odd_for_any_noise() -> None:
    net = network()
    inputs, _, noise = batch(50, net)
    np.testing.assert_allclose(net.output(-inputs, noise), -net.output(inputs, noise))
    np.testing.assert_allclose(net.expected_output(-inputs), -net.expected_output(inputs))
    assert np.abs(net.output(inputs, noise)).max() > 0.1


def test_the_gradient_in_the_weights_is_autograds() -> None:
    net = network()
    sample = batch(60, net)
    weights = torch.from_numpy(net.weights).requires_grad_()
    torch_loss(weights, net, *sample).backward()
    np.testing.assert_allclose(net.gradient(*sample), weights.grad, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.3, 0.05, 0.0])
def test_the_mean_over_the_noise_is_an_integral(smoothing: float) -> None:
    net = network(smoothing=smoothing)
    inputs, _, _ = batch(10, net)
    grid = np.linspace(-8, 8, 8001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    values = np.stack([net.output(inputs, np.full((10, 7), smoothing * each)) for each in grid], axis=1)
    mean = np.trapezoid(values * density, grid, axis=1)  # the same ρ for all neurons: the mean of a sum
    np.testing.assert_allclose(net.expected_output(inputs), mean, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.3, 0.0])
def test_the_gradient_in_the_inputs_by_finite_differences(smoothing: float) -> None:
    net, width = network(smoothing=smoothing), 1e-6
    inputs, _, _ = batch(10, net)
    found = net.input_gradient(inputs)
    for j, unit in enumerate(np.eye(12)):
        ahead, behind = (net.expected_output(inputs + sign * width * unit) for sign in (1, -1))
        np.testing.assert_allclose(found[:, j], (ahead - behind) / (2 * width), atol=1e-6)


# --- attacks ----------------------------------------------------------------------------------------------------------


def test_the_one_step_attack_is_odd_and_as_long_as_allowed() -> None:
    net = network()
    inputs, labels, noise = batch(50, net)
    delta = fast_gradient(net, inputs, labels, noise, TAU)
    active = net.slopes(inputs, noise).any(axis=1)
    np.testing.assert_allclose(np.linalg.norm(delta, axis=1), np.where(active, TAU, 0), atol=1e-12)
    np.testing.assert_allclose(fast_gradient(net, -inputs, -labels, noise, TAU), -delta)


def test_attacks_are_exact_where_the_network_is_linear() -> None:
    net = network(bias=-100.0)  # all neurons active: f = 2 Σ ⟨w_i, x⟩
    inputs, labels, noise = batch(30, net)
    slope = 2 * net.weights.sum(axis=0)
    least = labels * (inputs @ slope) - TAU * np.linalg.norm(slope)
    delta = fast_gradient(net, inputs, labels, noise, TAU)
    np.testing.assert_allclose(labels * net.output(inputs + delta, noise), least)
    np.testing.assert_allclose(worst_margin(net, task(), inputs, labels, TAU, 5), least, atol=1e-9)


def test_the_attack_on_one_neuron_is_exact() -> None:
    net = network(neurons=1)
    inputs, labels, _ = batch(30, net)
    shifted = inputs - TAU * labels[:, None] * net.weights / np.linalg.norm(net.weights)
    least = labels * net.expected_output(shifted)  # f grows with ⟨w, x⟩, so the worst δ is along w
    np.testing.assert_allclose(worst_margin(net, task(), inputs, labels, TAU, 5), least, atol=1e-9)


def test_no_attack_is_worse_than_the_dense_direction_or_none() -> None:
    net, data = network(), task()
    inputs, labels, _ = batch(100, net)
    found = worst_margin(net, data, inputs, labels, TAU, 3)
    dense = inputs - TAU * labels[:, None] * data.mixture_direction
    assert (found <= labels * net.expected_output(inputs)).all()
    assert (found <= labels * net.expected_output(dense)).all()
    np.testing.assert_allclose(worst_margin(net, data, inputs, labels, 0.0, 3), labels * net.expected_output(inputs))
