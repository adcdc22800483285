"""A run folder, read: the record, and whatever of tables, searches, texts and pictures lies beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.reporting.searches import Search, read_searches, searches_of_record
from experiments.result_table import ResultTable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first eight bytes of every PNG file."""


@dataclass(frozen=True)
class Run:
    """What one run left behind.

    name: the folder's name, or the file's without its suffix.
    record: the JSON object of record.json.
    searches: of searches.json, or else of the record.
    tables: of tables/*.json, in the order of the files' names, or of a lone record.
    texts: Markdown by file name, such as verdicts.md and table.md.
    images: PNG files by name.
    """

    name: str
    record: Mapping[str, Any]
    searches: tuple[Search, ...] = ()
    tables: tuple[ResultTable, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def measured_by(self) -> str:
        """What rewards and accuracies depend on besides the task: λ of the reward, and the recipe, as JSON."""
        config = self.record.get("config")
        config = config if isinstance(config, Mapping) else {}
        scale = config.get("scale_settings")
        recipe = scale.get("search_recipe") if isinstance(scale, Mapping) else config.get("recipe")
        return json.dumps([config.get("compression_emphasis", 1.0), recipe], sort_keys=True)


def read_run(path: Path) -> Run:
    """Read a run folder, or the file of a record alone (docs/evidence holds such).

    Raises:
        ValueError: there is no record, or a file is not what its name says; the message names the file and what is
            wrong with it.
    """
    if path.is_file():
        record = _record(path)
        name = path.name
        return Run(path.stem, record, searches_of_record(record, name), tables_of_record(record, name))
    if not (path / "record.json").is_file():
        raise ValueError(f"run must be a folder with a record.json, or a record's file, got {str(path)!r}")
    record = _record(path / "record.json")
    searches = path / "searches.json"
    return Run(
        name=path.resolve().name,
        record=record,
        searches=(
            read_searches(_json(searches), searches.name)
            if searches.is_file()
            else searches_of_record(record, "record.json")
        ),
        tables=read_tables(path),
        texts={file.name: file.read_text(encoding="utf-8", errors="replace") for file in sorted(path.glob("*.md"))},
        images={file.name: _png(file) for file in sorted(path.glob("*.png"))},
    )


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read one run or more, each under a name of its own: the second "a" becomes "a (2)".

    Raises:
        ValueError: there is none, or one cannot be read (see `read_run`).
    """
    if not paths:
        raise ValueError("runs must be one run folder or more, got none")
    runs: list[Run] = []
    for run in map(read_run, paths):
        taken = {each.name for each in runs}
        names = (run.name if copy == 1 else f"{run.name} ({copy})" for copy in range(1, len(paths) + 1))
        runs.append(replace(run, name=next(name for name in names if name not in taken)))
    return tuple(runs)


def read_tables(folder: Path) -> tuple[ResultTable, ...]:
    """The tables of a run folder, tables/*.json, in the order of the files' names; none where there are none.

    Raises:
        ValueError: a file is no table; the message names it and the field.
    """
    return tuple(map(_table, sorted((folder / "tables").glob("*.json"))))


def tables_of_record(record: Mapping[str, Any], source: str) -> tuple[ResultTable, ...]:
    """The tables inside a record of `experiments.reproduce`: results.tables, by name; none in another's.

    Args:
        record: a record.json.
        source: what errors name the file by.

    Raises:
        ValueError: a table is malformed; the message names it and the field.
    """
    results = record.get("results")
    tables = results.get("tables") if isinstance(results, Mapping) else None
    if record.get("experiment") != "reproduce" or not isinstance(tables, Mapping):
        return ()
    found = []
    for name, table in tables.items():
        try:
            found.append(ResultTable.from_dict(table))
        except ValueError as error:
            raise ValueError(f"{source}: results.tables[{name!r}]: {error}") from None
    return tuple(found)


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or brackets without end
        raise ValueError(f"{path}: must be JSON: {error}") from None


def _record(path: Path) -> Mapping[str, Any]:
    value = _json(path)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: must be a JSON object, got {type(value).__name__}")
    return value


def _table(path: Path) -> ResultTable:
    try:
        return ResultTable.from_dict(_json(path))
    except ValueError as error:
        raise ValueError(f"{path.parent.name}/{path.name}: {error}") from None


def _png(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(PNG_SIGNATURE):
        raise ValueError(f"{path}: must be a PNG image, its first bytes are {content[:8]!r}")
    return content
