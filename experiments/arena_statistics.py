"""Statistics of few runs on few tasks (Agarwal, Schwarzer, Castro, Courville and Bellemare, NeurIPS 2021; rliable).

Scores are arrays of (runs, tasks): x_{n,m} is the score of run n on task m, N runs, M tasks, more is better.

| symbol | here |
|---|---|
| IQM | `iqm` |
| P(X > Y) | `probability_of_improvement` |
| F̂_X(τ) | `performance_profile` |
| stratified bootstrap | `stratified_bootstrap`, `improvement_interval`: percentile intervals |

Runs that share a part, such as one meta-training, are not independent. Given their `groups`, the bootstrap is
hierarchical, which rliable's is not: groups are drawn first, the same for all tasks, then runs within them.

Held once against rliable 1.2.0 itself, without groups, on the runs behind docs/evidence/arena-bars.json (12 IQMs and 9
probabilities of improvement): values differ by rounding, 1e-16, ends of intervals by up to 0.0016, which is the luck of
20,000 resamples here and 5,000 there. It is no dependency: it runs with numpy 2.4.6, but needs arch before 8, which
could not be imported beside pandas 3 (arch 7.2.0, pandas 3.1.1; with pandas 2.3.3 it could).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rcnas_env.validation import require_integer, require_number

Scores = NDArray[np.float64]
Groups = NDArray[np.int64]
"""(runs,): which runs share a part; any whole numbers, equal ones for runs of a group."""

Statistic = Callable[[Scores], Scores]
"""From (…, runs, tasks) to (…), or to (…, k) for k figures at once."""


def iqm(scores: Scores) -> Scores:
    """Interquartile mean over runs and tasks together: the mean of the sorted N · M scores without the lowest and the
    highest ⌊N · M / 4⌋.

    Args:
        scores: (…, runs, tasks).

    Returns:
        (…).

    Raises:
        ValueError: there are no scores, or they have fewer than two axes.
    """
    scores = _require_scores("scores", scores)
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def performance_profile(scores: Scores, thresholds: Scores) -> Scores:
    """F̂_X(τ) = 1/M Σ_m 1/N Σ_n 1[x_{n,m} > τ]: the share of runs above each threshold.

    Args:
        scores: (…, runs, tasks).
        thresholds: τ, (k,).

    Returns:
        (…, k), in [0, 1].

    Raises:
        ValueError: there are no scores, or they have fewer than two axes.
    """
    scores = _require_scores("scores", scores)
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.stack([(flat > threshold).mean(axis=-1) for threshold in np.asarray(thresholds)], axis=-1)


def stratified_bootstrap(
    scores: Scores,
    statistic: Statistic,
    repetitions: int,
    rng: np.random.Generator,
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> tuple[Scores, Scores]:
    """Percentile interval of `statistic`: each task's runs are drawn again with replacement, apart from other tasks'.

    The quantiles (1 ∓ confidence) / 2 of statistic(x*_1) … statistic(x*_repetitions).

    Args:
        scores: (runs, tasks).
        statistic: given all repetitions at once, (repetitions, runs, tasks).
        repetitions: at least 1.
        rng: that draws.
        confidence: nominal coverage, in (0, 1].
        groups: of runs that share a part; None where all are independent.

    Returns:
        (low, high), each of the statistic's own shape.

    Raises:
        ValueError: an argument is out of range.
    """
    scores = _require_scores("scores", scores, axes=2)
    _require_bootstrap(repetitions, confidence)
    chosen = _drawn(scores.shape[0], scores.shape[1], repetitions, rng, groups)
    return _percentiles(statistic(scores[chosen, np.arange(scores.shape[1])]), confidence)


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """P(X > Y) = 1/M Σ_m 1/(N K) Σ_n Σ_k S(x_{n,m}, y_{k,m}), S = 1 where x > y, ½ where x = y, else 0.

    Each task's term is the Mann–Whitney U of x against y by its greatest value N · K.

    Args:
        x: (N runs, M tasks).
        y: (K runs, M tasks).

    Raises:
        ValueError: x and y are not of the same tasks.
    """
    return float(_wins(x, y).mean())


def improvement_interval(
    x: Scores,
    y: Scores,
    repetitions: int,
    rng: np.random.Generator,
    confidence: float = 0.95,
    groups: tuple[Groups | None, Groups | None] = (None, None),
) -> tuple[float, float]:
    """Stratified-bootstrap interval of `probability_of_improvement`; runs of x and of y are drawn independently.

    `groups` are those of x's runs and of y's (see `stratified_bootstrap`).

    Raises:
        ValueError: an argument is out of range, or x and y are not of the same tasks.
    """
    wins = _wins(x, y)
    _require_bootstrap(repetitions, confidence)
    # S does not change in a resample, only how often a run occurs: sums over counts in place of N · K comparisons
    counts = [
        _counts(length, wins.shape[2], repetitions, rng, own)
        for length, own in zip(wins.shape[:2], groups, strict=True)
    ]
    means = np.einsum("rnm,nkm,rkm->r", counts[0], wins, counts[1], optimize=True) / wins.size
    low, high = _percentiles(means, confidence)
    return float(low), float(high)


def _wins(x: Scores, y: Scores) -> Scores:
    """S(x_{n,m}, y_{k,m}): (N, K, M)."""
    x, y = _require_scores("x", x, axes=2), _require_scores("y", y, axes=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y must have x's tasks, {x.shape[1]}, got {y.shape[1]}")
    return (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])


def _counts(runs: int, tasks: int, repetitions: int, rng: np.random.Generator, groups: Groups | None) -> Scores:
    """How often each run is drawn, (repetitions, runs, tasks): `runs` draws with replacement a task."""
    if groups is None:
        drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=(repetitions, tasks))
        return drawn.transpose(0, 2, 1).astype(np.float64)
    chosen = _drawn(runs, tasks, repetitions, rng, groups).transpose(0, 2, 1)
    places = chosen + runs * np.arange(repetitions * tasks).reshape(repetitions, tasks, 1)
    counted = np.bincount(places.ravel(), minlength=repetitions * tasks * runs)
    return counted.reshape(repetitions, tasks, runs).transpose(0, 2, 1).astype(np.float64)


def _drawn(
    runs: int, tasks: int, repetitions: int, rng: np.random.Generator, groups: Groups | None
) -> NDArray[np.int64]:
    """Which runs are drawn, (repetitions, runs, tasks)."""
    if groups is None:
        return rng.integers(runs, size=(repetitions, runs, tasks))
    if np.shape(groups) != (runs,):
        raise ValueError(f"groups must have a number for each of the {runs} runs, got shape {np.shape(groups)}")
    _, own, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.argsort(own, kind="stable")  # of group 0, then of group 1, …
    first = np.cumsum(sizes) - sizes
    # The places of a group's runs are filled with runs of a group drawn for it, so that their number stays.
    group = rng.integers(len(sizes), size=(repetitions, len(sizes)))[:, own, None]
    within = np.floor(rng.random((repetitions, runs, tasks)) * sizes[group]).astype(np.int64)
    return members[first[group] + within]


def _percentiles(values: Scores, confidence: float) -> tuple[Scores, Scores]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def _require_bootstrap(repetitions: int, confidence: float) -> None:
    require_integer("repetitions", repetitions, 1)
    require_number("confidence", confidence, minimum=0.0, maximum=1.0, exclusive_minimum=True)


def _require_scores(name: str, scores: Scores, axes: int | None = None) -> Scores:
    array = np.asarray(scores, np.float64)
    allowed = array.ndim >= 2 if axes is None else array.ndim == axes
    if not allowed or array.size == 0 or np.isnan(array).any():
        raise ValueError(f"{name} must be numbers of shape (runs, tasks), none of them NaN, got shape {array.shape}")
    return array
