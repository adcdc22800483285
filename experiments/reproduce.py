"""The paper's tables and figures, one command each.

    python -m experiments.reproduce table1 --dry-run
    python -m experiments.reproduce table1 figure3
    python -m experiments.reproduce all --scale laptop

table1 … table7, table9, table10, figure1, figure3, figure4, figure6, or all. Scales: "laptop" (two cores, the digits),
"gpu" (one data-centre GPU, paper-size networks, short trainings), "paper" (the paper's settings). What a scale stands
for is in experiments/reproduction/scale.py.

1. Pre-trains the state encoder, meta-trains RC-NAS and its ablations, fine-tunes them on every task that is needed;
   processes that have nothing to meta-train take networks of step 2 that are known already.
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
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.reproduction.estimate import estimate
from experiments.reproduction.outline import outline
from experiments.reproduction.plan import (
    Plan,
    absent_datasets,
    make_plan,
    missing_datasets,
    resolve_targets,
    unwanted_datasets,
)
from experiments.reproduction.results import Results, as_json, collect, write
from experiments.reproduction.running import run_finals, run_prunings, run_searches
from experiments.reproduction.scale import Scale, scale_named
from experiments.reproduction.searches import SearchSettings, meta_places
from experiments.run_record import RunRecord
from experiments.stopping import ended_by_the_system, stoppable
from experiments.wandb_settings import WandbMode, default_mode
from experiments.worker_pool import mapper
from rcnas_env.data import DataUnavailableError
from rcnas_env.training.fit import cpu_threads
from rcnas_env.validation import require_choice, require_integer, require_number
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
    """Print what would be trained, how long it may take, and what is done already; needs no data set's files and no
    GPU, and trains but a few timed steps on random images."""
    assume_tflops: float | None = None
    """Estimate at this rate of computation, in 10^12 floating-point operations a second, in place of timed steps. If
    not given, steps are timed where that takes less than about a minute, else 30 are assumed."""
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
    wandb: WandbMode = field(default_factory=default_mode)
    """Whether wandb gets the results too; what WANDB_MODE asks for, else not."""

    def __post_init__(self) -> None:
        resolve_targets(self.targets)
        require_choice("agent", self.agent, tuple(AGENT_SETTINGS))
        require_integer("seed", self.seed, 0)
        require_integer("workers", self.workers, 0)
        if self.seeds is not None:
            require_integer("seeds", self.seeds, 1)
        if self.assume_tflops is not None:
            require_number("assume_tflops", self.assume_tflops, minimum=0.0, exclusive_minimum=True)

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


def reproduce(config: Reproduce, scale: Scale | None = None) -> Results:
    """The whole job: searches, final figures, tables, figures, verdicts, record.

    Args:
        config: what is wanted.
        scale: in place of the one that the configuration names; for tests.

    Raises:
        ValueError: the run folder holds a run of other settings, or no target can be made.
        DataUnavailableError: the files of none of the scale's data sets are here.
    """
    settings = config.settings(scale)
    plan = _plan(config, settings)
    record = RunRecord("reproduce", config.folder, {**asdict(config), "scale_settings": asdict(settings.scale)})
    _claim_folder(config.folder, settings, plan.missing)
    with mapper(config.workers) as each:
        found = run_searches(settings, plan, each)
        record.phase("meta-training and searches")
        measured = run_prunings(settings, plan, each)
        record.phase("pruning")
    measured |= run_finals(settings, plan, found, config.workers)
    record.phase("final trainings and attacks")
    results = collect(settings, plan, found, measured, config.through_teacher)
    write(config.folder, plan, settings.scale, results)
    record.results = as_json(results, plan)
    record.phase("tables and figures")
    record.finish()
    record.log_to_wandb(config.wandb)
    return results


def _plan(config: Reproduce, settings: SearchSettings) -> Plan:
    missing = missing_datasets(settings.scale, config.datasets)
    if missing:
        print(f"reproduce: left out, not wanted or not here (docs/data.md): {', '.join(missing)}", file=sys.stderr)
    return _make_plan(config, settings.scale, missing)


def _make_plan(config: Reproduce, scale: Scale, missing: tuple[str, ...]) -> Plan:
    """The plan; says what is left out.

    Raises:
        ValueError: nothing is left.
    """
    plan = make_plan(scale, resolve_targets(config.targets), config.through_teacher, missing)
    for name, reason in plan.left_out.items():
        print(f"reproduce: {name} is left out: {reason}", file=sys.stderr)
    if not plan.targets:
        raise ValueError(f"targets must have one that can be made at scale {scale.name!r}, got none")
    return plan


def _claim_folder(folder: Path, settings: SearchSettings, missing: Sequence[str]) -> None:
    """Note what decides the searches; refuse a folder in which something else did."""
    recipe = settings.scale.search_recipe.to_dict()
    deciding = {**asdict(settings.scale), "search_recipe": recipe, "agent": settings.agent, "seed": settings.seed}
    for free in ("seeds", "table_groups", "table_places", "curve_seeds", "autoattack_images", "final_recipe"):
        deciding.pop(free)
    deciding["meta_places"] = meta_places(settings.scale, missing)  # the agents were meta-trained on these alone
    deciding["groups"] = {label: [each.teacher, each.budget] for label, each in settings.scale.groups.items()}
    text, path = json.dumps(deciding, indent=1, default=str) + "\n", folder / "settings.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"out must be a new folder for these settings, got {str(folder)!r} with searches of others")
    write_text(path, text)


def _dry_run(config: Reproduce) -> None:
    """Say what a run would train, for every data set that is wanted, whether or not its files are here."""
    settings = config.settings()
    scale, unwanted = settings.scale, unwanted_datasets(settings.scale, config.datasets)
    for name in absent_datasets(scale):
        if name not in unwanted:
            text = f"{name} is not on this machine (docs/data.md): planned as if it were, but a run goes without"
            print(f"reproduce: {text}", file=sys.stderr)
    plan = _make_plan(config, scale, unwanted)
    print(outline(scale, plan))
    print(estimate(settings, plan, config.assume_tflops).text(config.workers))


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
