"""What a student's robust accuracy will be, from the students that were trained: the part of Eq. 4 that is not known.

Parameters, multiply-accumulates and the budget are known in closed form; only the accuracy is not. A student's
accuracy (white box) depends on itself, the data set and the attack, not on the teacher it came from: every reward of
every task teaches about all others. A Gaussian process over students says so, with one part shared by all attacks and
one of each attack's own:

    k((s, a), (s', a')) = k(s, s') + δ(a, a') (ρ k(s, s') + τ),    y = asin √accuracy

| symbol | here |
|---|---|
| k | squared exponential of `student_features`, one length scale, chosen by marginal likelihood |
| ρ, τ | OWN_SHARE, OFFSET_VARIANCE |
| noise of y | NOISE, a training's seed and its finite eval set |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from rcnas_env.architecture import NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.validation import require_integer, require_number

LENGTH_SCALES = (1.0, 1.5, 2.5, 4.0, 8.0)
"""Candidates, in units of `student_features`."""

OWN_SHARE = 0.2
"""Variance of what is particular to an attack, as a share of what all have in common."""

OFFSET_VARIANCE = 0.05
"""Prior variance of an attack's mean of y, in squared radians: a few points tell it."""

SIGNAL = 0.015
"""Prior variance of y between students, in squared radians: a deviation of 0.12 (docs/agents.md)."""

NOISE = 0.006
"""Variance of y between trainings of one student, in squared radians. Chosen on the arena's two tasks with three seeds
(docs/agents.md): twice what the twin's card says, 0.003, a deviation of 0.055. More may be better since the accuracies
of one training under several attacks share its luck, which the kernel leaves out; that was not taken apart."""

MOST_POINTS = 1_500
"""Beyond so many the oldest fifth is forgotten: solving takes time in the cube of their number."""

RETUNE = 1.2
"""The length scale is chosen anew whenever there are so many times as many points."""

Floats = NDArray[np.float64]
Point = tuple[NetworkSpec, str]
"""(student, attack)."""


def student_features(student: NetworkSpec) -> list[float]:
    """Of each stage log₂ planes, log₂ blocks, down-sampling and robust blocks (2 apart), then log₁₀ of parameters
    and of MACs: scales on which a unit makes about as much of a difference everywhere.
    """
    found: list[float] = []
    for stage in student.stages:
        found += [np.log2(stage.planes), np.log2(stage.depth), 2.0 * stage.downsample, 2.0 * stage.robust]
    costs = cost(student)
    return [*found, np.log10(costs.params), np.log10(costs.macs)]


@dataclass
class _Solved:
    """The fit to the first `len(y)` points. lower: Cholesky factor of their covariance; length: of the kernel."""

    x: Floats
    attacks: NDArray[np.str_]
    y: Floats
    lower: Floats
    length: float

    @property
    def mean(self) -> float:
        """Of all y: the prior mean."""
        return float(self.y.mean())


class AccuracyCritic:
    """The Gaussian process of the module's docstring. Without data it knows nothing: `ready` is False."""

    def __init__(self) -> None:
        self._points: dict[Point, list[float]] = {}
        self._solved: _Solved | None = None
        self._length, self._tuned_on = LENGTH_SCALES[0], 0
        self._blocks: list[int] = []  # points of the fit, and of each time that more were appended to it

    def __len__(self) -> int:
        return len(self._points)

    @property
    def ready(self) -> bool:
        """Whether there is anything to predict from: two points or more."""
        return len(self._points) >= 2

    def observe(self, student: NetworkSpec, attack: str, accuracy: float) -> None:
        """Take note of an accuracy in [0, 1] under an attack (by any name that tells tasks apart that matter).

        The same accuracy of the same student again is a repeated look-up, no new measurement.
        """
        known = self._points.get((student, attack))
        if known is not None and accuracy in known:
            return
        if known is not None:
            known.append(accuracy)
            self._solved = None
            return
        self._points[student, attack] = [accuracy]
        if len(self._points) > MOST_POINTS:
            for oldest in list(self._points)[: MOST_POINTS // 5]:
                del self._points[oldest]
            self._solved = None

    def knows(self, student: NetworkSpec, attack: str) -> bool:
        """Whether an accuracy of this very student under this attack was observed."""
        return (student, attack) in self._points

    def predict(self, students: Sequence[NetworkSpec], attack: str) -> tuple[Floats, Floats]:
        """(means, deviations) of asin √accuracy of each student, (n,) each.

        Raises:
            ValueError: there is nothing to predict from yet.
        """
        if not self.ready:
            raise ValueError(f"critic must have observed two students or more to predict, got {len(self)}")
        fit = self._solve()
        new = np.array([student_features(student) for student in students])
        cross = _kernel(new, fit.x, (fit.attacks == attack)[None, :], fit.length)
        half = solve_triangular(fit.lower, np.column_stack([cross.T, fit.y - fit.mean]), lower=True)
        means = fit.mean + half[:, :-1].T @ half[:, -1]
        spread = SIGNAL * (1 + OWN_SHARE) + OFFSET_VARIANCE - (half[:, :-1] ** 2).sum(axis=0)
        return means, np.sqrt(np.maximum(spread, 1e-9))

    def to_list(self) -> list[Any]:
        """All that was observed, as JSON values; `from_list` reads them."""
        points = [[student.to_dict(), attack, list(values)] for (student, attack), values in self._points.items()]
        return [self._length, self._tuned_on, self._blocks if self._solved else [], points]

    @classmethod
    def from_list(cls, value: Any) -> AccuracyCritic:
        """The critic that `to_list` described; it predicts the same to the bit, being fitted by the same steps.

        Raises:
            ValueError: the value is no such list.
        """
        critic = cls()
        fits = isinstance(value, list) and len(value) == 4 and isinstance(value[0], float)
        if not fits or value[0] not in LENGTH_SCALES or not all(isinstance(part, list) for part in value[2:]):
            raise ValueError(f"critic must be [length scale, points tuned on, blocks, points], got {str(value)[:80]}")
        critic._length, critic._tuned_on = value[0], require_integer("critic's points tuned on", value[1], 0)
        for point in value[3]:
            if not (isinstance(point, list) and len(point) == 3 and isinstance(point[1], str)):
                raise ValueError(f"critic's point must be [student, attack, accuracies], got {str(point)[:80]}")
            student, attack, accuracies = point
            if not (isinstance(accuracies, list) and accuracies):
                raise ValueError(f"critic's accuracies must be a list of one or more, got {accuracies!r}")
            values = [require_number("critic's accuracy", each, minimum=0.0, maximum=1.0) for each in accuracies]
            critic._points[NetworkSpec.from_dict(student), attack] = values
        points, done = list(critic._points.items()), 0
        for count in value[2]:
            critic._take(points[done : done + require_integer("critic's block", count, 1, len(points) - done)])
            done += count
        return critic

    def _solve(self) -> _Solved:
        """Fit to all points. Points that came since the last fit are appended to its factor, in quadratic time."""
        points, done = list(self._points.items()), 0 if self._solved is None else len(self._solved.y)
        if self._solved is not None and done == len(points):
            return self._solved
        if done and len(points) >= RETUNE * self._tuned_on:
            self._solved, done = None, 0
        return self._take(points[done:])

    def _take(self, fresh: Sequence[tuple[Point, list[float]]]) -> _Solved:
        """Fit to these points, or append them to the fit that there is."""
        x = np.array([student_features(student) for (student, _), _ in fresh])
        attacks = np.array([attack for (_, attack), _ in fresh])
        y = np.array([np.mean(np.arcsin(np.sqrt(values))) for _, values in fresh])
        noise = np.array([NOISE / len(values) for _, values in fresh])
        if self._solved is None:
            self._solved, self._blocks = self._fit(x, attacks, y, noise), []
        else:
            self._solved = _appended(self._solved, x, attacks, y, noise)
        self._blocks.append(len(y))
        return self._solved

    def _fit(self, x: Floats, attacks: NDArray[np.str_], y: Floats, noise: Floats) -> _Solved:
        tune = len(y) >= RETUNE * self._tuned_on
        fits = []
        for length in LENGTH_SCALES if tune else (self._length,):
            covariance = _kernel(x, x, attacks[:, None] == attacks[None], length) + np.diag(noise)
            fits.append(_Solved(x, attacks, y, cholesky(covariance, lower=True), length))
        best = max(fits, key=_log_likelihood)
        if tune:
            self._length, self._tuned_on = best.length, len(y)
        return best


def _log_likelihood(fit: _Solved) -> float:
    """Marginal, up to a constant."""
    white = solve_triangular(fit.lower, fit.y - fit.mean, lower=True)
    return -0.5 * float(white @ white) - float(np.log(np.diag(fit.lower)).sum())


def _appended(fit: _Solved, x: Floats, attacks: NDArray[np.str_], y: Floats, noise: Floats) -> _Solved:
    """The fit with more points: the factor of [[A, Bᵀ], [B, C]] is [[L, 0], [M, N]], M Lᵀ = B, N Nᵀ = C − M Mᵀ."""
    cross = _kernel(x, fit.x, attacks[:, None] == fit.attacks[None], fit.length)
    own = _kernel(x, x, attacks[:, None] == attacks[None], fit.length) + np.diag(noise)
    lower_left = solve_triangular(fit.lower, cross.T, lower=True).T
    lower_right = cholesky(own - lower_left @ lower_left.T, lower=True)
    count, more = len(fit.y), len(y)
    lower = np.zeros((count + more, count + more))
    lower[:count, :count], lower[count:, :count], lower[count:, count:] = fit.lower, lower_left, lower_right
    joined_attacks = np.concatenate([fit.attacks, attacks])
    return _Solved(np.vstack([fit.x, x]), joined_attacks, np.concatenate([fit.y, y]), lower, fit.length)


def _kernel(x: Floats, y: Floats, same: NDArray[np.bool_], length: float) -> Floats:
    distances = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    shared = SIGNAL * np.exp(-0.5 * np.maximum(distances, 0) / length**2)
    return shared * (1 + OWN_SHARE * same) + OFFSET_VARIANCE * same
