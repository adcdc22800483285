"""The Markdown of a table of results, with the paper's figures beside the measured ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.result_table import Cell, Column, ResultTable, Row

DASH = "–"
"""Stands where there is no figure."""

ATTACK_NOTES = {
    "student": "Attacks are computed on the row's own network (white box).",
    "teacher": (
        "Attacks are computed on the teacher and transferred to the row's network (Algorithm 2): not white-box"
        " figures, and not to be compared with them. The teacher's own row alone is white box."
    ),
    "unclear": (
        "The paper does not say on which network attacks are computed: Algorithm 2 says on the teacher, and the"
        " rivals' figures are white-box ones."
    ),
}
"""What attacks are computed on → the line below a table that says so."""

PERCENT = "%"


def table_markdown(table: ResultTable, reported: ResultTable | None = None) -> str:
    """The whole table: caption, heading, a line a row, notes. See `ResultTable.markdown`."""
    heads = [*table.label_headings, *(column.title for column in table.columns)]
    rules = [*["---"] * len(table.label_headings), *["--:"] * len(table.columns)]
    best = _best(table)
    lines = [heads, rules]
    for row in table.rows:
        texts = [_beside(table, row, column, best, reported) for column in table.columns]
        lines.append([*row.labels, *texts])
    drawn = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
    notes = [*_notes(table), *([] if reported is None else _reported_notes(table, reported)), *_row_notes(table)]
    source = f" ({table.source})" if table.source else ""
    return f"**{table.caption}**{source}\n\n{drawn}\n" + "".join(f"{note}\n" for note in notes)


def figure_text(cell: Cell | None, unit: str, printed: bool = False) -> str:
    """A figure with its deviation, such as 41.2 ± 0.8; an en dash for None.

    Accuracies have one decimal, other figures three significant digits.

    Args:
        printed: the figure was read off a printed page, and keeps the digits it has there: accuracies have two
            decimals, other figures all of theirs.
    """
    if cell is None:
        return DASH
    parts = [cell.value] if cell.deviation is None else [cell.value, cell.deviation]
    return " ± ".join(_digits(part, unit, printed) for part in parts)


def _digits(value: float, unit: str, printed: bool) -> str:
    if unit == PERCENT:
        return f"{value:.{2 if printed else 1}f}"
    if printed:
        return f"{value:g}"
    rounded = float(f"{value:.3g}")  # 128.4 → 128, and 1234 → 1230 rather than 1.23e+03
    decimals = len(f"{value:#.3g}".partition(".")[2]) if 1e-4 <= abs(value) < 1000 else 0
    return f"{rounded:,.{decimals}f}"


def _best(table: ResultTable) -> dict[tuple[str, str], str]:
    """(budget group, column key) → the text of the highest accuracy, where there are two or more to compare."""
    best: dict[tuple[str, str], str] = {}
    rows = [row for row in table.rows if not _apart(table, row)]
    for group in {row.group for row in rows}:
        for column in table.columns:
            cells = [row.cells[column.key] for row in rows if row.group == group and column.key in row.cells]
            if column.unit == PERCENT and len(cells) > 1:
                highest = max(cell.value for cell in cells)
                best[group, column.key] = _digits(highest, PERCENT, bool(table.source))
    return best


def _apart(table: ResultTable, row: Row) -> bool:
    """Whether a row is white box in a table of transferred attacks: the teacher that they are computed on."""
    return table.attack_source == "teacher" and row.role.rpartition("/")[2] == "teacher"


def _beside(
    table: ResultTable, row: Row, column: Column, best: dict[tuple[str, str], str], reported: ResultTable | None
) -> str:
    """The figure of a place, bold if it reads as the best, and the paper's behind it."""
    cell, printed = row.cells.get(column.key), bool(table.source)
    text = figure_text(cell, column.unit, printed)
    if (
        cell is not None
        and not _apart(table, row)
        and best.get((row.group, column.key)) == _digits(cell.value, column.unit, printed)
    ):
        text = f"**{text}**"
    theirs = None if reported is None else reported.cell(row.role, column.key)
    if reported is None or theirs is None:
        return text
    their_column = reported.column(column.key)
    unit = column.unit if their_column is None else their_column.unit
    other = "" if unit == column.unit else f" {unit}"
    return f"{text} (paper {_digits(theirs.value, unit, True)}{other})"


def _notes(table: ResultTable) -> list[str]:
    """What the figures are of: seeds, images, attack source."""
    cells = [cell for row in table.rows for cell in row.cells.values()]
    notes = []
    spread = any(cell.deviation is not None for cell in cells)
    seeds = _range(cell.seeds for cell in cells)
    if seeds:
        notes.append(f"{'Mean ± sample standard deviation' if spread else 'Mean'} over seeds; seeds: {seeds}.")
    elif spread:
        notes.append("± is a deviation over a number of trainings that is not stated.")
    accuracies = [column for column in table.columns if column.unit == PERCENT]
    images = {
        column.title: _range(row.cells[column.key].images for row in table.rows if column.key in row.cells)
        for column in accuracies
    }
    known = {title: counts for title, counts in images.items() if counts}
    if len(known) == len(images) and len(set(known.values())) == 1:
        notes.append(f"Test images: {next(iter(known.values()))}.")
    elif known:
        notes.append(f"Test images: {'; '.join(f'{title} {counts}' for title, counts in known.items())}.")
    if accuracies:
        notes.append(ATTACK_NOTES[table.attack_source])
    return [" ".join(notes)] if notes else []


def _reported_notes(table: ResultTable, reported: ResultTable) -> list[str]:
    """What stands in brackets, on what data the paper measured it, and which of its rows are not here."""
    places = {
        f"{column.group} at the place of {theirs.group}": None
        for column in table.columns
        if (theirs := reported.column(column.key)) is not None and theirs.group not in ("", column.group)
    }
    where = f"; {', '.join(places)}" if places else ""
    notes = ["", f"In brackets: {reported.source or reported.name}, same row and column{where}."]
    absent = [row.role for row in reported.rows if table.row(row.role) is None]
    if absent:
        notes.append(f"Rows of the paper that were not measured: {', '.join(absent)}.")
    return notes


def _row_notes(table: ResultTable) -> list[str]:
    noted = [f"- {' '.join(row.labels)} ({row.role}): {row.note}" for row in table.rows if row.note]
    return ["", *noted] if noted else []


def _range(counts: Iterable[int | None]) -> str:
    """Such as "3" or "100 to 1,000"; empty if none is known."""
    known: Sequence[int] = sorted({count for count in counts if count is not None})
    if not known:
        return ""
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
