"""Checks of single values. Each error names the field, the value given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

MOST_SHOWN = 300
"""Characters of a wrong value that an error repeats."""


def shown(value: object) -> str:
    """`value` as an error names it: cut at MOST_SHOWN characters; only its type where it cannot be written out."""
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, lists nested too deeply, an object's own repr
        return f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}… ({len(text):,} characters)"


def require_integer(field: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int within [minimum, maximum].

    Raises:
        ValueError: it is no integer (a bool is none), or outside the range.
    """
    if type(value) is int and value >= minimum and (maximum is None or value <= maximum):
        return value  # thousands of times a second, on the way to a table's answer
    allowed = f"an integer of at least {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{field} must be {allowed}, got {shown(value)}")
    number = int(value)
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"{field} must be {allowed}, got {shown(value)}")
    return number


def require_number(
    field: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive_minimum: bool = False,
) -> float:
    """Return `value` as a finite float within the range.

    Raises:
        ValueError: it is no number, not finite, or outside the range.
    """
    low = f"above {minimum:g}" if exclusive_minimum else f"at least {minimum:g}"
    parts = [low] if minimum > -math.inf else []
    if maximum < math.inf:
        parts.append(f"at most {maximum:g}")
    allowed = "a finite number" + (f", {' and '.join(parts)}" if parts else "")
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:  # an integer beyond a float's range
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{field} must be {allowed}, got {shown(value)}")
    if number < minimum or number > maximum or (exclusive_minimum and number == minimum):
        raise ValueError(f"{field} must be {allowed}, got {shown(value)}")
    return number


def require_boolean(field: str, value: object) -> bool:
    """Return `value`, a bool.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{field} must be true or false, got {shown(value)}")
    return value


def require_choice(field: str, value: object, choices: Sequence[str]) -> str:
    """Return `value`, one of `choices`.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return str(value)


def require_fields(
    field: str, value: object, required: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return `value`, a mapping with all `required` keys and no other than those and the `optional` ones.

    Raises:
        ValueError: it is no mapping, lacks a key, or has an unknown one.
    """
    allowed = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
    if not isinstance(value, Mapping):
        raise ValueError(f"{field} must be an object with the fields {allowed}, got {shown(value)}")
    missing = [name for name in required if name not in value]
    unknown = [name for name in value if name not in required and name not in optional]
    if missing or unknown:
        problems = [f"missing {name!r}" for name in missing] + [f"unknown {shown(name)}" for name in unknown[:10]]
        raise ValueError(f"{field} must have the fields {allowed}: {', '.join(problems)}")
    return value


def require_options(field: str, value: object) -> Mapping[str, Any]:
    """Return `value`, a mapping from names; an empty one for None.

    Raises:
        ValueError: it is no such mapping.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{field} must be a mapping from names to values, got {shown(value)}")
    return value
