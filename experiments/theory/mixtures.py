"""Eq. 7 measured: each weight split into pure feature and dense mixture, w_i = g_i + v_i.

The paper gives orders (g_i of size O(1) along "highly correlated" atoms, v_i of O(k/D) along all others), not a rule.
The rule here: atom M_j belongs to g_i where abs⟨w_i, M_j⟩ ≥ κ · max_l abs⟨w_i, M_l⟩. κ = 1 keeps the one largest atom
(strict). A verdict may depend on κ: give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.theory.sparse_coding import Array
from rcnas_env.validation import require_integer, require_number


@dataclass(frozen=True)
class Mixtures:
    """Pure features g_i and dense mixtures v_i, both (N, D), in the input's basis."""

    pure: Array
    dense: Array

    @property
    def norms(self) -> Array:
        """‖v_i‖_2, (N,)."""
        return np.asarray(np.linalg.norm(self.dense, axis=1))

    @property
    def dense_share(self) -> float:
        """Σ ‖v_i‖² / Σ ‖w_i‖², in [0, 1): what of the weights' energy is dense; free of the weights' scale."""
        dense, pure = float((self.dense**2).sum()), float((self.pure**2).sum())
        return dense / (dense + pure) if dense + pure > 0 else 0.0


def decompose(weights: Array, dictionary: Array, threshold: float) -> Mixtures:
    """Split the weights (N, D) by the atoms of the dictionary (D, D), orthonormal columns.

    g_i + v_i = w_i, v_i is orthogonal to each atom that g_i has, and ‖w_i‖² = ‖g_i‖² + ‖v_i‖².

    Args:
        weights: w_i as rows.
        dictionary: M_j as columns.
        threshold: κ in (0, 1].

    Raises:
        ValueError: the threshold is out of range, or the shapes do not fit.
    """
    require_number("threshold", threshold, minimum=0.0, maximum=1.0, exclusive_minimum=True)
    if weights.ndim != 2 or dictionary.shape != (weights.shape[1],) * 2:
        raise ValueError(f"dictionary must be (D, D) for weights of (N, D), got {dictionary.shape}, {weights.shape}")
    parts = weights @ dictionary
    sizes = np.abs(parts)
    chosen = sizes >= threshold * sizes.max(axis=1, keepdims=True)
    return Mixtures(np.where(chosen, parts, 0) @ dictionary.T, np.where(chosen, 0, parts) @ dictionary.T)


def expected_maximum(values: Array, count: int) -> float:
    """Mean of the largest of `count` of the values, drawn without replacement: the closed form of order statistics.

    Σ_r v_(r) C(r − 1, n − 1) / C(N, n), v_(1) ≤ … ≤ v_(N). What max_i ‖v_i‖ of a network would be with n of its N
    neurons as they are: a smaller maximum says nothing by itself where there is less to choose from.

    Args:
        values: (N,).
        count: n, from 1 to N.

    Raises:
        ValueError: count is out of range.
    """
    require_integer("count", count, 1, len(values))
    total, chance, size = 0.0, count / len(values), len(values)
    for rank, value in zip(range(size, count - 1, -1), np.sort(values)[::-1], strict=False):
        total += chance * float(value)  # chance: that the value of this rank is the largest drawn
        chance *= (rank - count) / (rank - 1) if rank > 1 else 0.0
    return total


def bound_without_constant(
    mixture: float, bias: float, dimension: int, sparsity: int, noise: float, radius: float
) -> float:
    """The right side of Eq. 20 without c and the O: what the paper bounds the gradient movement by.

    (k/D + r²/(D b²)) τ + √k/D + r²/(D b²) (√(k/D) + σ_x ln D) + r/(D b), with r = max_i ‖v_i‖ (the text's d read
    as D). N does not occur in it: to be smaller for fewer neurons, it needs a smaller r or the assumed c.
    """
    ratio = mixture / bias
    quadratic = ratio**2 / dimension
    return (
        (sparsity / dimension + quadratic) * radius
        + sparsity**0.5 / dimension
        + quadratic * ((sparsity / dimension) ** 0.5 + noise * float(np.log(dimension)))
        + ratio / dimension
    )
