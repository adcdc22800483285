"""Eq. 14: the length of a neuron's mean gradient under attack, which Lemma 3.1 calls gradient movement ΔL.

    ΔL_i = ‖E_{x,y,ρ}[−y l′ 1[⟨w_i, x + δ⟩ + ρ_i ≥ b] (x + δ)]‖_2

With data and attack that are odd, the half that Eq. 14 leaves out of Eq. 11 has the same mean: the gradient of the
adversarial loss in w_i is twice this vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from experiments.theory.compression import Zeros
from experiments.theory.perturbation import fast_gradient
from experiments.theory.sparse_coding import Array
from experiments.theory.symmetric_network import SymmetricNetwork


@dataclass(frozen=True)
class Probe:
    """Samples that gradient movements are measured on: inputs (n, D), labels (n,), noise ρ (n, N or more)."""

    inputs: Array
    labels: Array
    smoothing: Array


def gradient_movement(network: SymmetricNetwork, probe: Probe, radius: float, zeros: Zeros | None = None) -> Array:
    """ΔL_i of each neuron, (N,), at the network's weights against the one-step attack of radius τ.

    The square of a mean's length is too large by the variance of the mean, which here can be as large as what is
    measured; the estimate leaves that out: (‖Σ_s a_s‖² − Σ_s ‖a_s‖²) / (n (n − 1)), and 0 where that is negative.

    Args:
        network: at some iteration t.
        probe: n samples; the first N columns of its noise are used.
        radius: τ.
        zeros: leaves out the parts of the gradient along weights that are held at zero; Eq. 14 itself if not given.

    Returns:
        ΔL_i ≥ 0.
    """
    noise = probe.smoothing[:, : network.neurons]
    shifted = probe.inputs + fast_gradient(network, probe.inputs, probe.labels, noise, radius)
    pull = -probe.labels * expit(-probe.labels * network.output(shifted, noise))
    active = (shifted @ network.weights.T + noise >= network.bias) * pull[:, None]
    # in float64: the difference of two nearly equal sums follows
    vectors = (shifted if zeros is None else zeros.coordinates(shifted)).astype(np.float64)
    return _length_of_mean(active.astype(np.float64), vectors, None if zeros is None else zeros.free)


def _length_of_mean(factors: Array, vectors: Array, free: Array | None) -> Array:
    """‖E[a_i x]‖ for each column i of factors (n, N), and vectors x (n, D), the entries that are free."""
    n = len(vectors)
    total = factors.T @ vectors
    if free is None:
        squares = (factors**2).T @ (vectors**2).sum(axis=1)
    else:
        squares = ((factors**2).T @ vectors**2 * free).sum(axis=1)
        total = total * free
    unbiased = ((total**2).sum(axis=1) - squares) / (n * (n - 1))
    return np.sqrt(np.maximum(unbiased, 0.0))
