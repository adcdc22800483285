"""Clean and adversarial training of several networks on the same stream of samples and of smoothing noise.

    w_i ← w_i − η (∇_{w_i} mean log(1 + exp(−y f(x + δ, ρ))) + λ (1 + ‖w_i‖) w_i),   δ = 0 in clean training

Networks that see the same samples differ by their size alone: differences of one seed are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from experiments.theory.compression import Subnetwork
from experiments.theory.perturbation import fast_gradient
from experiments.theory.settings import TheorySettings
from experiments.theory.sparse_coding import Array, SparseCoding
from experiments.theory.symmetric_network import SymmetricNetwork

Subnetworks = dict[str, Subnetwork]
"""By name."""


def step(sub: Subnetwork, inputs: Array, labels: Array, smoothing: Array, rate: float, decay: float) -> Subnetwork:
    """One step of size η = `rate` on a batch: inputs (n, D), labels (n,), noise (n, N), λ = `decay`.

    Weights held at zero stay there.
    """
    network = sub.network
    gradient = network.gradient(inputs, labels, smoothing)
    lengths = np.linalg.norm(network.weights, axis=1, keepdims=True)
    gradient = gradient + decay * (1 + lengths) * network.weights
    moved = network.weights - rate * gradient
    weights = moved if sub.zeros is None else sub.zeros.project(moved)
    return Subnetwork(SymmetricNetwork(weights, network.bias, network.smoothing), sub.zeros)


def draws(task: SparseCoding, settings: TheorySettings, n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Draw n samples and their noise for the full network: inputs (n, D), labels (n,), ρ (n, N)."""
    inputs, labels = task.sample(n, rng)
    noise = np.float32(settings.smoothing) * rng.standard_normal((n, settings.neurons), dtype=np.float32)
    return inputs, labels, noise


def train_cleanly(
    subs: Mapping[str, Subnetwork], task: SparseCoding, settings: TheorySettings, rng: np.random.Generator
) -> Subnetworks:
    """T steps of clean training while the bias grows; a network of n neurons takes the first n columns of ρ."""
    trained = dict(subs)
    for t in range(settings.clean_steps):
        inputs, labels, noise = draws(task, settings, settings.batch, rng)
        for name, sub in trained.items():
            network = SymmetricNetwork(sub.network.weights, settings.bias(t), sub.network.smoothing)
            mine = noise[:, : network.neurons]
            now = Subnetwork(network, sub.zeros)
            trained[name] = step(now, inputs, labels, mine, settings.learning_rate, settings.decay)
    return {
        name: Subnetwork(SymmetricNetwork(sub.network.weights, settings.bias_end, sub.network.smoothing), sub.zeros)
        for name, sub in trained.items()
    }


def train_adversarially(
    subs: Mapping[str, Subnetwork],
    task: SparseCoding,
    settings: TheorySettings,
    rng: np.random.Generator,
    watch: Callable[[int, Subnetworks], None],
) -> Subnetworks:
    """T' steps against the one-step attack of radius τ on each network; the bias stays as it is.

    `watch` is called before the first step with 0, and after each step with its number, and the networks then.
    """
    trained = dict(subs)
    watch(0, trained)
    for t in range(settings.adversarial_steps):
        inputs, labels, noise = draws(task, settings, settings.batch, rng)
        for name, sub in trained.items():
            mine = noise[:, : sub.network.neurons]
            delta = fast_gradient(sub.network, inputs, labels, mine, settings.radius)
            rate, decay = settings.adversarial_rate, settings.decay
            trained[name] = step(sub, inputs + delta, labels, mine, rate, decay)
        watch(t + 1, trained)
    return trained
