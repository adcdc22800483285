"""The paper's tables and figures, one command each.

    python -m experiments.reproduce table1 --dry-run
    python -m experiments.reproduce table1 figure3
    python -m experiments.reproduce all --scale laptop

table1 … table7, table9, table10, figure1, figure3, figure4, figure6, or all. Scales: "laptop" (two cores, the digits),
"gpu" (one data-centre GPU, paper-size networks, short trainings), "paper" (the paper's settings). What a scale stands
for is in experiments/reproduction/scale.py.

1. Pre-trains the state encoder, meta-trains RC-NAS and its ablations, fine-tunes them on every task that is needed.
2. Trains the chosen students and all rivals by the final recipe, prunes teachers; attacks them on the test set.
3. Writes the tables in the paper's form with the paper's figures beside the measured ones, the figures, a verdict on
   each claim that could be tested, and record.json.

Everything is kept as it is done: the same command goes on after an interruption, and tables share their trainings.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

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
from experiments.reproduction.estimate import estimate
from experiments.reproduction.finals import Final, Measured
from experiments.reproduction.plan import Plan, make_plan, missing_datasets, resolve_targets
from experiments.reproduction.running import run_finals, run_prunings, run_searches
from experiments.reproduction.scale import Scale, scale_named
from experiments.reproduction.searches import Found, SearchKey, SearchSettings, meta_charge
from experiments.result_table import ResultTable
from experiments.run_record import RunRecord
from experiments.stopping import ended_by_the_system, stoppable
from experiments.worker_pool import mapper
from rcnas_env.data import DataUnavailableError
from rcnas_env.training.fit import cpu_threads
from rcnas_env.validation import require_choice, require_integer
from rcnas_env.whole_files import write_text

AGENT_SETTINGS: Mapping[str, Mapping[str, Any]] = {"vpg": {"update": "step"}, "vpg+": {}}
"""The paper's agent updates within the loop over t (Algorithm 1)."""


@dataclass(frozen=True)
class Reproduce:
    """Settings of a reproduction.

    Raises:
        ValueError: a target or field is out of range.
    """

    targets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Tables and figures ("table1", "figure3", …), or "all"."""
    scale: Literal["laptop", "gpu", "paper"] = "laptop"
    """How large; see experiments/reproduction/scale.py."""
    agent: Literal["vpg", "vpg+"] = "vpg"
    """Who searches: the paper's agent, or the improved one."""
    datasets: tuple[str, ...] = ()
    """Only these of the scale's data sets; none for all whose files are here."""
    seeds: int | None = None
    """Final trainings of each network, in place of the scale's number."""
    seed: int = 0
    """Of encoders, meta-trainings, searches and the trainings within them."""
    through_teacher: bool = True
    """Measure Tables 1 and 5 with attacks computed on the teacher too (the letter of Algorithm 2), in tables apart."""
    dry_run: bool = False
    """Print what would be trained, how long it may take, and what the store has; train but a few timed steps."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes of one thread each; 0 for this one alone."""
    device: str = "auto"
    """"auto" (a GPU where there is one), "cpu", "cuda:0", …"""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster that trains in place of this machine, prunings aside (docs/scaling.md)."""
    time_limit: float | None = None
    """Seconds that one training or attack may take, prunings aside; it counts as diverged then (docs/faults.md)."""
    store: str = "default"
    """Folder of the store."""
    out: Path | None = None
    """Run folder; runs/reproduce-SCALE-AGENT if not given. One with the same settings is gone on with."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Whether wandb gets the results too."""

    def __post_init__(self) -> None:
        resolve_targets(self.targets)
        require_choice("agent", self.agent, tuple(AGENT_SETTINGS))
        require_integer("seed", self.seed, 0)
        require_integer("workers", self.workers, 0)
        if self.seeds is not None:
            require_integer("seeds", self.seeds, 1)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / f"reproduce-{self.scale}-{self.agent}"

    def settings(self, scale: Scale | None = None) -> SearchSettings:
        """What the searches need to know."""
        chosen = scale or scale_named(self.scale)
        chosen = chosen if self.seeds is None else replace(chosen, seeds=self.seeds)
        return SearchSettings(
            chosen,
            self.folder,
            self.agent,
            self.seed,
            self.store,
            self.device,
            AGENT_SETTINGS[self.agent],
            self.ray_address,
            self.time_limit,
        )


@dataclass(frozen=True)
class Results:
    """What a run found: searches, cells, tables by name, and the evaluation curves of Figure 3."""

    found: Mapping[SearchKey, Found]
    measured: Mapping[Final, Measured]
    tables: Mapping[str, ResultTable]
    curves: Mapping[str, list[list[float]]]


def reproduce(config: Reproduce, scale: Scale | None = None) -> Results:
    """The whole job: searches, final figures, tables, figures, verdicts, record.

    Args:
        config: what is wanted.
        scale: in place of the one that the configuration names; for tests.

    Raises:
        ValueError: the run folder holds a run of other settings.
        DataUnavailableError: the files of none of the scale's data sets are here.
    """
    settings = config.settings(scale)
    plan = _plan(config, settings)
    record = RunRecord("reproduce", config.folder, {**asdict(config), "scale_settings": asdict(settings.scale)})
    _claim_folder(config.folder, settings)
    with mapper(config.workers) as each:
        found = run_searches(settings, plan, each)
        record.phase("meta-training and searches")
        measured = run_prunings(settings, plan, each)
        record.phase("pruning")
    measured |= run_finals(settings, plan, found, config.workers)
    record.phase("final trainings and attacks")
    results = _results(config, settings, plan, found, measured)
    _write(config.folder, plan, settings.scale, results)
    record.results = _as_json(results, plan)
    record.phase("tables and figures")
    record.finish()
    record.log_to_wandb(config.wandb)
    return results


def _plan(config: Reproduce, settings: SearchSettings) -> Plan:
    missing = missing_datasets(settings.scale, config.datasets)
    if missing:
        print(f"reproduce: left out, not wanted or not here (docs/data.md): {', '.join(missing)}", file=sys.stderr)
    return make_plan(settings.scale, resolve_targets(config.targets), config.through_teacher, missing)


def _claim_folder(folder: Path, settings: SearchSettings) -> None:
    """Note what decides the searches; refuse a folder in which something else did."""
    recipe = settings.scale.search_recipe.to_dict()
    deciding = {**asdict(settings.scale), "search_recipe": recipe, "agent": settings.agent, "seed": settings.seed}
    for free in ("seeds", "table_groups", "curve_seeds", "autoattack_images", "final_recipe"):
        deciding.pop(free)
    deciding["groups"] = {label: [each.teacher, each.budget] for label, each in settings.scale.groups.items()}
    text, path = json.dumps(deciding, indent=1, default=str) + "\n", folder / "settings.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"out must be a new folder for these settings, got {str(folder)!r} with searches of others")
    write_text(path, text)


def _results(
    config: Reproduce,
    settings: SearchSettings,
    plan: Plan,
    found: Mapping[SearchKey, Found],
    measured: Mapping[Final, Measured],
) -> Results:
    scale, labels = settings.scale, network_labels(settings.scale)
    tables = {}
    for name in plan.targets:
        if name in TABLES:
            tables[name] = build_table(scale, name, measured, labels, plan.missing)
        if name in THROUGH_TEACHER and config.through_teacher:
            through = build_table(scale, name, measured, labels, plan.missing, "teacher")
            tables[through.name] = through
    if "table4" in plan.targets:
        charge = meta_charge(settings.folder, "rc-nas") if "rc-nas" in plan.meta else None
        tables["table4"] = time_table(scale, found, charge, plan.missing)
    curves: dict[str, list[list[float]]] = {}
    if "figure3" in plan.targets:
        places, groups, attacks = FIGURES["figure3"]
        for place in places_of(scale, places, plan.missing):
            for group in groups_of(scale, "figure3", groups):
                curves = curves_of(found, place, group, attacks[0])
    return Results(found, measured, tables, curves)


def _write(folder: Path, plan: Plan, scale: Scale, results: Results) -> None:
    """tables/NAME.json and .md, figures, searches.json, verdicts.md, and all of the text as results.md."""
    texts = []
    for name, table in results.tables.items():
        write_text(folder / "tables" / f"{name}.json", json.dumps(table.to_dict(), indent=1))
        text = table.markdown(load_reported(name.removesuffix("-through-teacher")))
        write_text(folder / "tables" / f"{name}.md", text)
        texts.append(f"## {name}\n{text}")
    verdicts = verdicts_markdown(judge(results.tables, results.curves or None))
    write_text(folder / "verdicts.md", verdicts)
    for name in plan.targets:
        if name in FIGURES:
            texts.extend(_draw(folder, name, plan, scale, results))
    searches = [each.to_dict() for each in results.found.values()]
    write_text(folder / "searches.json", json.dumps(searches, allow_nan=False))
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
            for place in places_of(scale, places, plan.missing)
            for group in groups_of(scale, name, groups)
            for attack in attacks
        ]
        found = [results.found[key] for key in wanted]
        if not found:
            return []
        (ratios_figure if name == "figure4" else topology_figure)(found, path)
    return [f"## {name}\n![{name}]({name}.png)"]


def _as_json(results: Results, plan: Plan) -> dict[str, Any]:
    return {
        "targets": list(plan.targets),
        "left out": list(plan.missing),
        "tables": {name: table.to_dict() for name, table in results.tables.items()},
        "verdicts": [asdict(verdict) for verdict in judge(results.tables, results.curves or None)],
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


def _dry_run(config: Reproduce) -> None:
    settings = config.settings()
    plan = _plan(config, settings)
    searched = sum((settings.folder / "searches" / f"{key.name}.json").exists() for key in plan.searches)
    print(f"{', '.join(plan.targets)} at scale {settings.scale.name}")
    print(f"Meta-trainings: {', '.join(plan.meta) or 'none'}. Searches: {len(plan.searches)}, {searched} of them done.")
    print(estimate(settings, plan).text(config.workers))


def main() -> int:
    """Command line."""
    try:
        config = tyro.cli(Reproduce, description=__doc__)
    except ValueError as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return 2

    kept = "Finished trainings and searches are kept."

    def work() -> int:
        """Run the command; 0, 2 where the input is at fault, 1 where the system is."""
        start = time.monotonic()
        try:
            with cpu_threads(1):  # this process only waits for the workers
                if config.dry_run:
                    _dry_run(config)
                    return 0
                reproduce(config)
        except (ValueError, DataUnavailableError) as error:  # CheckpointError too
            print(f"reproduce: error: {error}", file=sys.stderr)
            return 2
        except OSError as error:  # DataUnavailableError, which is one, is the command line's
            return ended_by_the_system(error, "reproduce", kept)
        except BrokenProcessPool:
            text = "a worker process died; what is finished is kept, and the same command goes on from there"
            print(f"reproduce: error: {text}", file=sys.stderr)
            return 1
        print((config.folder / "results.md").read_text(encoding="utf-8"))
        print(f"Tables, figures and record: {config.folder} ({time.monotonic() - start:.0f} s)")
        return 0

    return stoppable(work, "reproduce", kept)


if __name__ == "__main__":
    sys.exit(main())
