"""What a network's accuracy is expected to be, from those that were trained: Gaussian processes, and their worth.

The target is asin √p, whose seed noise is about the same at every accuracy p. A network's features are what the
environment's state says of its stages, and its cost.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

Floats = NDArray[np.float64]

TUNING_POINTS = 500
"""Networks on which the kernel's parameters are chosen: the search takes time in the cube of their number."""

FOLDS = 10
"""Of the cross-validation: each network is predicted by a model that has not seen it."""

REGRET_QUERIES = 100
"""Random subsets of networks of which the one predicted best is compared with the one that is best."""

SUBSET = 100
"""Networks in such a subset."""


def features(stages: NDArray[np.int64], params: NDArray[np.int64], macs: NDArray[np.int64]) -> Floats:
    """(N, 3 · 4 + 4): log₂ planes, depth, down-sample, robust of each stage; log₁₀ of parameters and MACs, pixels of
    the last map and blocks in all. Each column has mean 0 and deviation 1 (0 if it is constant).

    Args:
        stages: (N, 3, 4), as `StudentSpace.stages`; all networks of the space, so that scales do not depend on which
            were recorded.
        params, macs: (N,).
    """
    values = stages.astype(np.float64)
    planes, depth, downsample, robust = np.moveaxis(values, 2, 0)
    columns = [
        np.log2(planes),
        depth,
        downsample,
        robust,
        np.log10(params)[:, None],
        np.log10(macs)[:, None],
        -2 * downsample.sum(axis=1)[:, None],
        depth.sum(axis=1)[:, None],
    ]
    table = np.concatenate(columns, axis=1)
    deviation = table.std(axis=0)
    return (table - table.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)  # a constant feature stays 0


class GaussianProcess:
    """A Gaussian process with one length scale a feature and white noise, tuned by its marginal likelihood.

    Args:
        x, y: (n, features) and (n,).
        weights: (n,) trainings behind each y: the mean of k trainings has 1 / k of the noise's variance.
        seed: of the choice of TUNING_POINTS.
    """

    def __init__(self, x: Floats, y: Floats, weights: Floats, seed: int = 0) -> None:
        self.mean, self.scale = float(y.mean()), float(y.std()) or 1.0
        target = (y - self.mean) / self.scale
        chosen = np.random.default_rng(seed).permutation(len(x))[:TUNING_POINTS]
        lengths = np.full(x.shape[1], 3.0)
        kernel = ConstantKernel(1.0, (0.01, 100.0)) * RBF(lengths, (0.3, 100.0)) + WhiteKernel(0.1, (1e-4, 1.0))
        with warnings.catch_warnings():  # a length scale at its bound: the feature plays no part
            warnings.simplefilter("ignore", ConvergenceWarning)
            tuned = GaussianProcessRegressor(kernel, random_state=0).fit(x[chosen], target[chosen]).kernel_
        self.signal, self.noise = tuned.k1, float(tuned.k2.noise_level)
        self.refit(x, y, weights)

    def refit(self, x: Floats, y: Floats, weights: Floats) -> GaussianProcess:
        """Take other data into account with the same kernel; returns itself."""
        target = (y - self.mean) / self.scale
        self._x = x
        covariance = self.signal(x) + np.diag(self.noise / weights)
        self._coefficients = np.linalg.solve(covariance, target)
        return self

    def predict(self, x: Floats) -> Floats:
        """Posterior means, (n,)."""
        parts = [self.signal(part, self._x) @ self._coefficients for part in np.array_split(x, max(1, len(x) // 2_000))]
        return self.mean + self.scale * np.concatenate(parts)


@dataclass(frozen=True)
class Worth:
    """How well held-out networks are predicted, under one attack.

    r2: share of the accuracies' variance that is predicted; noise between seeds counts against it.
    tau: Kendall's τ of predicted and measured accuracies.
    top_regret: measured accuracy lost by taking the network predicted best out of 100 random ones, in place of the
        one measured best; mean over 100 draws.
    rmse: root mean squared error, in accuracy.
    """

    r2: float
    tau: float
    top_regret: float
    rmse: float


def worth(predicted: Floats, measured: Floats, seed: int = 0) -> Worth:
    """The worth of predictions (n,) of measured accuracies (n,)."""
    rng = np.random.default_rng(seed)
    subset = min(SUBSET, len(measured))
    draws = [rng.choice(len(measured), subset, replace=False) for _ in range(REGRET_QUERIES)]
    regrets = [measured[draw].max() - measured[draw][predicted[draw].argmax()] for draw in draws]
    errors = predicted - measured
    return Worth(
        r2=float(1 - (errors**2).mean() / measured.var()),
        tau=float(kendalltau(predicted, measured).statistic),
        top_regret=float(np.mean(regrets)),
        rmse=float(np.sqrt((errors**2).mean())),
    )


def held_out_predictions(model: GaussianProcess, x: Floats, y: Floats, weights: Floats, seed: int = 0) -> Floats:
    """(n,): each network predicted from the other folds'; the kernel is the one tuned on all."""
    fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    found = np.empty(len(x))
    for number in range(FOLDS):
        rest = fold != number
        model.refit(x[rest], y[rest], weights[rest])
        found[~rest] = model.predict(x[~rest])
    model.refit(x, y, weights)
    return found
