"""Any JSON value as elements: what the report shows of results it knows nothing about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reporting.data_tables import Value, data_table, number
from experiments.reporting.elements import Element, element

INLINE = 12
"""Plain values up to which a list stands in one line."""


def value_tree(value: object, name: str) -> Element:
    """A value below its `name`: objects and lists as branches to unfold, a list of alike objects as a table."""
    if not isinstance(value, Mapping | list):
        return _leaf(name, value)
    if isinstance(value, list) and len(value) <= INLINE and all(map(_is_plain, value)):
        return element("div", _key(name), ", ".join(map(_plain, value)) or "none", class_="leaf")
    rows = table_of(value)
    if rows is not None:
        content = [data_table(rows[0], rows[1], name)]
    elif isinstance(value, Mapping):
        content = [value_tree(each, str(key)) for key, each in value.items()]
    else:
        content = [value_tree(each, str(place)) for place, each in enumerate(value)]
    summary = element(
        "summary", _key(name), element("small", f"{len(value)} {'entry' if len(value) == 1 else 'entries'}")
    )
    return element("details", summary, *content, class_="branch")


def table_of(value: object) -> tuple[list[str], list[list[Value]]] | None:
    """(headings, rows) of a list of two or more objects that hold plain values, or objects of these; else None.

    An inner object's values get columns of their own, "accuracies.clean". What some objects lack is None.
    """
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(each, Mapping) for each in value):
        return None
    flat = [_flat(each) for each in value]
    if any(not _is_plain(each) for row in flat for each in row.values()):
        return None
    headings = list(dict.fromkeys(key for row in flat for key in row))
    return headings, [[row.get(key) for key in headings] for row in flat]


def settings_table(config: Mapping[str, Any]) -> Element:
    """A configuration as a table of two columns, inner settings as "recipe.epochs"."""
    rows = [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in _flat(config).items()]
    return data_table(["setting", "value"], rows, "Configuration")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, Mapping) and each:
            found |= _flat(each, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = each
    return found


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return number(value) if isinstance(value, int | float) else str(value)


def _leaf(name: str, value: object) -> Element:
    return element("div", _key(name), _plain(value), class_="leaf")


def _key(name: str) -> Element:
    return element("span", name, class_="key")


def entries(value: Mapping[str, Any], left_out: Sequence[str] = ()) -> list[Element]:
    """A tree for each entry of an object but those `left_out`."""
    return [value_tree(each, str(key)) for key, each in value.items() if key not in left_out]
