"""The trade-off between cost and accuracy: which points are on the Pareto front, and how much they dominate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcnas_env.validation import require_number

Floats = NDArray[np.float64]


def pareto_front(costs: ArrayLike, values: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    A point dominates another one if none of its costs is higher, its value is not lower, and at least one of
    these differs. Equal points do not dominate each other: all copies of a point are on the front, or none is.
    Of two points of equal cost only the more valuable one can be, of two of equal value only the cheaper one.

    Args:
        costs: (n,) or (n, k) with k ≥ 1, finite; less is better. Compared as 64-bit floats.
        values: (n,), finite; more is better.

    Returns:
        (n,) booleans, in the order of the points.

    Raises:
        ValueError: costs or values have another shape, or are not all finite numbers.
    """
    costs, values = _points(costs, values, dimensions=(1, 2))
    points = np.column_stack([costs, -values])  # less is better in every column
    front = np.ones(len(points), bool)
    # sorted by columns, a point comes after all that dominate it: what is still unmarked at its turn is on the front
    for index in np.lexsort(points.T[::-1]):
        if front[index]:
            no_better = (points >= points[index]).all(axis=1)
            front[no_better & (points != points[index]).any(axis=1)] = False
    return front


def hypervolume(costs: ArrayLike, values: ArrayLike, reference: Sequence[float]) -> float:
    """The area between the Pareto front and a reference point: what at least one point dominates.

    Exact: ∫ max(0, v(c) − reference value) dc up to the reference cost, v(c) the highest value at a cost of at
    most c. A point that does not better the reference in both cost and value adds nothing. Give log10 of costs,
    and of the reference cost, to count decades of cost alike.

    Args:
        costs: (n,), finite; less is better.
        values: (n,), finite; more is better.
        reference: (largest cost, smallest value), finite. Areas compare under one reference alone.

    Returns:
        The area, at least 0, in units of cost times value; 0 without points.

    Raises:
        ValueError: costs or values have another shape, or something is not a finite number.
    """
    costs, values = _points(costs, values, dimensions=(1,))
    if not isinstance(reference, tuple | list) or len(reference) != 2:
        raise ValueError(f"reference must be a pair (largest cost, smallest value), got {reference!r}")
    most = require_number("reference[0], the largest cost,", reference[0])
    least = require_number("reference[1], the smallest value,", reference[1])
    inside = (costs < most) & (values > least)
    costs, values = costs[inside], values[inside]
    order = np.argsort(costs)
    best_so_far = np.maximum.accumulate(values[order])
    widths = np.diff(costs[order], append=most)
    return float(widths @ (best_so_far - least))


def _points(costs: ArrayLike, values: ArrayLike, dimensions: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Both as arrays of floats, n in each.

    Raises:
        ValueError: see the callers.
    """
    found = _numbers("costs", costs), _numbers("values", values)
    allowed = " or ".join("(n,)" if each == 1 else "(n, k) with k of at least 1" for each in dimensions)
    if found[0].ndim not in dimensions or 0 in found[0].shape[1:]:
        raise ValueError(f"costs must have the shape {allowed}, got {found[0].shape}")
    if found[1].shape != found[0].shape[:1]:
        raise ValueError(f"values must have the shape {found[0].shape[:1]}, one a point of costs, got {found[1].shape}")
    return found


def _numbers(field: str, given: ArrayLike) -> Floats:
    """An array of finite floats.

    Raises:
        ValueError: it is none.
    """
    try:
        numbers = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{field} must be an array of finite numbers, got {given!r}") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{field} must be an array of finite numbers, got {given!r}")
    return numbers
