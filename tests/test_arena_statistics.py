"""The arena's statistics against closed forms, scipy, and known coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.arena_statistics import (
    improvement_interval,
    iqm,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

RNG_SEED = 20


def rng() -> np.random.Generator:
    return np.random.default_rng(RNG_SEED)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 2), (4, 3), (10, 7)])
def test_iqm_is_scipys_trimmed_mean_over_runs_and_tasks(shape: tuple[int, int]) -> None:
    scores = rng().standard_cauchy(shape)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_iqm_of_1_to_8_is_the_mean_of_the_middle_four_whatever_the_outliers() -> None:
    scores = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert iqm(scores) == 4.5
    scores[0, 0], scores[1, 3] = -1e9, 1e9
    assert iqm(scores) == 4.5


def test_iqm_takes_leading_axes() -> None:
    scores = rng().random((6, 5, 2))
    assert iqm(scores) == pytest.approx([float(iqm(each)) for each in scores])


def test_profile_is_the_share_strictly_above() -> None:
    scores = np.array([[0.1, 0.5], [0.5, 0.9]])
    found = performance_profile(scores, np.array([0.0, 0.1, 0.5, 0.89, 0.9]))
    assert found.tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]


def test_profile_of_uniform_scores_is_one_minus_the_threshold() -> None:
    thresholds = np.linspace(0, 1, 11)
    found = performance_profile(rng().random((20_000, 2)), thresholds)
    assert found == pytest.approx(1 - thresholds, abs=4 * 0.5 / math.sqrt(40_000))


def test_improvement_is_the_mean_of_mann_whitneys_u_over_its_greatest_value() -> None:
    x, y = rng().integers(0, 6, (9, 3)) + 0.5, rng().integers(0, 6, (7, 3)) + 0.5
    terms = [stats.mannwhitneyu(x[:, m], y[:, m]).statistic / (9 * 7) for m in range(3)]
    assert len(np.intersect1d(x, y)) > 0, "no ties"
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(terms))
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)


def test_improvement_of_shifted_normal_scores() -> None:
    """P(X > Y) = Φ(δ / √2) for unit normals whose means differ by δ."""
    x, y = rng().standard_normal((2_000, 1)) + 0.7, np.random.default_rng(1).standard_normal((2_000, 1))
    assert probability_of_improvement(x, y) == pytest.approx(stats.norm.cdf(0.7 / math.sqrt(2)), abs=0.03)


def test_bootstrap_of_a_mean_has_its_known_width() -> None:
    """The mean over M tasks of N runs each has the standard error √(Σ_m σ̂_m² / N) / M; the interval is ±1.96 of it."""
    scores = rng().normal([0.0, 5.0], [1.0, 3.0], (400, 2))
    low, high = stratified_bootstrap(scores, lambda drawn: drawn.mean(axis=(-2, -1)), 4_000, rng())
    error = math.sqrt(scores.var(axis=0).sum() / 400) / 2
    assert float(high - low) == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert float(low + high) / 2 == pytest.approx(scores.mean(), abs=0.1 * error)


def test_bootstrap_stays_within_the_task() -> None:
    """Resampling over tasks as well would make this interval wide."""
    scores = np.repeat([[0.0, 100.0]], 10, axis=0)
    low, high = stratified_bootstrap(scores, lambda drawn: drawn.mean(axis=(-2, -1)), 200, rng())
    assert low == high == 50.0


def test_bootstrap_takes_several_figures_at_once_and_repeats_by_its_generator() -> None:
    scores, thresholds = rng().random((12, 2)), np.linspace(0, 1, 5)
    first, again = (
        stratified_bootstrap(scores, lambda drawn: performance_profile(drawn, thresholds), 300, rng()) for _ in range(2)
    )
    assert first[0].shape == first[1].shape == (5,)
    assert np.array_equal(first, again)
    assert (first[0] <= performance_profile(scores, thresholds)).all()
    assert (first[1] >= performance_profile(scores, thresholds)).all()


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100() -> None:
    """IQM of a symmetric distribution around 0 is 0. The percentile interval of 30 runs is a little narrow."""
    draws = rng()
    covered = 0
    for _ in range(300):
        low, high = stratified_bootstrap(draws.standard_normal((15, 2)), iqm, 400, draws)
        covered += bool(low <= 0 <= high)
    assert 0.88 <= covered / 300 <= 0.98


def clustered(draws: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """(runs, 2 tasks) of mean 0: a part that a group's runs share on both tasks, and one of each run's own."""
    shared = draws.standard_normal(int(groups.max()) + 1)
    return shared[groups][:, None] + 0.5 * draws.standard_normal((len(groups), 2))


def test_groups_widen_the_interval_of_a_mean_to_that_of_the_hierarchy() -> None:
    """Var = Σ_g (x̄_g − x̄)² / G² + Σ_m Σ_g s²_{g,m} / (G² n M²), for G groups of n runs and M tasks."""
    groups = np.arange(60) % 12
    scores = clustered(rng(), groups)
    low, high = stratified_bootstrap(scores, lambda drawn: drawn.mean(axis=(-2, -1)), 4_000, rng(), groups=groups)
    members = [scores[groups == group] for group in range(12)]
    between = np.var([each.mean() for each in members]) / 12
    within = sum(each.var(axis=0).sum() / 5 for each in members) / (12**2 * 2**2)
    assert float(high - low) == pytest.approx(2 * 1.96 * math.sqrt(between + within), rel=0.05)


def test_with_groups_intervals_of_shared_parts_cover_the_truth_and_without_do_not() -> None:
    draws, groups = rng(), np.arange(30) % 10
    covered = dict.fromkeys(("with", "without"), 0)
    for _ in range(200):
        scores = clustered(draws, groups)
        for name, own in (("with", groups), ("without", None)):
            low, high = stratified_bootstrap(scores, iqm, 300, draws, groups=own)
            covered[name] += bool(low <= 0 <= high)
    assert 0.88 <= covered["with"] / 200 <= 0.99
    assert covered["without"] / 200 <= 0.8


def test_a_run_of_its_own_group_each_is_nearly_no_group_at_all() -> None:
    """But that all tasks then draw the same runs, which for one task is no difference."""
    x, y = rng().random((30, 1)), np.random.default_rng(1).random((25, 1)) - 0.2
    alone = (np.arange(30), np.arange(25))
    plain, grouped = (improvement_interval(x, y, 4_000, rng(), groups=own) for own in ((None, None), alone))
    assert grouped == pytest.approx(plain, abs=0.02)


def test_improvement_interval_of_two_groups_reaches_from_one_to_the_other() -> None:
    """Of two groups, one that always wins and one that never does, a quarter of the draws take one of them twice."""
    x, y, groups = np.repeat([[1.0], [-1.0]], 4, axis=0), np.zeros((3, 1)), np.repeat([7, 3], 4)
    assert improvement_interval(x, y, 400, rng(), groups=(groups, None)) == pytest.approx((0.0, 1.0))
    low, high = improvement_interval(x, y, 400, rng())
    assert 0.0 < low < high < 1.0


def test_groups_must_be_one_a_run() -> None:
    with pytest.raises(ValueError, match=r"groups must have a number for each of the 4 runs, got shape \(3,\)"):
        stratified_bootstrap(np.zeros((4, 2)), iqm, 10, rng(), groups=np.zeros(3, np.int64))


def test_improvement_intervals_cover_the_truth_about_95_times_in_100() -> None:
    draws, truth, covered = rng(), stats.norm.cdf(0.5 / math.sqrt(2)), 0
    for _ in range(300):
        x, y = draws.standard_normal((20, 2)) + 0.5, draws.standard_normal((15, 2))
        low, high = improvement_interval(x, y, 400, draws)
        covered += bool(low <= truth <= high)
    assert 0.88 <= covered / 300 <= 0.99


def test_improvement_interval_has_the_width_of_resampling_by_hand() -> None:
    x, y, draws = rng().random((8, 2)), np.random.default_rng(1).random((6, 2)) - 0.2, rng()
    by_hand = []
    for _ in range(3_000):
        columns = [(draws.integers(8, size=8), draws.integers(6, size=6)) for _ in range(2)]
        resampled = [(x[a, m][:, None], y[b, m][:, None]) for m, (a, b) in enumerate(columns)]
        by_hand.append(np.mean([probability_of_improvement(*pair) for pair in resampled]))
    expected = np.quantile(by_hand, [0.025, 0.975])
    assert improvement_interval(x, y, 3_000, rng()) == pytest.approx(tuple(expected), abs=0.03)


def test_certain_improvement_has_no_width() -> None:
    x, y = np.ones((5, 2)), np.zeros((4, 2))
    assert probability_of_improvement(x, y) == 1.0
    assert improvement_interval(x, y, 50, rng()) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"scores": np.zeros(3)},
            r"scores must be numbers of shape \(runs, tasks\), none of them NaN, got shape \(3,\)",
        ),
        ({"scores": np.zeros((0, 2))}, r"scores must be .* got shape \(0, 2\)"),
        ({"scores": np.array([[math.nan]])}, "none of them NaN"),
        ({"repetitions": 0}, "repetitions must be an integer of at least 1, got 0"),
        ({"confidence": 1.5}, "confidence must be a finite number, above 0 and at most 1, got 1.5"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    given = {"scores": np.zeros((2, 2)), "statistic": iqm, "repetitions": 5, "rng": rng(), **arguments}
    with pytest.raises(ValueError, match=message):
        stratified_bootstrap(**given)


def test_improvement_needs_the_same_tasks() -> None:
    with pytest.raises(ValueError, match="y must have x's tasks, 2, got 3"):
        probability_of_improvement(np.zeros((4, 2)), np.zeros((4, 3)))
