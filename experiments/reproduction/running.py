"""Carrying a plan out: meta-trainings and searches side by side in processes, then what is left of the final figures.

Networks that are known before any search are trained beside the meta-trainings, which are often fewer than processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from experiments.progress import progress_bar
from experiments.reproduction.contents import ColumnSpec
from experiments.reproduction.finals import Final, Measured, final_job, prune_teacher
from experiments.reproduction.plan import Plan
from experiments.reproduction.searches import (
    HIDDEN,
    Found,
    SearchKey,
    SearchSettings,
    encoder_of,
    meta_train,
    search,
)
from experiments.worker_pool import Each
from rcnas_env.evaluation.job import Job


def run_searches(settings: SearchSettings, plan: Plan, each: Each) -> dict[SearchKey, Found]:
    """Encoders, meta-trainings, fixed networks' figures and searches of the plan; what is there is not done again."""
    variants = list(dict.fromkeys((*plan.meta, *(key.variant for key in plan.searches))))
    hidden = {HIDDEN.get(variant, ()): variant for variant in reversed(variants)}  # one variant for each encoder
    found: dict[SearchKey, Found] = {}
    stages: tuple[tuple[str, Callable[[Any], Any], Sequence[Any]], ...] = (
        ("state encoders", partial(_encoder, settings, plan.missing), list(hidden.values())),
        ("meta-trainings", _call, _meta_trainings(settings, plan)),
        ("searches", partial(_search, settings, plan.missing), plan.searches),
    )
    for title, function, items in stages:
        if not items:
            continue
        with progress_bar(title, len(items)) as bar:
            for result in each(function, items):
                bar.advance()
                if isinstance(result, Found):
                    found[result.key] = result
    return found


def _meta_trainings(settings: SearchSettings, plan: Plan) -> list[Callable[[], None]]:
    """Calls that meta-train the plan's agents, and after them those that measure its fixed networks for the store."""
    calls: list[Callable[[], None]] = [partial(meta_train, settings, name, plan.missing) for name in plan.meta]
    trainings: dict[str, list[Job]] = {}
    for job in plan.fixed_jobs(settings.scale):
        trainings.setdefault(job.training_key, []).append(job)
    return calls + [partial(_measure, settings, jobs) for jobs in trainings.values()]


def _measure(settings: SearchSettings, jobs: Sequence[Job]) -> None:
    """Put the jobs' evaluations into the store; those that fail are not kept, and `run_finals` says so."""
    evaluator = settings.make_evaluator()
    try:
        evaluator.evaluate(jobs)
    finally:
        evaluator.close()


def _call(function: Callable[[], None]) -> None:
    function()


def run_finals(
    settings: SearchSettings, plan: Plan, found: dict[SearchKey, Found], workers: int
) -> dict[Final, Measured]:
    """Train what is not in the store yet, attack it; one evaluation for cells that share a job.

    Those that failed (docs/faults.md) are left out: a zero that nobody measured is no figure of a table.
    """
    jobs = {final: job for final in plan.finals if (job := final_job(settings.scale, final, found)) is not None}
    distinct: list[Job] = list({job.key: job for job in jobs.values()}.values())
    evaluator = settings.make_evaluator(workers)
    try:
        with progress_bar("final figures", len(distinct)) as bar:
            results = evaluator.evaluate(distinct, lambda job, evaluation: bar.advance())
    finally:
        evaluator.close()
    by_key = {
        job.key: result for job, result in zip(distinct, results, strict=True) if "failed" not in result.provenance
    }
    if len(by_key) < len(distinct):
        failed = f"{len(distinct) - len(by_key)} of {len(distinct)} final figures failed and are left out"
        print(f"reproduce: {failed} (docs/faults.md); the same command tries again", file=sys.stderr)
    return {
        final: Measured(result.robust_accuracy, result.images, result.params, result.macs)
        for final, job in jobs.items()
        if job.key in by_key
        for result in (by_key[job.key],)
    }


def run_prunings(settings: SearchSettings, plan: Plan, each: Each) -> dict[Final, Measured]:
    """HYDRA and HARP on the teachers."""
    groups = list(plan.prunings.values())
    measured: dict[Final, Measured] = {}
    if not groups:
        return measured
    with progress_bar("pruning", len(groups)) as bar:
        for figures in each(partial(_prune, settings), groups):
            bar.advance()
            measured |= figures
    # cells of several tables may be one final each; the plan has no two equal ones
    return measured


def _encoder(settings: SearchSettings, missing: tuple[str, ...], variant: str) -> None:
    encoder_of(settings, variant, missing)


def _search(settings: SearchSettings, missing: tuple[str, ...], key: SearchKey) -> Found:
    return search(settings, key, missing)


def _prune(settings: SearchSettings, cells: Sequence[Final]) -> dict[Final, Measured]:
    columns: tuple[ColumnSpec, ...] = tuple(final.column for final in cells)
    figures = prune_teacher(settings.scale, settings.folder, cells[0], columns, settings.device)
    return {final: figures[final.column.key] for final in cells}
