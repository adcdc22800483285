"""The section of one run: verdicts, charts, tables, pictures, all other results, configuration, evidence."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from experiments.reporting.curve_chart import curve_chart
from experiments.reporting.curves import best_so_far, curves_of
from experiments.reporting.data_tables import data_table
from experiments.reporting.elements import Element, element
from experiments.reporting.front_chart import front_chart
from experiments.reporting.markdown_texts import markdown
from experiments.reporting.result_tables import result_table
from experiments.reporting.run_folder import Run, tables_of_record
from experiments.reporting.searches import by_task
from experiments.reporting.stage_chart import stage_chart
from experiments.reporting.value_tree import entries, settings_table

VERDICTS = "verdicts.md"
OPEN_TASKS = 2
"""Tasks whose charts are unfolded from the start; a reproduction has dozens."""

_EVIDENCE = ("experiment", "command", "started", "seconds", "commit", "versions", "hardware")


def run_section(run: Run, name: str) -> Element:
    """The section of `run`; `name` is its id, unique in the page."""
    blocks = [
        *_verdicts(run),
        *_charts(run, name),
        *_tables(run),
        *_images(run),
        *_results(run),
        *_settings(run),
        *_evidence(run.record),
    ]
    return element("section", element("h2", run.name), _facts(run.record), *blocks, id=name)


def _facts(record: Mapping[str, Any]) -> Element:
    """Experiment, start, duration, commit in one line."""
    seconds = record.get("seconds")
    whole = seconds.get("all") if isinstance(seconds, Mapping) else None
    facts = [
        record.get("experiment"),
        record.get("started"),
        f"{whole:,.0f} s" if isinstance(whole, int | float) else None,
        f"commit {_short(record['commit'])}" if isinstance(record.get("commit"), str) else None,
    ]
    return element("p", *(element("span", str(fact)) for fact in facts if fact), class_="facts")


def _short(commit: str) -> str:
    """Its first twelve digits, with the + that says that files had been changed."""
    return commit[:12] + "+" * (commit.endswith("+") and len(commit) > 12)


def _verdicts(run: Run) -> list[Element]:
    results = run.record.get("results")
    said = results.get("verdict") if isinstance(results, Mapping) else None
    if VERDICTS in run.texts:
        return [element("h3", "Verdicts"), markdown(run.texts[VERDICTS])]
    if isinstance(said, str) and not any(said in text for text in run.texts.values()):
        return [element("h3", "Verdicts"), element("ul", *(element("li", line) for line in said.splitlines()))]
    return []


def _charts(run: Run, name: str) -> list[Element]:
    """Stages, Pareto front and learning curves for each task, folded from the third task on; then other curves."""
    groups = by_task(run.searches)
    blocks = []
    for place, (task, searches) in enumerate(groups.items()):
        charts = [stage_chart(searches, f"{name}-{place}"), front_chart(searches), curve_chart(best_so_far(searches))]
        summary = element("summary", element("h3", task.title))
        blocks.append(element("details", summary, *charts, class_="task", open=place < OPEN_TASKS))
    return blocks + [curve_chart(curves) for curves in curves_of(run)[len(groups) :]]


def _tables(run: Run) -> list[Element]:
    blocks = [result_table(table) for table in run.tables]
    for file, text in run.texts.items():
        if file != VERDICTS:  # beside tables, it says them again: folded
            summary = element("summary", element("h4", file))
            blocks.append(element("details", summary, markdown(text), open=not run.tables))
    return [element("h3", "Tables"), *blocks] if blocks else []


def _images(run: Run) -> list[Element]:
    pictures = [
        element(
            "figure",
            element("img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=file),
            element("figcaption", file),
            class_="picture",
        )
        for file, content in run.images.items()
    ]
    summary = element("summary", element("h3", "Figures of the run"))
    return [element("details", summary, element("div", *pictures, class_="pictures"), open=True)] if pictures else []


def _results(run: Run) -> list[Element]:
    """What else the record holds, as trees; of trials, the charts' tables show all, and tables are there as such."""
    results = run.record.get("results")
    shown = ["trials", "verdict"] if run.searches else []
    if run.tables and tables_of_record(run.record, run.name):
        shown.append("tables")
    trees = entries(results, shown) if isinstance(results, Mapping) else []
    other = {key: value for key, value in run.record.items() if key not in (*_EVIDENCE, "config")}
    if isinstance(results, Mapping):
        del other["results"]
    trees += entries(other)
    return [element("h3", "Results"), *trees] if trees else []


def _settings(run: Run) -> list[Element]:
    config = run.record.get("config")
    if not isinstance(config, Mapping) or not config:
        return []
    return [element("details", element("summary", element("h3", "Configuration")), settings_table(config))]


def _evidence(record: Mapping[str, Any]) -> list[Element]:
    """Command, commit, versions, hardware, seconds: what traces each figure to the run."""
    rows: list[list[str]] = []
    for field in _EVIDENCE:
        value = record.get(field)
        if isinstance(value, Mapping):
            rows += [[f"{field}, {key}", _fact(each)] for key, each in value.items()]
        elif value is not None:
            rows.append([field, _fact(value)])
    if not rows:
        return []
    table = data_table(["what", "value"], rows, "Where these figures come from")
    return [element("details", element("summary", element("h3", "Evidence")), table, data_print=True)]


def _fact(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else "none" if value is None else str(value)
