"""The network of section 3.4 (Eq. 6): two layers, symmetric, ReLU smoothed by noise; its loss and gradients.

    f(x, ρ) = Σ_i ReLU(⟨w_i, x⟩ + ρ_i − b) − ReLU(−⟨w_i, x⟩ + ρ_i − b),   ρ_i ~ N(0, σ_ρ²)

Each neuron's ρ_i is the same in its two halves: f(−x, ρ) = −f(x, ρ) for any ρ. What is attacked and tested is the mean
over ρ, which has a closed form and a slope everywhere, so that no attack fails for want of a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from experiments.theory.sparse_coding import Array
from rcnas_env.validation import require_number


@dataclass(frozen=True)
class SymmetricNetwork:
    """Weights w_i as rows, (N, D); the bias b of all neurons; σ_ρ, 0 for the ReLU itself.

    Raises:
        ValueError: the weights are no matrix, or a number is out of range.
    """

    weights: Array
    bias: float
    smoothing: float

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or 0 in self.weights.shape:
            raise ValueError(f"weights must be of shape (N, D), got {self.weights.shape}")
        require_number("bias", self.bias)
        require_number("smoothing", self.smoothing, minimum=0.0)

    @property
    def neurons(self) -> int:
        """N."""
        return len(self.weights)

    def output(self, inputs: Array, smoothing: Array) -> Array:
        """f(x, ρ), (n,), of inputs (n, D) and their noise ρ, (n, N)."""
        sums = inputs @ self.weights.T
        above = np.maximum(sums + smoothing - self.bias, 0.0)
        return np.asarray((above - np.maximum(smoothing - sums - self.bias, 0.0)).sum(axis=1))

    def slopes(self, inputs: Array, smoothing: Array) -> Array:
        """1[⟨w_i, x⟩ + ρ_i ≥ b] + 1[−⟨w_i, x⟩ + ρ_i ≥ b] (Eq. 11), (n, N): the slope of neuron i in ⟨w_i, x⟩."""
        sums = inputs @ self.weights.T
        above = (sums + smoothing >= self.bias).astype(self.weights.dtype)
        return np.asarray(above + (smoothing - sums >= self.bias))

    def gradient(self, inputs: Array, labels: Array, smoothing: Array) -> Array:
        """Gradient of the mean of log(1 + exp(−y f(x, ρ))) in the weights (Eq. 11 to 13), (N, D).

        −y l′ (1[…] + 1[…]) x, averaged, with l′ = 1 / (1 + exp(y f)).
        """
        pull = labels * expit(-labels * self.output(inputs, smoothing))
        return np.asarray(-(self.slopes(inputs, smoothing) * pull[:, None]).T @ inputs / len(inputs))

    def expected_output(self, inputs: Array) -> Array:
        """E_ρ f(x, ρ), (n,): with u = (s − b)/σ_ρ, E ReLU(s + ρ − b) = σ_ρ (u Φ(u) + φ(u))."""
        sums = inputs @ self.weights.T
        return np.asarray((self._smooth_relu(sums) - self._smooth_relu(-sums)).sum(axis=1))

    def input_gradient(self, inputs: Array) -> Array:
        """Gradient of E_ρ f in x, (n, D): Σ_i (Φ((s_i − b)/σ_ρ) + Φ((−s_i − b)/σ_ρ)) w_i."""
        sums = inputs @ self.weights.T
        return np.asarray((self._chance(sums) + self._chance(-sums)) @ self.weights)

    def _smooth_relu(self, sums: Array) -> Array:
        if self.smoothing == 0:
            return np.asarray(np.maximum(sums - self.bias, 0.0))
        ratio = (sums - self.bias) / self.smoothing
        density = np.exp(-0.5 * ratio**2) / np.sqrt(2 * np.pi).astype(sums.dtype)
        return np.asarray(self.smoothing * (ratio * ndtr(ratio) + density))

    def _chance(self, sums: Array) -> Array:
        """P(s + ρ ≥ b)."""
        if self.smoothing == 0:
            return np.asarray(sums >= self.bias, dtype=sums.dtype)
        return np.asarray(ndtr((sums - self.bias) / self.smoothing))
