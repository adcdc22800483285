"""The engine that really trains and attacks, in this process or in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
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
        workers: worker processes, one job each, with as many threads as its recipe says; 0
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
        for job, evaluation in self._compute(missing):
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

    def _compute(self, jobs: dict[str, Job]) -> Iterator[tuple[Job, Evaluation]]:
        """Evaluate `jobs`, each as soon as the trainings it needs are there; yields them as they finish."""
        trainings, new = self._find_trainings(jobs.values())
        to_train = sorted(
            new.items(), key=lambda entry: cost(entry[1].network).macs
        )  # the largest is last: popped first
        to_measure = dict(jobs)
        running: dict[Future[Any], tuple[str, Job]] = {}
        while to_train or to_measure or running:
            ready = [key for key, job in to_measure.items() if all(k in trainings for k in needed_trainings(job))]
            while len(running) < max(1, self.workers) and (ready or to_train):
                if ready:  # first, so that results come early
                    key = max(ready, key=lambda k: cost(to_measure[k].network).macs)
                    ready.remove(key)
                    job = to_measure.pop(key)
                    through = trainings[job.source_job.training_key] if job.source_job else None
                    folder = getattr(self.store, "progress_folder", None)
                    call = (work.measure, job, *trainings[job.training_key], through, self.device, folder)
                    running[self._submit(*call)] = ("measure", job)
                else:
                    job = to_train.pop()[1]
                    running[self._submit(work.train, job, self.device)] = ("train", job)
            done = [(future, *running.pop(future)) for future in wait(running, return_when=FIRST_COMPLETED).done]
            for future, kind, job in sorted(done, key=lambda entry: entry[1], reverse=True):
                if kind == "train":  # saved before the caller gets a chance to stop
                    trainings[job.training_key] = future.result()
                    self.store.save_training(job.training_key, *trainings[job.training_key])
                else:
                    yield job, future.result()

    def _find_trainings(self, jobs: Iterable[Job]) -> tuple[dict[str, Training], dict[str, Job]]:
        """(trainings that the store has, jobs of those that it has not), by training key."""
        needed = {key: training for job in jobs for key, training in needed_trainings(job).items()}
        known = {key: self.store.load_training(key) for key in needed}
        trainings = {key: training for key, training in known.items() if training is not None}
        return trainings, {key: job for key, job in needed.items() if key not in trainings}

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in a worker process, or here and now where there are none."""
        if self.workers:
            if self._executor is None:
                context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has started threads
                self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_end_with_the_parent)
            return self._executor.submit(function, *arguments)
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


def _end_with_the_parent() -> None:
    """In a worker process: end at once when the process that started it is gone, killed for instance."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def needed_trainings(job: Job) -> dict[str, Job]:
    """The trainings that a job's measurement needs, by key: its own network's, and an attacked teacher's."""
    return {training.training_key: training for training in (job, job.source_job) if training is not None}


register_engine("trained", TrainedEvaluator)
