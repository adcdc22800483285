"""The engine that really trains and attacks, in this process or in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from rcnas_env.cost import cost
from rcnas_env.evaluation import work
from rcnas_env.evaluation.evaluator import OnDone, register_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store
from rcnas_env.validation import require_integer

Training = tuple[dict[str, Any], bytes]


def resolve_device(device: str) -> str:
    """Resolve "auto" to the first GPU where there is one, else the CPU; anything else stays as it is."""
    if device != "auto":
        return str(torch.device(device))
    return "cuda" if torch.cuda.is_available() else "cpu"


class TrainedEvaluator:
    """Builds, trains, attacks; looks every training and every evaluation up in the store first.

    Args:
        store: kept trainings and evaluations.
        workers: worker processes, one job each (two processes of one thread beat one process of two); 0
            works in this process. With workers a script needs the usual `if __name__ == "__main__":` guard.
        device: "auto", "cpu", "cuda", "cuda:1", …

    A job's result is the same for every number of workers: threads are a field of its recipe.
    """

    def __init__(self, store: Store, workers: int = 0, device: str = "auto") -> None:
        self.store = store
        self.device = resolve_device(device)
        self.workers = require_integer("workers", workers, 0)
        self._executor: ProcessPoolExecutor | None = None

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """The jobs' evaluations, in order; what the store has is not computed again.

        Every training and every evaluation is in the store as soon as it is done, so that an interrupted
        call loses only what was under way.
        """
        wanted = {job.key: job for job in jobs}
        found: dict[str, Evaluation] = {}
        for key, job in wanted.items():
            stored = self.store.load_evaluation(key)
            if stored is not None:
                found[key] = stored
                if on_done:
                    on_done(job, stored)
        missing = {key: job for key, job in wanted.items() if key not in found}
        if missing:
            trainings = self._trainings(missing.values())
            for job, evaluation in self._measurements(missing, trainings):
                self.store.save_evaluation(evaluation)
                found[job.key] = evaluation
                if on_done:
                    on_done(job, evaluation)
        return [found[job.key] for job in jobs]

    def close(self) -> None:
        """Stop the worker processes."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def _trainings(self, jobs: Iterable[Job]) -> dict[str, Training]:
        """The trainings that `jobs` need, by key: their own networks' and those of attacked teachers."""
        needed: dict[str, Job] = {}
        for job in jobs:
            for training in (job, job.source_job):
                if training is not None:
                    needed.setdefault(training.training_key, training)
        known = {key: self.store.load_training(key) for key in needed}
        trainings = {key: training for key, training in known.items() if training is not None}
        new = {key: job for key, job in needed.items() if key not in trainings}
        largest_first = sorted(new.items(), key=lambda entry: -cost(entry[1].network).macs)
        for key, training in self._run(work.train, {key: (job, self.device) for key, job in largest_first}):
            self.store.save_training(key, *training)
            trainings[key] = training
        return trainings

    def _measurements(self, jobs: dict[str, Job], trainings: dict[str, Training]) -> Iterable[tuple[Job, Evaluation]]:
        calls = {}
        largest_first = sorted(jobs.items(), key=lambda entry: -cost(entry[1].network).macs)
        for key, job in largest_first:
            report, weights = trainings[job.training_key]
            source = job.source_job
            through = trainings[source.training_key] if source is not None else None
            calls[key] = (job, report, weights, through, self.device)
        for key, evaluation in self._run(work.measure, calls):
            yield jobs[key], evaluation

    def _run(self, function: Callable[..., Any], calls: dict[str, tuple[Any, ...]]) -> Iterable[tuple[str, Any]]:
        """Run `function` on each call's arguments; yields (key, result) as they finish."""
        if not self.workers or len(calls) <= 1:
            for key, arguments in calls.items():
                yield key, function(*arguments)
            return
        if self._executor is None:
            context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has started threads
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context)
        futures = {self._executor.submit(function, *arguments): key for key, arguments in calls.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()


register_engine("trained", TrainedEvaluator)
