"""Tables of results, such as those of the paper, as HTML."""

from __future__ import annotations

from itertools import groupby

from experiments.reporting.data_tables import framed
from experiments.reporting.elements import Element, element
from experiments.result_markdown import ATTACK_NOTES, PERCENT, figure_text
from experiments.result_table import Cell, Column, ResultTable, Row


def result_table(table: ResultTable) -> Element:
    """The table as HTML: groups of columns under headings of their own, seeds and images shown on hovering.

    A row's `data-role` is the end of its role, "rc-nas" for "5G/rc-nas". What attacks were computed on stands in the
    caption wherever a column is an accuracy.
    """
    groups: list[Element] = []
    for group, members in groupby(table.columns, lambda column: column.group):
        groups.append(element("th", group, scope="colgroup", colspan=len(list(members)), class_="group"))
    labels = [element("th", heading, scope="col") for heading in table.label_headings]
    headings = [
        element(
            "th", f"{column.heading} ({column.unit})" if column.unit else column.heading, scope="col", class_="number"
        )
        for column in table.columns
    ]
    head = element("thead", element("tr", *labels, *headings))
    if any(column.group for column in table.columns):
        head.insert(0, element("tr", element("td", colspan=len(labels)), *groups))
    caption = ": ".join(filter(None, (table.name, table.caption)))
    attacks = ATTACK_NOTES[table.attack_source] if any(column.unit == PERCENT for column in table.columns) else ""
    source = f" From: {table.source}." if table.source else ""
    body = element("tbody", *(_row(row, table.columns, bool(table.source)) for row in table.rows))
    whole = element("table", element("caption", f"{caption}.{source} {attacks}"), head, body, class_="results")
    return framed(whole, caption, len(table.rows))


def _row(row: Row, columns: tuple[Column, ...], printed: bool) -> Element:
    labels = [element("th", label, scope="row") for label in row.labels]
    if row.note:
        labels[-1].append(element("small", f" {row.note}"))
    cells = []
    for column in columns:
        found = row.cells.get(column.key)
        text = figure_text(found, column.unit, printed)
        cells.append(element("td", text, class_="number", title=_origin(found)))
    return element("tr", *labels, *cells, data_role=row.role.rpartition("/")[2])


def _origin(cell: Cell | None) -> str | None:
    """Seeds and images in words; None where neither is known."""
    if cell is None:
        return None
    parts = [(cell.seeds, "seed"), (cell.images, "image")]
    return ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in parts if count is not None) or None
