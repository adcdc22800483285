"""The table of results: what it refuses, its JSON, and its Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from experiments.result_markdown import ATTACK_NOTES, figure_text
from experiments.result_table import Cell, Column, ResultTable, Row

COLUMNS = (
    Column("params", "#P", unit="M"),
    Column("cifar10/clean", "Clean", "digits"),
    Column("cifar10/autoattack", "AutoAttack", "digits"),
)


def measured() -> ResultTable:
    rows = (
        Row("5G/teacher", ("WRN",), {"params": Cell(0.36), "cifar10/clean": Cell(90.0, 1.25, 3, 1000)}),
        Row(
            "5G/rc-nas",
            ("RC-NAS",),
            {
                "params": Cell(0.18),
                "cifar10/clean": Cell(92.04, 0.25, 3, 1000),
                "cifar10/autoattack": Cell(41.23, 0.81, 3, 200),
            },
            note="found in 10 evaluations",
        ),
        Row("10G/rc-nas", ("RC-NAS",), {"cifar10/clean": Cell(95.0, None, 1, 1000)}),
    )
    return ResultTable("table1", "Digits", ("Model",), COLUMNS, rows)


def reported() -> ResultTable:
    columns = (
        Column("params", "#P", unit="k"),
        Column("cifar10/clean", "Clean", "CIFAR-10"),
        Column("cifar10/autoattack", "AutoAttack", "CIFAR-10"),
    )
    rows = (
        Row("5G/rc-nas", ("theirs",), {"params": Cell(18800.0), "cifar10/autoattack": Cell(57.6, 0.24)}),
        Row("5G/teacher", ("theirs",), {"cifar10/autoattack": Cell(51.66)}),
        Row("40G/racl", ("theirs",), {}),
    )
    return ResultTable("table1", "Theirs", ("Model",), columns, rows, "unclear", "paper, Table 1")


def line(markdown: str, label: str) -> list[str]:
    """The cells of the first line whose first cell is `label`."""
    found = next(each for each in markdown.splitlines() if each.startswith(f"| {label} |"))
    return [each.strip() for each in found.strip("|").split("|")]


@pytest.mark.parametrize("table", [measured(), reported()])
def test_json_gives_the_table_back(table: ResultTable) -> None:
    assert ResultTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_a_cell_is_found_by_its_place() -> None:
    assert measured().cell("5G/rc-nas", "params") == Cell(0.18)
    assert measured().cell("5G/teacher", "cifar10/autoattack") is None
    assert measured().cell("20G/teacher", "params") is None
    assert measured().cell("5G/teacher", "nothing") is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"value": float("nan")}, "value must be a finite number, got nan"),
        ({"value": "1"}, "value must be a finite number, got '1'"),
        ({"value": 1.0, "deviation": -0.1}, "deviation must be"),
        ({"value": 1.0, "deviation": 0.1, "seeds": 1}, "deviation must be None where seeds is 1"),
        ({"value": 1.0, "seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"value": 1.0, "images": 2.5}, "images must be an integer of at least 1, got 2.5"),
    ],
)
def test_a_cell_refuses(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Cell(**fields)


def _set(data: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.pop("rows"), "missing 'rows'"),
        (lambda d: _set(d, ("more",), 1), "unknown 'more'"),
        (lambda d: _set(d, ("name",), ""), "name must not be empty"),
        (lambda d: _set(d, ("caption",), 3), r"table1\.caption must be a text, got 3"),
        (lambda d: _set(d, ("attack_source",), "both"), "attack_source must be one of 'student', 'teacher'"),
        (lambda d: _set(d, ("columns",), []), "must have label_headings and columns"),
        (lambda d: _set(d, ("columns",), "params"), r"table1\.columns must be a list"),
        (lambda d: _set(d, ("columns", 1, "key"), "params"), r"table1\.columns .* got \['params'\]"),
        (lambda d: _set(d, ("rows", 1, "role"), "5G/teacher"), r"table1\.rows .* got \['5G/teacher'\]"),
        (lambda d: _set(d, ("rows", 0, "labels"), ["a", "b"]), r"rows\['5G/teacher'\]\.labels must be 1"),
        (lambda d: _set(d, ("rows", 0, "labels", 0), 1), r"rows\[0\]\.labels\[0\] must be a text"),
        (lambda d: _set(d, ("rows", 0, "cells"), []), r"rows\[0\]\.cells must be an object"),
        (lambda d: _set(d, ("rows", 0, "cells", "speed"), {"value": 1}), r"\.cells must be one of .* got 'speed'"),
        (lambda d: _set(d, ("rows", 0, "cells", "params"), {}), r"cells\['params'\] .* missing 'value'"),
        (lambda d: _set(d, ("rows", 0, "cells", "params"), {"value": "x"}), r"cells\['params'\]\.value must be"),
        (lambda d: _set(d, ("rows", 0, "cells", "params"), {"value": -1}), r"'params'\]\.value must be .* at least 0"),
        (
            lambda d: _set(d, ("rows", 0, "cells", "cifar10/clean", "value"), 101),
            r"clean'\]\.value must be .* most 100",
        ),
    ],
)
def test_a_table_refuses(change: Callable[[dict[str, Any]], object], named: str) -> None:
    data = measured().to_dict()
    change(data)
    with pytest.raises(ValueError, match=named):
        ResultTable.from_dict(data)


@pytest.mark.parametrize(
    ("cell", "unit", "printed", "text"),
    [
        (Cell(41.23, 0.81, 3), "%", False, "41.2 ± 0.8"),
        (Cell(41.2), "%", True, "41.20"),
        (Cell(128.4), "M", False, "128"),
        (Cell(1234.5), "M", False, "1,230"),
        (Cell(5.2), "G", False, "5.20"),
        (Cell(0.01234), "G", False, "0.0123"),
        (Cell(0.0), "h", False, "0"),
        (Cell(18.33), "G", True, "18.33"),
        (None, "%", False, "–"),
    ],
)
def test_figures(cell: Cell | None, unit: str, printed: bool, text: str) -> None:
    assert figure_text(cell, unit, printed) == text


def test_the_best_accuracy_of_a_budget_group_is_bold_and_a_missing_figure_a_dash() -> None:
    drawn = measured().markdown()
    assert line(drawn, "Model") == ["Model", "#P (M)", "digits Clean", "digits AutoAttack"]
    assert line(drawn, "WRN") == ["WRN", "0.360", "90.0 ± 1.2", "–"]
    # alone in its column and group, a figure is the best of nothing
    assert line(drawn, "RC-NAS") == ["RC-NAS", "0.180", "**92.0 ± 0.2**", "41.2 ± 0.8"]
    assert "**95.0**" not in drawn


def test_figures_that_read_the_same_are_both_bold() -> None:
    rows = [Row(f"5G/{name}", (name,), {"cifar10/clean": Cell(value)}) for name, value in (("a", 50.01), ("b", 50.02))]
    drawn = ResultTable("t", "c", ("Model",), COLUMNS, tuple(rows)).markdown()
    assert drawn.count("**50.0**") == 2


def test_the_papers_figure_stands_beside_the_measured_one_with_its_own_unit_and_digits() -> None:
    drawn = measured().markdown(reported())
    ours = line(drawn, "RC-NAS")
    assert ours == ["RC-NAS", "0.180 (paper 18800 k)", "**92.0 ± 0.2**", "41.2 ± 0.8 (paper 57.60)"]
    assert line(drawn, "WRN")[3] == "– (paper 51.66)"
    assert "In brackets: paper, Table 1, same row and column; digits at the place of CIFAR-10." in drawn
    assert "not measured: 40G/racl." in drawn


def test_below_stand_seeds_images_source_and_notes() -> None:
    drawn = measured().markdown()
    assert "sample standard deviation over seeds; seeds: 1 to 3." in drawn
    assert "Test images: digits Clean 1,000; digits AutoAttack 200." in drawn
    assert ATTACK_NOTES["student"] in drawn
    assert "- RC-NAS (5G/rc-nas): found in 10 evaluations" in drawn
    transferred = ResultTable.from_dict({**measured().to_dict(), "attack_source": "teacher"}).markdown()
    assert ATTACK_NOTES["teacher"] in transferred
    assert ATTACK_NOTES["student"] not in transferred


def test_a_table_of_times_says_nothing_of_attacks_and_has_no_best() -> None:
    rows = tuple(Row(f"cifar10/{group}", (group,), {"hours": Cell(1.0)}) for group in ("5G", "10G"))
    drawn = ResultTable("table4", "Times", ("Budget",), (Column("hours", "Hours", unit="h"),), rows).markdown()
    assert "1.00" in drawn
    assert "**1.00**" not in drawn
    assert "ttack" not in drawn


def test_every_line_has_every_column_even_with_a_bar_in_a_label() -> None:
    rows = (Row("5G/a", ("a|b",), {}),)
    lines = ResultTable("t", "c", ("Model",), COLUMNS, rows).markdown().splitlines()
    assert {each.count("|") for each in lines if each.startswith("|")} == {len(COLUMNS) + 2}


@pytest.mark.parametrize(("attack_source", "bold"), [("student", "90.0"), ("teacher", "70.0")])
def test_the_teacher_through_which_others_are_attacked_is_in_no_race(attack_source: str, bold: str) -> None:
    rows = tuple(
        Row(f"5G/{role}", (role,), {"cifar10/pgd-20": Cell(value, None, 1, 100)})
        for role, value in (("teacher", 90.0), ("robustresnet", 70.0), ("rc-nas", 60.0))
    )
    table = ResultTable("table1", "", ("Model",), (Column("cifar10/pgd-20", "PGD-20"),), rows, attack_source)
    text = table.markdown()
    assert [line.strip("| ").split(" | ")[1] for line in text.splitlines() if "**" in line and "|" in line] == [
        f"**{bold}**"
    ]
    assert ("The teacher's own row alone is white box." in text) == (attack_source == "teacher")
