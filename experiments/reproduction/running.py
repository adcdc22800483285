"""Carrying a plan out: meta-trainings and searches side by side in processes, then all final trainings.

Meta-trainings are often fewer than processes: the others meanwhile train networks that no search has to find.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from rcnas_env.cost import cost
from rcnas_env.evaluation.job import Job


def run_searches(settings: SearchSettings, plan: Plan, each: Each) -> dict[SearchKey, Found]:
    """Encoders, meta-trainings and searches of the plan; what the run folder has is read."""
    variants = list(dict.fromkeys((*plan.meta, *(key.variant for key in plan.searches))))
    hidden = {HIDDEN.get(variant, ()): variant for variant in reversed(variants)}  # one variant for each encoder
    found: dict[SearchKey, Found] = {}
    encoders = partial(_encoder, settings, plan.missing)
    for _ in _with_progress("state encoders", each, encoders, list(hidden.values())):
        pass
    _meta_train_all(settings, plan, each)
    for result in _with_progress("searches", each, partial(_search, settings, plan.missing), plan.searches):
        found[result.key] = result
    return found


def _with_progress(title: str, each: Each, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    if items:
        with progress_bar(title, len(items)) as bar:
            for result in each(function, items):
                bar.advance()
                yield result


def _meta_train_all(settings: SearchSettings, plan: Plan, each: Each) -> None:
    """Meta-train the plan's agents; a process that none is left for trains fixed networks until all are done."""
    left = len(plan.meta)

    def calls() -> Iterator[Callable[[], bool]]:
        """What is next, asked for whenever a process is free."""
        for variant in plan.meta:
            yield partial(_meta_train, settings, plan.missing, variant)
        for jobs in _fixed_trainings(settings, plan):
            if left == 0:
                return
            yield partial(_measure, settings, jobs)

    if left:
        with progress_bar("meta-trainings", left) as bar:
            for is_meta_training in each(_call, calls()):
                if is_meta_training:
                    left -= 1
                    bar.advance()


def _fixed_trainings(settings: SearchSettings, plan: Plan) -> list[list[Job]]:
    """The jobs of each training of a fixed network; the smallest first, so that nobody waits long for the last."""
    trainings: dict[str, list[Job]] = {}
    for job in sorted(plan.fixed_jobs(settings.scale), key=lambda job: cost(job.network).macs):
        trainings.setdefault(job.training_key, []).append(job)
    return list(trainings.values())


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


def _call(function: Callable[[], bool]) -> bool:
    return function()


def _meta_train(settings: SearchSettings, missing: tuple[str, ...], variant: str) -> bool:
    """Meta-train one agent; true, for it is one."""
    meta_train(settings, variant, missing)
    return True


def _measure(settings: SearchSettings, jobs: Sequence[Job]) -> bool:
    """Put the jobs' evaluations into the store; false, for this is no meta-training.

    What goes wrong is left to `run_finals`, which does the job once more, and tells: nothing that can wait may keep
    the searches from being done. Hence, too, a process of its own, whose death ends this call alone.
    """
    with suppress(Exception):
        evaluator = settings.make_evaluator(workers=1)
        try:
            evaluator.evaluate(jobs)
        finally:
            evaluator.close()
    return False


def _encoder(settings: SearchSettings, missing: tuple[str, ...], variant: str) -> None:
    encoder_of(settings, variant, missing)


def _search(settings: SearchSettings, missing: tuple[str, ...], key: SearchKey) -> Found:
    return search(settings, key, missing)


def _prune(settings: SearchSettings, cells: Sequence[Final]) -> dict[Final, Measured]:
    columns: tuple[ColumnSpec, ...] = tuple(final.column for final in cells)
    figures = prune_teacher(settings.scale, settings.folder, cells[0], columns, settings.device)
    return {final: figures[final.column.key] for final in cells}
