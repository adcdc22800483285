"""Tables of results, such as those of the paper, from tables/*.json of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from experiments.reporting.data_tables import framed
from experiments.reporting.elements import Element, element
from rcnas_env.validation import require_integer, require_number


@dataclass(frozen=True)
class ResultColumn:
    """A column: the key of its cells, its heading, the group that it stands in ("" for none), and its unit."""

    key: str
    heading: str
    group: str
    unit: str


@dataclass(frozen=True)
class ResultCell:
    """A value in its column's unit, its deviation over seeds if any, and what it was measured on."""

    value: float
    deviation: float | None
    seeds: int | None
    images: int | None

    @property
    def text(self) -> str:
        """The value, and ± the deviation, to hundredths; large ones to whole numbers."""
        digits = 0 if abs(self.value) >= 1_000 else 2
        deviation = "" if self.deviation is None else f" ± {self.deviation:,.{digits}f}"
        return f"{self.value:,.{digits}f}{deviation}"

    @property
    def origin(self) -> str:
        """Seeds and images in words; "" where neither is known."""
        parts = [(self.seeds, "seed"), (self.images, "image")]
        return ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in parts if count is not None)


@dataclass(frozen=True)
class ResultRow:
    """A row: what part it plays ("ours", "teacher", …), a label for each label heading, its cells by column key."""

    role: str
    labels: tuple[str, ...]
    cells: Mapping[str, ResultCell]
    note: str


@dataclass(frozen=True)
class ResultTable:
    """A table of tables/*.json; `attack_source` is "" where the table does not say it."""

    name: str
    caption: str
    label_headings: tuple[str, ...]
    columns: tuple[ResultColumn, ...]
    rows: tuple[ResultRow, ...]
    attack_source: str


def read_result_table(value: object, source: str) -> ResultTable:
    """Read the JSON form.

    Raises:
        ValueError: a field is missing or not what it should be; the message names `source` and the field.
    """
    given = _object(value, source)
    headings = tuple(map(str, _items(given, "label_headings", source)))
    columns = tuple(
        ResultColumn(*(_text(each, name) for name in ("key", "heading", "group", "unit")))
        for each in (_object(column, f"{source}: columns") for column in _items(given, "columns", source))
    )
    rows = tuple(
        _row(row, f"{source}: rows[{place}]", len(headings)) for place, row in enumerate(_items(given, "rows", source))
    )
    name, caption, attack_source = (_text(given, field) for field in ("name", "caption", "attack_source"))
    return ResultTable(name or source, caption, headings, columns, rows, attack_source)


def result_table(table: ResultTable) -> Element:
    """The table as HTML, groups of columns under a heading of their own; seeds and images are shown on hovering."""
    groups: list[Element] = []
    for group, members in groupby(table.columns, lambda column: column.group):
        groups.append(element("th", group, scope="colgroup", colspan=len(list(members)), class_="group"))
    labels = [element("th", heading, scope="col") for heading in table.label_headings]
    headings = [element("th", _heading(column), scope="col", class_="number") for column in table.columns]
    head = element("thead", element("tr", *labels, *headings))
    if any(column.group for column in table.columns):
        blank = element("td", colspan=len(labels)) if labels else None
        head.insert(0, element("tr", blank, *groups))
    caption = f"{table.name}: {table.caption}" if table.caption else table.name
    source = element("span", f" Attacks computed on: {table.attack_source}.") if table.attack_source else None
    body = element("tbody", *(_table_row(row, table.columns) for row in table.rows))
    whole = element("table", element("caption", caption, source), head, body, class_="results")
    return framed(whole, caption, len(table.rows))


def _heading(column: ResultColumn) -> str:
    return f"{column.heading} ({column.unit})" if column.unit else column.heading


def _table_row(row: ResultRow, columns: tuple[ResultColumn, ...]) -> Element:
    note = element("small", f" {row.note}") if row.note else None
    labels = [element("th", label, scope="row") for label in row.labels]
    if labels and note is not None:
        labels[-1].append(note)
    cells = []
    for column in columns:
        found = row.cells.get(column.key)
        text = "–" if found is None else found.text
        cells.append(element("td", text, class_="number", title=(found and found.origin) or None))
    return element("tr", *labels, *cells, data_role=row.role or None)


def _row(value: object, where: str, labels: int) -> ResultRow:
    given = _object(value, where)
    names = tuple(map(str, _items(given, "labels", where)))
    if len(names) != labels:
        raise ValueError(f"{where}.labels must be {labels}, one a label heading, got {len(names)}")
    cells = {
        str(key): _cell(cell, f"{where}.cells[{key!r}]")
        for key, cell in _object(given.get("cells"), f"{where}.cells").items()
        if cell is not None
    }
    return ResultRow(_text(given, "role"), names, cells, _text(given, "note"))


def _cell(value: object, where: str) -> ResultCell:
    given = _object(value, where)
    deviation, seeds, images = (given.get(name) for name in ("deviation", "seeds", "images"))
    return ResultCell(
        value=require_number(f"{where}.value", given.get("value")),
        deviation=None if deviation is None else require_number(f"{where}.deviation", deviation, minimum=0.0),
        seeds=None if seeds is None else require_integer(f"{where}.seeds", seeds, 0),
        images=None if images is None else require_integer(f"{where}.images", images, 0),
    )


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object, got {type(value).__name__}")
    return value


def _items(given: Mapping[str, Any], name: str, where: str) -> list[Any]:
    items = given.get(name)
    if not isinstance(items, list):
        raise ValueError(f"{where}: {name} must be a list, got {type(items).__name__}")
    return items


def _text(given: Mapping[str, Any], name: str) -> str:
    found = given.get(name)
    return "" if found is None else str(found)
