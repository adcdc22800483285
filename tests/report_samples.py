"""Run folders and pages for the tests of the report: what experiments leave behind, and a page taken apart."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from experiments.result_table import Cell, Column, ResultTable, Row

EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence"
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def quickstart() -> dict[str, Any]:
    """The record of docs/evidence/quickstart.json."""
    record: dict[str, Any] = json.loads((EVIDENCE / "quickstart.json").read_text(encoding="utf-8"))
    return record


def sample_searches() -> list[dict[str, Any]]:
    """A searches.json: two labels on one task, HOSTILE with two seeds that tried the same students in other orders."""
    results = quickstart()["results"]
    trials = results["trials"]["RC-NAS"]

    def entry(label: str, seed: int, tried: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "label": label,
            "task": results["task"],
            "seed": seed,
            "evaluations": len(tried),
            "seconds": 1.5,
            "student": tried[0]["student"],
            "trials": tried,
        }

    other = results["trials"]["random search"]
    return [entry(HOSTILE, 0, trials), entry(HOSTILE, 1, trials[::-1]), entry("random search", 0, other)]


def sample_table() -> ResultTable:
    """A table of two budget groups with a missing figure."""
    columns = (
        Column("params", "#P", unit="M"),
        Column("cifar10/clean", "Clean", "digits"),
        Column("cifar10/autoattack", HOSTILE, "digits"),
    )
    rows = (
        Row("5G/teacher", ("WRN",), {"params": Cell(0.36), "cifar10/clean": Cell(90.04, 1.26, 3, 1000)}),
        Row("5G/rc-nas", (HOSTILE,), {"cifar10/autoattack": Cell(41.0, None, 1, 200)}, note="a note"),
    )
    return ResultTable("table1", "Digits", ("Model",), columns, rows)


def write_run(folder: Path) -> Path:
    """Write a run folder with all that a report reads; returns it."""
    (folder / "tables").mkdir(parents=True)
    config = {"label": HOSTILE, "recipe": quickstart()["config"]["recipe"]}  # the quickstart's, to be compared with it
    record = {"experiment": "reproduce", "config": config, "results": {HOSTILE: HOSTILE, "steps": 7}}
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "searches.json").write_text(json.dumps(sample_searches()))
    (folder / "tables" / "table1.json").write_text(json.dumps(sample_table().to_dict()))
    (folder / "verdicts.md").write_text(f"| claim | outcome |\n|---|--:|\n| {HOSTILE} | holds |\n")
    (folder / "table.md").write_text("# Heading\n\n[a link](https://example.org) ![](https://example.org/x.png)\n")
    matplotlib.image.imsave(folder / "figure.png", np.zeros((2, 2)))
    return folder


class Parsed(HTMLParser):
    """A page taken apart: its tags with their attributes, in order, and the texts outside script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._raw = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the tag."""
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Leave script and style."""
        self._raw = False

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        if not self._raw:
            self.texts.append(data)

    def with_attribute(self, name: str, value: str | None = None) -> list[dict[str, str | None]]:
        """Attributes of every tag that has `name`, and `value` in it if given."""
        return [found for _, found in self.tags if name in found and value in (None, found[name])]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every `tag`."""
        return [found for name, found in self.tags if name == tag]


def marks(runs: list[list[dict[str, Any]]]) -> dict[str, int]:
    """Marks that charts of these searches must show: one list of searches for each chart trio of one task.

    Counted from the JSON alone: a trial for each measured accuracy, two stage bars (width, depth) for each stage of the
    teacher and of each label, a curve a label, a change wherever the mean over seeds of the best so far moves and at
    its end.
    """
    found = {"trial": 0, "budget": 0, "front": 0, "curve": 0, "change": 0, "stage": 0}
    for searches in runs:
        labels: dict[str, list[list[float]]] = {}
        for search in searches:
            labels.setdefault(search["label"], []).append([trial["reward"] for trial in search["trials"]])
        found["trial"] += sum(t["robust_accuracy"] is not None for s in searches for t in s["trials"])
        found["budget"] += 1
        found["front"] += 1
        students = {search["label"]: search["student"] for search in searches}
        networks = [searches[0]["task"]["teacher"], *students.values()]
        found["stage"] += sum(2 * len(network["stages"]) for network in networks)
        for rewards in labels.values():
            length = min(map(len, rewards))
            best = np.mean([np.maximum.accumulate(each[:length]) for each in rewards], axis=0)
            changed = set(np.flatnonzero(np.diff(best)) + 1) | {0, length - 1}
            found["curve"] += length > 1
            found["change"] += len(changed)
    return found


def record_searches(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The searches that a quickstart's record holds, as those of a searches.json; the first student stands for all."""
    results = record["results"]
    return [
        {"label": label, "task": results["task"], "student": trials[0]["student"], "trials": trials}
        for label, trials in results["trials"].items()
    ]
