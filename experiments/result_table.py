"""A table of results in the form of the paper's tables: data that is written to JSON, and its Markdown.

Rows and columns are known by their places in the paper (role and key), so that a figure measured elsewhere, on other
data and at another scale, stands beside the figure that the paper prints at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.result_markdown import ATTACK_NOTES, PERCENT, table_markdown
from rcnas_env.validation import require_choice, require_fields, require_integer, require_number

ATTACK_SOURCES = tuple(ATTACK_NOTES)
"""What attacks are computed on: "student" (the row's own network), "teacher" (Algorithm 2), "unclear" (the paper's)."""


@dataclass(frozen=True)
class Cell:
    """One figure.

    value: in the column's unit; accuracies in percent, times in hours.
    deviation: sample standard deviation over seeds (n − 1 below the root), at least 0; None if there is one seed.
    seeds: trainings (or runs) behind the value, at least 1; None where it is not stated.
    images: test images that an accuracy was measured on, at least 1; None where it is not stated, or it is no accuracy.

    Raises:
        ValueError: a field is outside its range, or there is a deviation of one seed.
    """

    value: float
    deviation: float | None = None
    seeds: int | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        require_number("value", self.value)
        if self.deviation is not None:
            require_number("deviation", self.deviation, minimum=0)
            if self.seeds == 1:
                raise ValueError(f"deviation must be None where seeds is 1, got {self.deviation!r}")
        for name, count in (("seeds", self.seeds), ("images", self.images)):
            if count is not None:
                require_integer(name, count, 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without what is None."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Column:
    """A column by its place in the paper, and what it is here.

    key: the paper's place: "cifar10/pgd-20", "tiny-imagenet/autoattack", "cifar10/pgd-20@12/255", "params", "hours".
    heading: what is measured, as it is called here.
    group: what it is measured on, such as "digits" at the place of CIFAR-10; empty for none.
    unit: "%" for accuracies, which are then from 0 to 100; "M" (millions), "G", "h" or any other.
    """

    key: str
    heading: str
    group: str = ""
    unit: str = PERCENT

    @property
    def title(self) -> str:
        """Group, heading and unit in one line; percent is not named, as in the paper."""
        unit = "" if self.unit == PERCENT else f" ({self.unit})"
        return f"{self.group} {self.heading}".strip() + unit


@dataclass(frozen=True)
class Row:
    """A row by its place in the paper.

    role: the paper's row: "5G/teacher", "10G/rc-nas", "no-lips"; what is before the slash is the budget group.
    labels: what stands in the table's first columns.
    cells: by column key; a key that is missing is a figure that is missing.
    note: printed below the table.
    """

    role: str
    labels: tuple[str, ...]
    cells: Mapping[str, Cell]
    note: str = ""

    @property
    def group(self) -> str:
        """The budget group, such as "5G"; empty for a role without one."""
        return self.role.rpartition("/")[0]


@dataclass(frozen=True)
class ResultTable:
    """A table: columns, rows, and what the attacks were computed on.

    name: of the paper's table, such as "table1".
    caption: what it shows.
    label_headings: of the columns before the figures, one for each label of a row.
    columns, rows: in the order to be printed, with keys and roles of which none is there twice.
    attack_source: one of ATTACK_SOURCES.
    source: "paper, Table 1" of a table that the paper reports; empty for one that was measured.

    Raises:
        ValueError: something is empty, there twice, or does not fit the rest.
    """

    name: str
    caption: str
    label_headings: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    attack_source: str = "student"
    source: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError(f"name must not be empty, got {self.name!r}")
        require_choice("attack_source", self.attack_source, ATTACK_SOURCES)
        if not self.label_headings or not self.columns:
            given = f"{self.label_headings!r} and {self.columns!r}"
            raise ValueError(f"{self.name} must have label_headings and columns, got {given}")
        _require_distinct(f"{self.name}.columns", [column.key for column in self.columns])
        _require_distinct(f"{self.name}.rows", [row.role for row in self.rows])
        for row in self.rows:
            self._check(row)

    def _check(self, row: Row) -> None:
        where = f"{self.name}.rows[{row.role!r}]"
        if len(row.labels) != len(self.label_headings):
            raise ValueError(f"{where}.labels must be {len(self.label_headings)}, one a heading, got {row.labels!r}")
        columns = {column.key: column for column in self.columns}
        for key, cell in row.cells.items():
            require_choice(f"{where}.cells", key, tuple(columns))
            low, high = (0.0, 100.0) if columns[key].unit == PERCENT else (0.0, float("inf"))
            require_number(f"{where}.cells[{key!r}].value", cell.value, minimum=low, maximum=high)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [
            {
                "role": row.role,
                "labels": list(row.labels),
                "note": row.note,
                "cells": {key: cell.to_dict() for key, cell in row.cells.items()},
            }
            for row in self.rows
        ]
        return {
            "name": self.name,
            "caption": self.caption,
            "source": self.source,
            "attack_source": self.attack_source,
            "label_headings": list(self.label_headings),
            "columns": [dict(vars(column)) for column in self.columns],
            "rows": rows,
        }

    @classmethod
    def from_dict(cls, data: object) -> ResultTable:
        """The table that `to_dict` wrote.

        Raises:
            ValueError: a field is missing, unknown, or not as it must be; the error names it.
        """
        required = ("name", "caption", "label_headings", "columns", "rows")
        fields = require_fields("table", data, required, ("attack_source", "source"))
        name = _text("name", fields["name"])
        columns, rows = (_list(f"{name}.{field}", fields[field]) for field in ("columns", "rows"))
        return cls(
            name=name,
            caption=_text(f"{name}.caption", fields["caption"]),
            label_headings=_texts(f"{name}.label_headings", fields["label_headings"]),
            columns=tuple(_column(f"{name}.columns[{index}]", each) for index, each in enumerate(columns)),
            rows=tuple(_row(f"{name}.rows[{index}]", each) for index, each in enumerate(rows)),
            attack_source=_text(f"{name}.attack_source", fields.get("attack_source", "student")),
            source=_text(f"{name}.source", fields.get("source", "")),
        )

    def row(self, role: str) -> Row | None:
        """The row of `role`; None if there is none."""
        return next((row for row in self.rows if row.role == role), None)

    def column(self, key: str) -> Column | None:
        """The column of `key`; None if there is none."""
        return next((column for column in self.columns if column.key == key), None)

    def cell(self, role: str, key: str) -> Cell | None:
        """The figure at a place; None where there is none."""
        row = self.row(role)
        return None if row is None else row.cells.get(key)

    def markdown(self, reported: ResultTable | None = None) -> str:
        """The table as Markdown, in the paper's form.

        The highest accuracy of a column within a budget group is bold, a missing figure an en dash. Below stand the
        seeds, the images and what the attacks were computed on. `reported`, the paper's table, adds its figure at the
        same place in brackets.
        """
        return table_markdown(self, reported)


def _require_distinct(field: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise ValueError(f"{field} must have names that are not empty and differ, got {twice or ''!r} more than once")


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text, got {value!r}")
    return value


def _list(field: str, value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{field} must be a list, got {value!r}")
    return value


def _texts(field: str, value: object) -> tuple[str, ...]:
    return tuple(_text(f"{field}[{index}]", each) for index, each in enumerate(_list(field, value)))


def _column(field: str, value: object) -> Column:
    fields = require_fields(field, value, ("key", "heading"), ("group", "unit"))
    return Column(**{name: _text(f"{field}.{name}", each) for name, each in fields.items()})


def _row(field: str, value: object) -> Row:
    fields = require_fields(field, value, ("role", "labels", "cells"), ("note",))
    cells = fields["cells"]
    if not isinstance(cells, Mapping):
        raise ValueError(f"{field}.cells must be an object, column key → figure, got {cells!r}")
    return Row(
        role=_text(f"{field}.role", fields["role"]),
        labels=_texts(f"{field}.labels", fields["labels"]),
        cells={key: _cell(f"{field}.cells[{key!r}]", each) for key, each in cells.items()},
        note=_text(f"{field}.note", fields.get("note", "")),
    )


def _cell(field: str, value: object) -> Cell:
    fields = require_fields(field, value, ("value",), ("deviation", "seeds", "images"))
    try:
        return Cell(**fields)
    except ValueError as error:
        raise ValueError(f"{field}.{error}") from error
