"""Pareto front and hypervolume against closed forms, the definition, and a grid on which areas can be counted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.pareto import hypervolume, pareto_front

SIDE = 6
"""Of the grid: small enough that ties and copies are common."""

GRID = st.integers(0, SIDE)
POINTS = st.lists(st.tuples(GRID, GRID), max_size=12).map(lambda points: np.array(points, int).reshape(-1, 2))
TWO_COSTS = st.lists(st.tuples(GRID, GRID, GRID), max_size=12).map(lambda points: np.array(points, int).reshape(-1, 3))


def dominates(one: Any, other: Any) -> bool:
    """By the definition; a point is its costs, then its value."""
    cheaper_or_equal = all(a <= b for a, b in zip(one[:-1], other[:-1], strict=True))
    return cheaper_or_equal and one[-1] >= other[-1] and tuple(one) != tuple(other)


# -- the front -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "values", "front"),
    [
        ([], [], []),
        ([3.0], [0.0], [True]),
        ([1, 2, 3], [0.1, 0.2, 0.3], [True, True, True]),  # dearer is better throughout
        ([1, 2, 3], [0.3, 0.2, 0.1], [True, False, False]),
        ([3, 1, 2], [0.3, 0.1, 0.05], [True, True, False]),
        ([1, 1, 2], [0.1, 0.2, 0.2], [False, True, False]),  # equal costs: the better; equal values: the cheaper
        ([1, 1, 2], [0.2, 0.2, 0.1], [True, True, False]),  # copies stay together
        ([1, 2, 2], [0.2, 0.1, 0.1], [True, False, False]),
        ([-1, 0], [-5.0, -4.0], [True, True]),  # log costs and negative rewards
        ([[1, 9], [9, 1], [5, 5], [9, 9]], [0.1, 0.1, 0.1, 0.1], [True, True, True, False]),
        ([[1, 9], [1, 8]], [0.1, 0.1], [False, True]),
    ],
)
def test_the_front_by_hand(costs: list[Any], values: list[float], front: list[bool]) -> None:
    found = pareto_front(costs, values)
    assert (found.dtype, found.tolist()) == (np.bool_, front)


@given(POINTS | TWO_COSTS)
def test_on_the_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    expected = [not any(dominates(other, one) for other in points) for one in points]
    costs = points[:, 0] if points.shape[1] == 2 else points[:, :-1]
    assert pareto_front(costs, points[:, -1]).tolist() == expected
    assert not len(points) or any(expected)


@given(POINTS)
def test_one_column_of_costs_is_one_cost(points: np.ndarray) -> None:
    costs, values = points.T
    assert pareto_front(costs[:, None], values).tolist() == pareto_front(costs, values).tolist()


def test_large_costs_are_told_apart() -> None:
    """Parameters and MACs are integers of up to 4e10: floats hold them exactly."""
    costs = np.array([38_764_210_176, 38_764_210_177])
    assert pareto_front(costs, [0.5, 0.5]).tolist() == [True, False]


# -- the hypervolume -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], 0.0),
        ([(4, 0.5)], 3.0),  # (10 − 4) · 0.5
        ([(4, 0.5), (4, 0.5)], 3.0),
        ([(4, 0.5), (6, 0.4)], 3.0),  # dominated
        ([(6, 0.75), (4, 0.5)], 4.0),  # 2 · 0.5 + 4 · 0.75
        ([(4, 0.25), (4, 0.5)], 3.0),
        ([(10, 0.9), (12, 0.9), (1, 0.0), (2, -0.5)], 0.0),  # on the reference's lines or beyond
        ([(4, 0.5), (12, 0.9), (1, -0.5)], 3.0),  # such points add nothing to others either
        ([(-2, 0.5)], 6.0),
    ],
)
def test_the_hypervolume_by_hand(points: list[tuple[float, float]], expected: float) -> None:
    costs, values = np.array(points, float).reshape(-1, 2).T
    assert hypervolume(costs, values, (10, 0.0)) == pytest.approx(expected, abs=1e-12)


@given(POINTS, GRID, GRID)
def test_the_hypervolume_is_the_number_of_dominated_cells(points: np.ndarray, most: int, least: int) -> None:
    """All corners are integers, so that a unit cell is dominated altogether or not at all."""
    cells = sum(
        any(cost <= x and value >= y + 1 for cost, value in points)
        for x, y in itertools.product(range(most), range(least, SIDE))
    )
    assert hypervolume(points[:, 0], points[:, 1], (most, least)) == cells


@given(POINTS.filter(len), st.randoms(use_true_random=False))
def test_only_the_front_counts_and_its_order_does_not(points: np.ndarray, random: Any) -> None:
    reference = (SIDE + 1, -1)
    whole = hypervolume(points[:, 0], points[:, 1], reference)
    front = points[pareto_front(points[:, 0], points[:, 1])]
    shuffled = random.sample(front.tolist(), len(front))
    assert hypervolume(*np.transpose(shuffled), reference) == whole
    distinct = np.unique(front, axis=0)
    for index in range(len(distinct)):
        rest = np.delete(distinct, index, axis=0)
        assert hypervolume(rest[:, 0], rest[:, 1], reference) < whole


def test_the_hypervolume_of_a_dense_front_is_the_integral() -> None:
    """v(c) = √c on [0, 1]: ∫ √c dc = 2/3; n steps miss at most 1/n of it."""
    costs = np.linspace(0, 1, 10_001)
    found = hypervolume(costs, np.sqrt(costs), (1.0, 0.0))
    assert 2 / 3 - 1e-4 < found < 2 / 3


def test_log_costs_count_decades_alike() -> None:
    costs, values = np.log10([1e6, 1e7]), [0.25, 0.5]
    assert hypervolume(costs, values, (np.log10(1e8), 0.0)) == pytest.approx(0.75)  # a decade each
    scaled = hypervolume(costs + 3, values, (11, 0.0))
    assert scaled == pytest.approx(0.75)  # another unit of cost changes nothing


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "values", "message"),
    [
        ([1, float("nan")], [1, 2], "costs must be an array of finite numbers, got"),
        ([1, None], [1, 2], "costs must be an array of finite numbers, got"),
        ([1, 2], [1, float("inf")], "values must be an array of finite numbers, got"),
        (["a", "b"], [1, 2], "costs must be an array of finite numbers, got"),
        ([[1, 2], [3]], [1, 2], "costs must be an array of finite numbers, got"),
        ([1, 2], [1], r"values must have the shape \(2,\), one a point of costs, got \(1,\)"),
        ([1, 2], [[1], [2]], r"values must have the shape \(2,\), one a point of costs, got \(2, 1\)"),
        (3, 4, r"costs must have the shape \(n,\).*, got \(\)"),
        (np.zeros((2, 2, 2)), [1, 2], r"costs must have the shape \(n,\).*, got \(2, 2, 2\)"),
    ],
)
def test_bad_points_are_named(costs: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pareto_front(costs, values)
    with pytest.raises(ValueError, match=message):
        hypervolume(costs, values, (10, 0))


def test_the_front_needs_a_cost_and_the_hypervolume_exactly_one() -> None:
    with pytest.raises(ValueError, match=r"costs must have the shape .* with k of at least 1, got \(2, 0\)"):
        pareto_front(np.zeros((2, 0)), [1, 2])
    with pytest.raises(ValueError, match=r"costs must have the shape \(n,\), got \(2, 2\)"):
        hypervolume([[1, 2], [3, 4]], [1, 2], (10, 0))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ((1.0,), r"reference must be a pair \(largest cost, smallest value\), got \(1.0,\)"),
        (3.0, "reference must be a pair .*, got 3.0"),
        ((float("inf"), 0.0), r"reference\[0\], the largest cost, must be a finite number, got inf"),
        ((1.0, None), r"reference\[1\], the smallest value, must be a finite number, got None"),
    ],
)
def test_a_bad_reference_is_named(reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hypervolume([0.5], [0.5], reference)
