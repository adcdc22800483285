"""The engine that really trains and attacks, in this process or in a pool of worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from typing import Any

import torch

from rcnas_env.evaluation import work
from rcnas_env.evaluation.evaluator import OnDone, register_engine
from rcnas_env.evaluation.faults import Faults
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.scheduling import Schedule, Work
from rcnas_env.evaluation.store import Store
from rcnas_env.evaluation.workers import Workers
from rcnas_env.validation import require_integer, shown

POLL_SECONDS = 0.5
"""How often to look whether a training that another process has claimed is there, and whether a call is overdue."""


def resolve_device(device: str) -> str:
    """Resolve "auto" to the first GPU where there is one, else the CPU; any other device that is there stays as it is.

    Raises:
        ValueError: it is no device, or not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:1", …, got {shown(device)}: {error}') from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= gpus:
        raise ValueError(f"device must be there, got {device!r} with {gpus} GPUs that torch can use")
    return str(found)


class TrainedEvaluator:
    """Builds, trains, attacks; looks every training and every evaluation up in the store first.

    A job's result is the same for every number of workers: threads are a field of its recipe.

    A job that cannot be done is flagged, and a search of days goes on: its Evaluation is `diverged`, with accuracy 0,
    and its provenance says why under "failed". It is not saved, so that another run tries it again; this engine does
    not. Jobs fail whose worker process died `retries` + 1 times, that took longer than `time_limit`, and for whose
    smallest batches memory does not suffice, or whose training does (docs/faults.md).

    Args:
        store: kept trainings and evaluations.
        workers: worker processes, one job each, with as many threads as its recipe says; 0
            works in this process. With workers a script needs the usual `if __name__ == "__main__":` guard.
        device: "auto", "cpu", "cuda", "cuda:1", …
        retries: how often a training or an attack is given out again whose worker process died, at least 0.
        time_limit: seconds that one training, or the attack and measurement of one job, may take; its worker is then
            killed. None for no limit. Needs workers: a call in this process cannot be interrupted safely.

    Raises:
        ValueError: a number is out of range, or `time_limit` is given without workers.
    """

    def __init__(
        self,
        store: Store,
        workers: int = 0,
        device: str = "auto",
        retries: int = 2,
        time_limit: float | None = None,
    ) -> None:
        self.store = store
        self.workers = require_integer("workers", workers, 0)
        self._faults = Faults(self.workers, retries, time_limit)
        self.device = resolve_device(device)
        self._pool = Workers(self.workers) if self.workers else None

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """The jobs' evaluations, in order; what the store has is not computed again.

        Every training and every evaluation is in the store as soon as it is done, so that an interrupted
        call loses only what was under way. A training that another process has under way is waited for, after all
        other work.

        Raises:
            WorkerStartError: worker processes end before they take up work, `retries` + 1 times for one call.

        Warns:
            FaultWarning: a worker process died, or a job failed.
        """
        wanted = {job.key: job for job in jobs}
        found: dict[str, Evaluation] = {}

        def take(job: Job, evaluation: Evaluation) -> None:
            """Note a finished job, and tell the caller."""
            found[job.key] = evaluation
            if on_done:
                on_done(job, evaluation)

        for key, job in wanted.items():
            known = self.store.load_evaluation(key) or self._known_failure(job)
            if known is not None:
                take(job, known)
        missing = {key: job for key, job in wanted.items() if key not in found}
        with closing(self._compute(missing)) as computed:  # closed at once, for others wait for its claims
            for job, evaluation in computed:
                take(job, evaluation)
        return [found[job.key] for job in jobs]

    def close(self) -> None:
        """Stop the worker processes."""
        if self._pool is not None:
            self._pool.close()

    def _compute(self, jobs: dict[str, Job]) -> Generator[tuple[Job, Evaluation], None, None]:
        """Evaluate `jobs`, each as soon as the trainings it needs are there; saves and yields them as they finish."""
        schedule = Schedule(jobs, self.store, self.device)
        running: dict[Future[Any], Work] = {}
        try:
            while schedule.unfinished or running:
                schedule.retry()
                while len(running) < max(1, self.workers) and (work_to_do := schedule.next()):
                    running[self._start(work_to_do, schedule)] = work_to_do
                if not running:  # all that is left is under way elsewhere
                    time.sleep(POLL_SECONDS)
                    continue
                timeout = POLL_SECONDS if schedule.waits or self._faults.time_limit is not None else None
                finished = wait(running, timeout, return_when=FIRST_COMPLETED).done
                # all that succeeded is saved before an error, or the caller, gets a chance to stop
                done = [(call, running.pop(call)) for call in sorted(finished, key=lambda call: bool(call.exception()))]
                yield from [pair for call, of in done for pair in self._finish(call, of, schedule)]
                del finished, done  # they hold what the calls found, or the memory of one that failed
                if self._pool is not None:
                    self._faults.stop_the_overdue(running, self._pool)
        finally:
            schedule.close()
            if self._pool is not None:
                for call in running:  # after an interruption: nobody waits for it any more
                    self._pool.kill(call)

    def _finish(self, call: Future[Any], of: Work, schedule: Schedule) -> list[tuple[Job, Evaluation]]:
        """Save what a call found; return the evaluations that are there by it, failed ones among them."""
        kind, job = of
        if call.exception() is not None:
            reason = self._faults.reason(call, of, self._pool)
            if reason is None:
                schedule.repeat(of)
                return []
            if kind == "measure":
                schedule.finish_measuring(job)
            lost = schedule.give_up_training(job) if kind == "train" else [job]
            return [(each, work.failed(each, reason, self.device)) for each in lost]
        if kind == "train":
            schedule.finish_training(job, call.result())
            return []
        evaluation, attacked = call.result()
        schedule.finish_measuring(job, attacked)
        self.store.save_evaluation(evaluation)
        return [(job, evaluation)]

    def _known_failure(self, job: Job) -> Evaluation | None:
        reason = self._faults.known(job)
        return None if reason is None else work.failed(job, reason, self.device)

    def _start(self, work_to_do: Work, schedule: Schedule) -> Future[Any]:
        kind, job = work_to_do
        if kind == "train":
            return self._submit(work.train, job, self.device)
        through = schedule.training(job.source_job) if job.source_job else None
        folder, attacked = getattr(self.store, "progress_folder", None), schedule.attacked_set(job)
        return self._submit(work.measure, job, *schedule.training(job), through, self.device, folder, attacked)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in a worker process, or here and now where there are none."""
        if self._pool is not None:
            return self._pool.submit(function, *arguments)
        done: Future[Any] = Future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


register_engine("trained", TrainedEvaluator)
