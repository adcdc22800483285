"""Tables of the page: sortable by any column, and with a filter where they are long (both by page.js)."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reporting.elements import Child, Element, element

FILTER_FROM = 12
"""Rows from which on a table gets a filter: more than a glance takes in."""

Value = float | int | str | bool | None


def data_table(headings: Sequence[str], rows: Sequence[Sequence[Value]], caption: str) -> Element:
    """A table with one header row.

    Args:
        headings: a column each.
        rows: values, len(headings) in each. Numbers stand right-aligned and sort as such; None is a dash.
        caption: what the table shows; also what its filter is called by.
    """
    head = element("tr", *(_heading(text, column) for column, text in enumerate(headings)))
    body = element("tbody", *(element("tr", *map(cell, row)) for row in rows))
    table = element("table", element("caption", caption), element("thead", head), body, class_="sortable")
    return framed(table, caption, len(rows))


def framed(table: Element, caption: str, rows: int) -> Element:
    """A table in a box of its own that scrolls sideways, below its filter if it has FILTER_FROM rows or more."""
    search = None
    if rows >= FILTER_FROM:
        field = element(
            "input", type="search", class_="filter", placeholder="filter rows", aria_label=f"Filter: {caption}"
        )
        search = element("p", field, element("output", f"{rows} rows", class_="count"), class_="no-print")
    scroll = element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)
    return element("div", search, scroll, class_="table")


def cell(value: Value) -> Element:
    """`<td>` of one value."""
    if isinstance(value, bool):
        return element("td", "yes" if value else "no")
    if isinstance(value, int | float):
        return element("td", number(value), class_="number", data_value=repr(value))
    return element("td", "–" if value is None else value)


def number(value: float) -> str:
    """A number for reading: whole ones with commas, others with four significant digits."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _heading(text: Child, column: int) -> Element:
    return element("th", element("button", text, type="button", data_column=column), scope="col")
