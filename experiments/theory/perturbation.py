"""l2 perturbations of radius τ: the one-step attack of adversarial training, and the attacks of the test."""

from __future__ import annotations

import numpy as np

from experiments.theory.sparse_coding import Array, SparseCoding
from experiments.theory.symmetric_network import SymmetricNetwork
from rcnas_env.validation import require_integer, require_number

TINY = 1e-12
"""Added to no gradient, only the least length that one is divided by: a gradient of 0 gives δ = 0."""


def fast_gradient(network: SymmetricNetwork, inputs: Array, labels: Array, smoothing: Array, radius: float) -> Array:
    """δ = −τ y ∇_x f / ‖∇_x f‖ at the drawn ρ, (n, D): the worst δ where f is linear within τ (the FGM of
    Allen-Zhu and Li, and Eq. 14's δ here).

    It is odd as f is: (−x, −y) gets −δ, since the slopes of x and −x are the same.
    """
    return _unit(network.slopes(inputs, smoothing) @ network.weights) * (-radius * labels[:, None])


def worst_margin(
    network: SymmetricNetwork, task: SparseCoding, inputs: Array, labels: Array, radius: float, steps: int
) -> Array:
    """The least margin y E_ρ f(x + δ) found within ‖δ‖ ≤ τ, (n,); above 0: no attack tried changed the answer.

    Tried: δ = 0; δ = −τ y M w*/‖w*‖, along the dense mixture; and each iterate of `steps` steps of projected gradient
    descent on the margin, of length 2.5 τ/steps, from δ = 0. An upper bound of the true least margin.

    Args:
        network: N neurons on D inputs.
        task: whose w* and M the dense direction is made of.
        inputs: (n, D).
        labels: (n,), −1 or 1.
        radius: τ, at least 0.
        steps: at least 1.

    Raises:
        ValueError: radius or steps out of range.
    """
    require_number("radius", radius, minimum=0.0)
    require_integer("steps", steps, 1)
    margins = labels * network.expected_output(inputs)
    dense = -radius * labels[:, None] * task.mixture_direction
    margins = np.minimum(margins, labels * network.expected_output(inputs + dense))
    delta = np.zeros_like(inputs)
    for _ in range(steps):
        delta = delta - (2.5 * radius / steps) * labels[:, None] * _unit(network.input_gradient(inputs + delta))
        lengths = np.linalg.norm(delta, axis=1, keepdims=True)
        delta = delta * np.minimum(1.0, radius / np.maximum(lengths, TINY))
        margins = np.minimum(margins, labels * network.expected_output(inputs + delta))
    return margins


def _unit(gradients: Array) -> Array:
    return np.asarray(gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), TINY))
