"""What a reproduction found, and the files that it leaves in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.claim_verdict import Verdict
from experiments.paper_claims import judge, verdicts_markdown
from experiments.reported_tables import load_reported
from experiments.reproduction.building import (
    PRUNING_NOTE,
    THROUGH_TEACHER,
    build_table,
    network_labels,
    time_table,
)
from experiments.reproduction.contents import FIGURES, TABLES, groups_of, places_of
from experiments.reproduction.drawing import curves_figure, curves_of, ratios_figure, topology_figure
from experiments.reproduction.finals import Final, Measured
from experiments.reproduction.plan import Plan
from experiments.reproduction.scale import Scale
from experiments.reproduction.searches import Found, SearchKey, SearchSettings, meta_charge
from experiments.result_table import Cell, ResultTable
from rcnas_env.whole_files import write_text


@dataclass(frozen=True)
class Results:
    """What a run found: searches, cells, tables by name, and the evaluation curves of Figure 3."""

    found: Mapping[SearchKey, Found]
    measured: Mapping[Final, Measured]
    tables: Mapping[str, ResultTable]
    curves: Mapping[str, list[list[float]]]


def _verdicts(results: Results) -> list[Verdict]:
    students = {key.name: (each.task.teacher, each.student) for key, each in results.found.items()}
    return judge(results.tables, results.curves or None, students)


def collect(
    settings: SearchSettings,
    plan: Plan,
    found: Mapping[SearchKey, Found],
    measured: Mapping[Final, Measured],
    through_teacher: bool,
) -> Results:
    """The plan's tables out of what was searched and measured.

    Args:
        through_teacher: build `THROUGH_TEACHER` tables of attacks computed on the teacher too.
    """
    scale, labels = settings.scale, network_labels(settings.scale)
    tables = {}
    for name in plan.targets:
        if name in TABLES:
            tables[name] = build_table(scale, name, measured, labels, plan.missing)
        if name in THROUGH_TEACHER and through_teacher:
            through = build_table(scale, name, measured, labels, plan.missing, "teacher")
            tables[through.name] = through
    if "table4" in plan.targets:
        meta = Cell(meta_charge(settings.folder, "rc-nas").seconds / 3600) if "rc-nas" in plan.meta else None
        seconds = {key: each.charge.seconds for key, each in found.items()}
        tables["table4"] = time_table(scale, seconds, meta, plan.missing)
    curves: dict[str, list[list[float]]] = {}
    if "figure3" in plan.targets:
        places, groups, attacks = FIGURES["figure3"]
        for place in places_of(scale, "figure3", places, plan.missing):
            for group in groups_of(scale, "figure3", groups):
                curves = curves_of(found, place, group, attacks[0])
    return Results(found, measured, tables, curves)


def write(folder: Path, plan: Plan, scale: Scale, results: Results) -> None:
    """tables/NAME.json and .md, figures, searches.json, verdicts.md, and all of the text as results.md."""
    texts = []
    for name, table in results.tables.items():
        write_text(folder / "tables" / f"{name}.json", json.dumps(table.to_dict(), indent=1))
        text = table.markdown(load_reported(name.removesuffix("-through-teacher")))
        write_text(folder / "tables" / f"{name}.md", text)
        texts.append(f"## {name}\n{text}")
    verdicts = verdicts_markdown(_verdicts(results))
    write_text(folder / "verdicts.md", verdicts)
    for name in plan.targets:
        if name in FIGURES:
            texts.extend(_draw(folder, name, plan, scale, results))
    searches = [each.to_dict() for each in results.found.values()]
    write_text(folder / "searches.json", json.dumps(searches, allow_nan=False))
    notes = [f"- **{name}** is left out: {reason}." for name, reason in plan.left_out.items()]
    texts += ["\n".join(notes)] if notes else []
    whole = "\n\n".join([*texts, PRUNING_NOTE, "## Claims", verdicts])
    write_text(folder / "results.md", whole + "\n")


def _draw(folder: Path, name: str, plan: Plan, scale: Scale, results: Results) -> list[str]:
    """One of the paper's figures as NAME.png; returns its Markdown, nothing where no search belongs to it."""
    path = folder / f"{name}.png"
    if name == "figure3":
        if not results.curves:
            return []
        curves_figure(results.curves, path, f"{scale.name}: fine-tuning with and without meta-training")
    else:
        places, groups, attacks = FIGURES[name]
        wanted = [
            SearchKey("rc-nas", place, group, attack)
            for place in places_of(scale, name, places, plan.missing)
            for group in groups_of(scale, name, groups)
            for attack in attacks
        ]
        found = [results.found[key] for key in wanted]
        if not found:
            return []
        (ratios_figure if name == "figure4" else topology_figure)(found, path)
    return [f"## {name}\n![{name}]({name}.png)"]


def as_json(results: Results, plan: Plan) -> dict[str, Any]:
    """For the run's record."""
    return {
        "targets": list(plan.targets),
        "left out": list(plan.missing),
        "targets left out": dict(plan.left_out),
        "tables": {name: table.to_dict() for name, table in results.tables.items()},
        "verdicts": [asdict(verdict) for verdict in _verdicts(results)],
        "curves": dict(results.curves),
        "students": {
            key.name: {
                "student": each.student.to_dict(),
                "evaluations": each.charge.evaluations,
                "worker_seconds": round(each.charge.seconds, 1),
            }
            for key, each in results.found.items()
        },
    }
