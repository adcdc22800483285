"""The data of section 3.4: sparse coding, x = M z + ξ, labelled by the sign of ⟨w*, z⟩.

The paper takes the model from Allen-Zhu and Li, "Feature Purification: How Adversarial Training Performs Robust Deep
Learning" (FOCS 2021), and leaves open what they state; this file follows them:

| symbol | here | is |
|---|---|---|
| M | `dictionary` | D × D, orthonormal: column j is the atom M_j |
| z | `codes` | D independent, symmetric entries: 0, ±1/√k or ±1 |
| k | `sparsity` | mean number of entries of z that are not 0 |
| ξ (the paper's ε̂) | – | Gaussian, standard deviation σ_x = `noise` an entry, independent of z |
| w* | `target` | the true weight of each atom, 0.5 ≤ abs(w*_j) ≤ 1.5 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcnas_env.validation import require_integer, require_number

Array = NDArray[np.floating[Any]]

TARGET_RANGE = (0.5, 1.5)
"""Of abs(w*_j), uniform: every atom matters, and no two sums of few atoms tie."""


@dataclass(frozen=True)
class SparseCoding:
    """One task: a dictionary, what the atoms are worth, sparsity and noise. `draw` makes a random one.

    Raises:
        ValueError: a field is out of range, or the shapes do not fit.
    """

    dictionary: Array
    target: Array
    sparsity: int
    noise: float

    def __post_init__(self) -> None:
        dimension = len(self.target)
        if self.target.ndim != 1 or self.dictionary.shape != (dimension, dimension):
            raise ValueError(
                f"dictionary must be of shape (D, D) for a target of shape (D,), "
                f"got {self.dictionary.shape} and {self.target.shape}"
            )
        require_integer("sparsity", self.sparsity, 1, dimension)
        require_number("noise", self.noise, minimum=0.0)

    @classmethod
    def draw(cls, dimension: int, sparsity: int, noise: float, rng: np.random.Generator) -> SparseCoding:
        """A random task: M uniform among the orthonormal matrices, w* of random signs and sizes.

        Args:
            dimension: D, at least 2.
            sparsity: k, from 1 to D.
            noise: σ_x, at least 0.
            rng: that draws.

        Raises:
            ValueError: an argument is out of range.
        """
        require_integer("dimension", dimension, 2)
        require_integer("sparsity", sparsity, 1, dimension)
        require_number("noise", noise, minimum=0.0)
        basis, triangle = np.linalg.qr(rng.standard_normal((dimension, dimension)))
        signs = np.where(rng.random(dimension) < 0.5, -1.0, 1.0)
        # QR's own choice of signs is not uniform; times those of R's diagonal it is
        dictionary = basis * np.sign(np.diag(triangle))
        target = signs * rng.uniform(*TARGET_RANGE, dimension)
        return cls(dictionary.astype(np.float32), target.astype(np.float32), sparsity, noise)

    @property
    def dimension(self) -> int:
        """D, the length of x and of z."""
        return len(self.target)

    @property
    def mixture_direction(self) -> Array:
        """M w* / ‖w*‖, (D,): the dense direction along which the clean network is weak (Allen-Zhu and Li)."""
        return np.asarray(self.dictionary @ self.target / np.linalg.norm(self.target))

    def codes(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n codes z, (n, D): each entry is ±1 with probability 1/D, ±1/√k with (k − 1)/D, else 0.

        Hence P(z_j ≠ 0) = k/D, E z_j = 0 and E z_j² = (2 − 1/k)/D: the orders that Allen-Zhu and Li ask for, with
        entries of size 1 that happen with probability of order 1/D.
        """
        require_integer("n", n, 1)
        drawn = rng.random((n, self.dimension), dtype=np.float32)
        half = np.float32(self.sparsity / self.dimension / 2)  # one draw an entry decides: below is +, above is −
        size = np.where(np.abs(drawn - half) < 0.5 / self.dimension, 1.0, self.sparsity**-0.5)
        return np.where(drawn < 2 * half, np.copysign(size, half - drawn), 0.0).astype(np.float32)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw n inputs x, (n, D), and their labels y = sign⟨w*, z⟩ in {−1, 1}, (n,); a fair coin where z = 0."""
        codes = self.codes(n, rng)
        scores = codes @ self.target
        coins = np.where(rng.random(n, dtype=np.float32) < 0.5, -1.0, 1.0)
        labels = np.where(scores == 0, coins, np.sign(scores)).astype(np.float32)
        inputs = codes @ self.dictionary.T
        if self.noise > 0:
            inputs += np.float32(self.noise) * rng.standard_normal(inputs.shape, dtype=np.float32)
        return inputs, labels
