"""The compressed networks that are compared with the full one: fewer neurons, or weights held at zero.

| kind | what is left, of a share s | what it stands for |
|---|---|---|
| width | the first round(s N) neurons of the full network's start, trained cleanly by themselves | what RC-NAS does |
| edges | of the clean full network, the s N D largest weights ⟨w_i, e_j⟩ | "zero out the weights" (appendix E.2) |
| atoms | of the clean full network, the s N D largest ⟨w_i, M_j⟩ | "edges in our dictionary matrix M" (section 3.4) |

Only one who knows M can do the last. Zeroed weights stay zero in adversarial training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.theory.sparse_coding import Array
from experiments.theory.symmetric_network import SymmetricNetwork
from rcnas_env.validation import require_number


@dataclass(frozen=True)
class Zeros:
    """Which weights are held at zero: those where `free`, (N, D), is 0, in the basis of the columns of `basis`.

    Without a basis they are the weights themselves.
    """

    free: Array
    basis: Array | None = None

    def coordinates(self, vectors: Array) -> Array:
        """Vectors (…, D) in the basis."""
        return vectors if self.basis is None else np.asarray(vectors @ self.basis)

    def project(self, weights: Array) -> Array:
        """The nearest weights (N, D) that are zero where they must be."""
        kept = self.coordinates(weights) * self.free
        return np.asarray(kept if self.basis is None else kept @ self.basis.T)


@dataclass(frozen=True)
class Subnetwork:
    """A network and the weights of it that must stay zero, if any."""

    network: SymmetricNetwork
    zeros: Zeros | None = None


def narrowed(network: SymmetricNetwork, share: float) -> Subnetwork:
    """The network's first round(share · N) neurons.

    Raises:
        ValueError: the share is not in (0, 1] or leaves no neuron.
    """
    require_number("share", share, minimum=0.0, maximum=1.0, exclusive_minimum=True)
    left = network.weights[: round(share * network.neurons)]
    return Subnetwork(SymmetricNetwork(left, network.bias, network.smoothing))


def zeroed(network: SymmetricNetwork, share: float, basis: Array | None = None) -> Subnetwork:
    """The network with only the largest round(share · N D) of its weights, of all neurons together, in the basis.

    Raises:
        ValueError: the share is not in (0, 1].
    """
    require_number("share", share, minimum=0.0, maximum=1.0, exclusive_minimum=True)
    sizes = np.abs(Zeros(network.weights, basis).coordinates(network.weights))
    kept = np.argsort(sizes, axis=None, kind="stable")[sizes.size - round(share * sizes.size) :]
    free = np.zeros(sizes.size, sizes.dtype)
    free[kept] = 1
    zeros = Zeros(free.reshape(sizes.shape), basis)
    return Subnetwork(SymmetricNetwork(zeros.project(network.weights), network.bias, network.smoothing), zeros)
