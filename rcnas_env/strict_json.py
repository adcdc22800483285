"""JSON from outside: a value of bounded depth and finite numbers, or a ValueError that says what is wrong."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MOST_NESTED = 64
"""Levels of lists and objects inside each other; no file of this project has ten."""

MOST_DIGITS = 100
"""Of an integer. Longer ones would pass every check of a kind and then overflow where they meet a float."""

_HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


def parse_json(content: str | bytes) -> Any:
    """The value that `content` is the JSON of, in UTF-8 where it is bytes.

    Stricter than Python's own reader: no NaN, no number beyond a float's range, no name twice in one object, no half
    of a surrogate pair, nothing nested more than MOST_NESTED levels deep.

    Raises:
        ValueError: it is not such JSON; the message says why, and does not repeat the content.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no utf-8 text: {error.reason} at byte {error.start}") from None
    try:
        value = json.loads(
            text, parse_constant=_refused, parse_float=_finite, parse_int=_short, object_pairs_hook=_without_repeats
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error)) from None
    _require_shallow(text)
    if _HALF_A_CHARACTER.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a string in it has half of a surrogate pair") from None
    return value


def _require_shallow(text: str) -> None:
    """Raise a ValueError if `text`, which is known to be JSON, is nested too deeply."""
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):  # strings are matched whole, and so passed over
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
        if depth > MOST_NESTED:
            raise ValueError(f"it is nested more than {MOST_NESTED} levels deep")


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{literal[:20]} is beyond the range of a float")
    return number


def _short(literal: str) -> int:
    if len(literal) > MOST_DIGITS:
        raise ValueError(f"an integer must have at most {MOST_DIGITS} digits, got one of {len(literal)}")
    return int(literal)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {name[:80]!r} stands twice in one object")
    return value
