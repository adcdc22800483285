"""Small tasks, networks and batches in float64 that the tests of the theory check share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from experiments.theory.sparse_coding import Array, SparseCoding
from experiments.theory.symmetric_network import SymmetricNetwork

TAU = 0.2
"""Radius of the attacks."""


def task(seed: int = 0, dimension: int = 12, sparsity: int = 3, noise: float = 0.1) -> SparseCoding:
    drawn = SparseCoding.draw(dimension, sparsity, noise, np.random.default_rng(seed))
    return replace(drawn, dictionary=drawn.dictionary.astype(np.float64), target=drawn.target.astype(np.float64))


def network(seed: int = 1, neurons: int = 7, dimension: int = 12, **changed: float) -> SymmetricNetwork:
    """Float64, for finite differences; about half of the neurons are active."""
    weights = 0.6 * np.random.default_rng(seed).standard_normal((neurons, dimension))
    return SymmetricNetwork(weights, **{"bias": 0.2, "smoothing": 0.3, **changed})


def batch(n: int, net: SymmetricNetwork, seed: int = 2) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    inputs, labels = task().sample(n, rng)
    noise = net.smoothing * rng.standard_normal((n, net.neurons))
    return inputs.astype(np.float64), labels.astype(np.float64), noise


def torch_loss(weights: torch.Tensor, net: SymmetricNetwork, *sample: Array) -> torch.Tensor:
    """Eq. 6 and 12 in torch."""
    inputs, labels, noise = (torch.from_numpy(each) for each in sample)
    sums = inputs @ weights.T
    output = (torch.relu(sums + noise - net.bias) - torch.relu(-sums + noise - net.bias)).sum(1)
    return torch.nn.functional.softplus(-labels * output).mean()
