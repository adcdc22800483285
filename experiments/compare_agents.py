"""The arena: every agent on the same held-out tasks, engine, teachers and number of evaluations.

    python -m experiments.compare_agents --engine tabular --seeds 50
    python -m experiments.compare_agents --engine trained --seeds 3 --evaluations 20 --meta-iterations 4
    python -m experiments.compare_agents --agree runs/arena-tabular runs/arena-trained

1. Pre-trains the state encoders and meta-trains the agents that need it, on training tasks; this is charged to them.
2. Lets each agent search each held-out task by each seed.
3. Writes table.md, agents.md (each agent's results), curves.png and record.json into the run folder, with rliable's
   statistics; on the tabular twin also front.md and front-TASK.png, the Pareto front of robust accuracy against cost
   with the agents' students on it.

Each run is kept as it is done: the same command goes on after an interruption, and comes to the same result; a folder
may be given more agents, or more seeds. --agree compares the ranks of two finished comparisons' agents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from agents.checkpoint import has_checkpoint
from agents.registry import agent_settings
from experiments.arena_agreement import agreement
from experiments.arena_figure import arena_figure
from experiments.arena_front import Front
from experiments.arena_meta import encoder_file, meta_folder, meta_train, pretrain_encoder
from experiments.arena_pages import agent_pages
from experiments.arena_roster import chosen, entry
from experiments.arena_runs import AgentRun, RunKey, RunLog, run_by_key
from experiments.arena_settings import ArenaSettings
from experiments.arena_summary import agent_rows, bar_rows, best_rewards, collect
from experiments.arena_tables import report
from experiments.progress import progress_bar
from experiments.run_record import RunRecord
from experiments.stopping import stoppable
from experiments.worker_pool import Each, mapper
from rcnas_env.tabular.evaluator import NotInTableError
from rcnas_env.tabular.table import load_table
from rcnas_env.training.fit import cpu_threads
from rcnas_env.validation import require_integer

OnRun = Callable[[AgentRun], None]
"""Called with each run as it is done and kept."""


@dataclass(frozen=True)
class CompareAgents(ArenaSettings):
    """Settings of a comparison.

    Raises:
        ValueError: a field is out of range.
    """

    agents: tuple[str, ...] = ()
    """Who competes, by the labels in experiments/arena_roster.py; none for all whose agent is registered."""
    seeds: int = 50
    """Runs of each agent on each task."""
    workers: int = 0
    """Processes of one thread each, a run each; 0 for this one. Results do not depend on it."""
    out: Path | None = None
    """Run folder; runs/arena-ENGINE if not given. One with runs of the same settings is gone on with."""
    agree: tuple[Path, Path] | None = None
    """Two run folders whose agents' ranks are compared; nothing else is done then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("seeds", self.seeds, 1)
        require_integer("workers", self.workers, 0)
        chosen(self.agents)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / f"arena-{self.engine}"

    def runs(self) -> list[RunKey]:
        """All that are to be done, seed by seed, so that an interrupted comparison has of each agent as much."""
        entries = chosen(self.agents)
        return [(each.label, task, seed) for seed in range(self.seeds) for task in self.tasks for each in entries]


def search(config: CompareAgents, on_run: OnRun | None = None) -> RunLog:
    """Do all runs that the folder does not have yet, after what they need; returns the folder's log of runs.

    Raises:
        ValueError: the folder holds runs of other settings, or the engine's table is unknown.
        ModuleNotFoundError: the library of an agent is not installed.
    """
    config.make_evaluator().close()  # an unknown table, or a missing library, is found out before anything is made
    for competitor in chosen(config.agents):
        agent_settings(competitor.agent)
    log = RunLog(config.folder, config.deciding())
    missing = log.missing(config.runs())
    with mapper(config.workers) as each:
        _prepare(config, missing, each)
        with progress_bar("runs", len(config.runs()), done=len(config.runs()) - len(missing)) as bar:
            for run in each(partial(run_by_key, config.alone(), config.folder), missing):
                log.add(run)
                bar.advance(note=run.label)
                if on_run:
                    on_run(run)
    return log


def compare(config: CompareAgents, on_run: OnRun | None = None) -> Path:
    """The whole comparison; returns the run folder.

    Raises:
        ValueError: the folder holds runs of other settings, or the engine's table is unknown.
    """
    folder = config.folder
    record = RunRecord("compare_agents", folder, asdict(config))
    log = search(config, on_run)
    record.phase("search")
    scores = collect(log.runs, config.agents, config.tasks, config.seeds, config.evaluations, config.meta_seeds)
    rows, bars = agent_rows(scores, config.tasks), bar_rows(scores)
    (folder / "table.md").write_text(report(config, config.seeds, rows, bars), encoding="utf-8")
    (folder / "agents.md").write_text(agent_pages(config, config.seeds, rows), encoding="utf-8")
    arena_figure(scores, folder / "curves.png")
    runs = [log.runs[key] for key in config.runs()]
    fronts = _write_fronts(config, runs) if config.engine == "tabular" else {}
    record.results = {"best": best_rewards(runs), "agents": rows, "bars": bars, "fronts": fronts}
    record.phase("table and figure")
    record.finish()
    return folder


def _write_fronts(config: CompareAgents, runs: Sequence[AgentRun]) -> dict[str, list[dict[str, Any]]]:
    """front.md and a front-TASK.png a task: where the agents' students lie on the twin's Pareto fronts; its rows."""
    fronts = [Front(load_table(config.table), task) for task in config.tasks]
    rows = {front.name: front.rows(runs) for front in fronts}
    text = "\n".join(front.markdown(rows[front.name]) for front in fronts)
    (config.folder / "front.md").write_text(text, encoding="utf-8")
    for front in fronts:
        front.figure(runs, config.folder / f"front-{front.name}.png")
    return rows


def _prepare(config: CompareAgents, missing: Sequence[RunKey], each: Each) -> None:
    """Encoders, then meta-trained agents: of those meta-seeds and entries that a missing run needs."""
    folder = config.folder
    needed = dict.fromkeys((label, seed % config.meta_seeds) for label, _, seed in missing if entry(label).encoded)
    encoders = sorted({seed for _, seed in needed if not encoder_file(folder, seed).exists()})
    learners = [
        (label, seed)
        for label, seed in needed
        if entry(label).meta_trained and not has_checkpoint(meta_folder(folder, label, seed))
    ]
    for title, function, items in (
        ("state encoders", partial(pretrain_encoder, config.alone(), folder), encoders),
        ("meta-trainings", partial(meta_train, config.alone(), folder), learners),
    ):
        if items:
            with progress_bar(title, len(items)) as bar:
                for _ in each(function, items):
                    bar.advance()


def main() -> int:
    """Command line."""
    config = tyro.cli(CompareAgents, description=__doc__)
    return stoppable(lambda: _main(config), "compare_agents", "Finished runs are kept.")


def _main(config: CompareAgents) -> int:
    try:
        if config.agree is not None:
            print(agreement(*config.agree).text())
            return 0
        with cpu_threads(1):  # the networks are tiny, and processes have one core each
            folder = compare(config)
    except (ValueError, NotInTableError, OSError, ModuleNotFoundError) as error:  # DataUnavailableError is an OSError
        print(f"compare_agents: error: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        text = "a worker process died; finished runs are kept, and the same command goes on from there"
        print(f"compare_agents: error: {text}", file=sys.stderr)
        return 1
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"Table, figure, runs and record: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
