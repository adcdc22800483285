"""What becomes of a training or an attack that ends without a result: done again, or given up with a reason."""

from __future__ import annotations

import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.scheduling import Work, needed_trainings
from rcnas_env.evaluation.workers import Workers
from rcnas_env.training.memory import is_out_of_memory
from rcnas_env.validation import require_integer, require_number


class FaultWarning(UserWarning):
    """A worker process died, or a job failed; the run goes on."""


class WorkerStartError(RuntimeError):
    """Worker processes end before they take up work: a fault of the program or the machine, not of a job."""


class Faults:
    """The faults of one engine, and what it has given up.

    time_limit: seconds, None for no limit.

    Args:
        workers: how many worker processes the engine has, for the check of `time_limit`.
        retries: how often work is done again whose worker died, at least 0.
        time_limit: of one call, more than 0.

    Raises:
        ValueError: a number is out of range, or `time_limit` is given without workers.
    """

    def __init__(self, workers: int, retries: int, time_limit: float | None) -> None:
        self.retries = require_integer("retries", retries, 0)
        self.time_limit = time_limit
        if time_limit is not None:
            self.time_limit = require_number("time_limit", time_limit, minimum=0.0, exclusive_minimum=True)
            if not workers:
                raise ValueError(
                    f"time_limit must be None without workers, as a call in this process cannot be interrupted safely, "
                    f"got {time_limit!r} with workers = 0"
                )
        self._overdue: set[Future[Any]] = set()
        self._deaths: Counter[str] = Counter()
        self._given_up: dict[str, str] = {}

    def known(self, job: Job) -> str | None:
        """Why `job`, or a training that it needs, was given up; None if it was not."""
        keys = (job.key, *needed_trainings(job))
        return next((self._given_up[key] for key in keys if key in self._given_up), None)

    def stop_the_overdue(self, calls: Iterable[Future[Any]], workers: Workers) -> None:
        """Kill the workers of those `calls` that have run for longer than the limit; they then end by a dead worker."""
        for call in calls:
            if self.time_limit is not None and call not in self._overdue and workers.seconds(call) > self.time_limit:
                self._overdue.add(call)
                workers.kill(call)

    def reason(self, call: Future[Any], work: Work, workers: Workers | None) -> str | None:
        """Why the `work` of a call that raised is given up; None where it is to be done again.

        Raises:
            WorkerStartError: its worker processes do not even start.
            Exception: what the call raised, if that is neither a dead worker nor want of memory.

        Warns:
            FaultWarning: of either outcome.
        """
        error = call.exception()
        assert error is not None
        kind, job = work
        key = job.training_key if kind == "train" else job.key
        what = f"the {'training' if kind == 'train' else 'attack'} {key[:12]} on {job.task.dataset}"
        if is_out_of_memory(error):
            _let_go(error)
            reason = f"out of memory: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        elif workers is None or not isinstance(error, BrokenProcessPool):
            raise error
        elif call in self._overdue:
            self._overdue.discard(call)
            reason = f"took longer than the time limit of {self.time_limit:g} s"
        else:
            self._deaths[key] += 1
            started, code = workers.fate(call)
            reason = f"its worker process {_ending(code)}, {self._deaths[key]} of {self.retries + 1} times"
            if self._deaths[key] <= self.retries:
                warnings.warn(f"{what} is done again: {reason}", FaultWarning, stacklevel=2)
                return None
            if not started:
                raise WorkerStartError(
                    f"worker processes end before they take up work (the last one {_ending(code)}): a script "
                    'with workers needs an `if __name__ == "__main__":` guard, and what it imports must import there'
                ) from error
        self._given_up[key] = reason
        warnings.warn(f"{what} failed and counts as diverged: {reason}", FaultWarning, stacklevel=2)
        return reason


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that an error, and those before it, went through: they hold the network that did not fit."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return "ended" if code is None else f"ended with exit code {code}"
    known = {each.value: each.name for each in signal.Signals}
    return f"was ended by signal {-code} ({known.get(-code, 'unknown')})"
