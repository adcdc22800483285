"""The paper's tables, figure by figure: `experiments/reported/NAME.json`, and their loader.

Table 8 is a list of notations. Of the deviations that the paper prints, it does not say over how many trainings.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from experiments.result_table import ResultTable
from rcnas_env.validation import require_choice

FOLDER = Path(__file__).parent / "reported"


@cache
def known_reported() -> tuple[str, ...]:
    """Names of the tables, in the paper's order: "table1" … "table7", "table9", "table10"."""
    return tuple(sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda name: (len(name), name)))


@cache
def load_reported(name: str) -> ResultTable:
    """The table of that name as the paper prints it; `source` is the place, such as "paper, Table 1".

    Raises:
        ValueError: no table has that name, or its file is not as it must be.
    """
    require_choice("name", name, known_reported())
    table = ResultTable.from_dict(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    if table.name != name:
        raise ValueError(f"name in {name}.json must be {name!r}, got {table.name!r}")
    return table
