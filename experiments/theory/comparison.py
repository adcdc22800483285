"""One seed of the theory check: full and compressed networks trained on the same stream, and all that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.theory.compression import Subnetwork, narrowed, zeroed
from experiments.theory.gradient_movement import Probe, gradient_movement
from experiments.theory.mixtures import bound_without_constant, decompose, expected_maximum
from experiments.theory.perturbation import worst_margin
from experiments.theory.settings import TheorySettings
from experiments.theory.sparse_coding import Array, SparseCoding
from experiments.theory.symmetric_network import SymmetricNetwork
from experiments.theory.training import Subnetworks, draws, train_adversarially, train_cleanly

FULL = "full"
"""The network without compression, S_U^A in the paper."""
STREAMS = ("task", "start", "training", "probe", "test")
"""What a seed decides, each from random numbers of its own."""


@dataclass(frozen=True)
class State:
    """A network after one of the trainings."""

    mixture: float
    """max_i ‖v_i‖ (Eq. 9), by the settings' threshold κ."""
    mixture_strict: float
    """The same at κ = 1: all but a neuron's largest atom is dense."""
    mean_mixture: float
    """Mean of ‖v_i‖ over neurons."""
    dense_share: float
    """Σ ‖v_i‖² / Σ ‖w_i‖², in [0, 1]."""
    longest: float
    """max_i ‖w_i‖."""
    accuracy: float
    """Share of test samples answered rightly, in [0, 1]."""
    robust_accuracy: float
    """Share that no attack tried turned wrong, in [0, 1]; an upper bound of the truth."""


@dataclass(frozen=True)
class Outcome:
    """What became of one network; the lists have an entry a checkpoint of adversarial training."""

    neurons: int
    """N."""
    weights: int
    """Weights that are not held at zero."""
    clean: State
    """After T steps of clean training, compressed."""
    adversarial: State
    """After T' more of adversarial training."""
    movement: list[float]
    """max_i ΔL_i (Eq. 14)."""
    mean_movement: list[float]
    """Mean of ΔL_i over neurons."""
    free_movement: list[float]
    """max_i ΔL_i without the parts along weights that are held at zero; as `movement` where none is."""
    full_by_chance: float
    """Mean of max_i ‖v_i‖ over a random choice of as many of the full network's neurons, after adversarial training."""
    constant: float
    """max_i ΔL_i at the last checkpoint / Eq. 20's bracket at max_i ‖v_i‖: the least c for which Eq. 20 holds."""


def run_seed(settings: TheorySettings, seed: int) -> dict[str, Outcome]:
    """Train and measure the full and all compressed networks; the same seed gives the same result.

    Returns:
        By name: FULL, then "width s", "edges s" and "atoms s" for each share s (see compression.py).

    Raises:
        ValueError: a training diverged.
    """
    rngs = {name: np.random.default_rng([seed, place]) for place, name in enumerate(STREAMS)}
    task = SparseCoding.draw(settings.dimension, settings.sparsity, settings.noise, rngs["task"])
    start = settings.initial * rngs["start"].standard_normal((settings.neurons, settings.dimension), dtype=np.float32)
    subs = _clean_networks(start, task, settings, rngs["training"])
    probe = Probe(*draws(task, settings, settings.probe, rngs["probe"]))
    test = task.sample(settings.test, rngs["test"])
    moments = set(settings.moments())
    movements: dict[str, list[tuple[float, float, float]]] = {name: [] for name in subs}

    def watch(t: int, now: Subnetworks) -> None:
        """At the moments of the settings, note how far each subnetwork's gradients move at time t."""
        if t in moments:
            for name, sub in now.items():
                movements[name].append(_movement(sub, probe, settings.radius))

    final = train_adversarially(subs, task, settings, rngs["training"], watch)
    lost = [name for name, sub in final.items() if not np.isfinite(sub.network.weights).all()]
    if lost:
        raise ValueError(f"learning_rate or adversarial_rate is too large: seed {seed} diverged ({', '.join(lost)})")
    return {name: _outcome(name, subs, final, movements[name], task, test, settings) for name in subs}


def _clean_networks(
    start: Array, task: SparseCoding, settings: TheorySettings, rng: np.random.Generator
) -> Subnetworks:
    """All networks as adversarial training finds them."""
    full = SymmetricNetwork(start, settings.bias_start, settings.smoothing)
    begun = {FULL: Subnetwork(full)}
    begun |= {f"width {share:g}": narrowed(full, share) for share in settings.shares}
    subs = train_cleanly(begun, task, settings, rng)
    dense = subs[FULL].network
    subs |= {f"edges {share:g}": zeroed(dense, share) for share in settings.shares}
    subs |= {f"atoms {share:g}": zeroed(dense, share, task.dictionary) for share in settings.shares}
    return subs


def _movement(sub: Subnetwork, probe: Probe, radius: float) -> tuple[float, float, float]:
    """Of all weights: the largest and the mean; of the free ones: the largest."""
    lengths = gradient_movement(sub.network, probe, radius)
    free = lengths if sub.zeros is None else gradient_movement(sub.network, probe, radius, sub.zeros)
    return float(lengths.max()), float(lengths.mean()), float(free.max())


def _outcome(
    name: str,
    before: Mapping[str, Subnetwork],
    after: Mapping[str, Subnetwork],
    movements: list[tuple[float, float, float]],
    task: SparseCoding,
    test: tuple[Array, Array],
    settings: TheorySettings,
) -> Outcome:
    sub, network = after[name], after[name].network
    adversarial = measure(network, task, test, settings)
    largest, mean, free = (list(each) for each in zip(*movements, strict=True))
    full = decompose(after[FULL].network.weights, task.dictionary, settings.threshold).norms
    bracket = bound_without_constant(
        adversarial.mixture, network.bias, task.dimension, task.sparsity, task.noise, settings.radius
    )
    return Outcome(
        neurons=network.neurons,
        weights=network.weights.size if sub.zeros is None else int(sub.zeros.free.sum()),
        clean=measure(before[name].network, task, test, settings),
        adversarial=adversarial,
        movement=largest,
        mean_movement=mean,
        free_movement=free,
        full_by_chance=expected_maximum(full, network.neurons),
        constant=largest[-1] / bracket,
    )


def measure(
    network: SymmetricNetwork, task: SparseCoding, test: tuple[Array, Array], settings: TheorySettings
) -> State:
    """Mixtures by the settings' threshold and strictly, and accuracies on the test samples (n, D) and labels (n,)."""
    inputs, labels = test
    mixtures = decompose(network.weights, task.dictionary, settings.threshold)
    margins = worst_margin(network, task, inputs, labels, settings.radius, settings.attack_steps)
    return State(
        mixture=float(mixtures.norms.max()),
        mixture_strict=float(decompose(network.weights, task.dictionary, 1.0).norms.max()),
        mean_mixture=float(mixtures.norms.mean()),
        dense_share=mixtures.dense_share,
        longest=float(np.linalg.norm(network.weights, axis=1).max()),
        accuracy=float((labels * network.expected_output(inputs) > 0).mean()),
        robust_accuracy=float((margins > 0).mean()),
    )
