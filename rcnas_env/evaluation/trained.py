"""The engine that really trains and attacks, in this process or in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from typing import Any

import torch

from rcnas_env.evaluation import work
from rcnas_env.evaluation.evaluator import OnDone, register_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.scheduling import Schedule, Work
from rcnas_env.evaluation.store import Store
from rcnas_env.validation import require_integer

POLL_SECONDS = 0.5
"""How often to look whether a training that another process has claimed is there."""


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
        call loses only what was under way. A training that another process has under way is waited for, after all
        other work.
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
        with closing(self._compute(missing)) as computed:  # closed at once, for others wait for its claims
            for job, evaluation in computed:
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

    def _compute(self, jobs: dict[str, Job]) -> Generator[tuple[Job, Evaluation], None, None]:
        """Evaluate `jobs`, each as soon as the trainings it needs are there; yields them as they finish."""
        schedule = Schedule(jobs, self.store)
        running: dict[Future[Any], Work] = {}
        try:
            while schedule.unfinished or running:
                schedule.retry()
                while len(running) < max(1, self.workers) and (work_to_do := schedule.next()):
                    running[self._start(work_to_do, schedule)] = work_to_do
                if not running:  # all that is left is under way elsewhere
                    time.sleep(POLL_SECONDS)
                    continue
                timeout = POLL_SECONDS if schedule.waits else None
                finished = wait(running, timeout, return_when=FIRST_COMPLETED).done
                done = [(future, *running.pop(future)) for future in finished]
                for future, kind, job in sorted(done, key=lambda entry: entry[1], reverse=True):
                    if kind == "train":  # saved before the caller gets a chance to stop
                        schedule.finish_training(job, future.result())
                    else:
                        yield job, future.result()
        finally:
            schedule.close()

    def _start(self, work_to_do: Work, schedule: Schedule) -> Future[Any]:
        kind, job = work_to_do
        if kind == "train":
            return self._submit(work.train, job, self.device)
        through = schedule.training(job.source_job) if job.source_job else None
        folder = getattr(self.store, "progress_folder", None)
        return self._submit(work.measure, job, *schedule.training(job), through, self.device, folder)

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


register_engine("trained", TrainedEvaluator)
