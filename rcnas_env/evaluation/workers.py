"""Worker processes of the trained engine, each with one call at a time: what happens to one concerns no other."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any


class Workers:
    """Up to `count` worker processes, each started when there is a call for it.

    A process that dies breaks its own call, whose future then raises BrokenProcessPool, and is replaced when the next
    call needs it. The others go on.

    Args:
        count: at least 1.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in an idle worker; where all are busy, after the call of the one that was asked first."""
        self._workers = [worker for worker in self._workers if worker.close_if_dead()]
        chosen = next((worker for worker in self._workers if worker.idle), None)
        if chosen is None and len(self._workers) == self._count:
            chosen = self._workers[0]
        if chosen is None:
            chosen = _Worker()
            self._workers.append(chosen)
        return chosen.submit(function, *arguments)

    def seconds(self, call: Future[Any]) -> float:
        """How long a call has been running, monotonic; 0 for as long as its process is being started."""
        worker = self._of(call)
        return 0.0 if worker is None or worker.ready_at is None else time.monotonic() - max(worker.ready_at, worker.given)

    def fate(self, call: Future[Any]) -> tuple[bool, int | None]:
        """(whether the process of a broken call ever took up work, the exit code that it ended with, -9 for SIGKILL)."""
        worker = self._of(call)
        return (False, None) if worker is None else (worker.ready_at is not None, worker.exit_code())

    def kill(self, call: Future[Any]) -> None:
        """End the process of a call that is running, at once."""
        worker = self._of(call)
        if worker is not None and not call.done():
            worker.kill()

    def close(self) -> None:
        """Stop all processes, after the calls that are running."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _of(self, call: Future[Any]) -> _Worker | None:
        return next((worker for worker in self._workers if worker.call is call), None)


class _Context(SpawnContext):
    """Spawning (a fork is unsafe once torch has started threads), with an eye on the one process that is made."""

    process: BaseProcess | None = None

    def Process(self, *arguments: Any, **named: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        self.process = SpawnContext.Process(*arguments, **named)
        return self.process


class _Worker:
    """One process, and the call that it was given last."""

    def __init__(self) -> None:
        self._context = _Context()
        self._executor = ProcessPoolExecutor(1, mp_context=self._context, initializer=_end_with_the_parent)
        self.call: Future[Any] | None = None
        self.given = 0.0
        self.ready_at: float | None = None
        self._executor.submit(os.getpid).add_done_callback(self._ready)

    @property
    def idle(self) -> bool:
        return self.call is None or self.call.done()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.given = time.monotonic()
        self.call = self._executor.submit(function, *arguments)
        return self.call

    def exit_code(self) -> int | None:
        """Of the process, which is ending; None if it takes its time."""
        process = self._context.process
        if process is None:
            return None
        process.join(5.0)
        return process.exitcode

    def kill(self) -> None:
        if self._context.process is not None:
            self._context.process.kill()

    def close_if_dead(self) -> bool:
        """Whether the process can take calls; what is left of one that cannot is cleared away."""
        process = self._context.process
        broken = self.call is not None and self.call.done() and isinstance(self.call.exception(), BrokenProcessPool)
        if broken or process is None or process.exitcode is not None:
            self.close()
            return False
        return True

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _ready(self, process_id: Future[int]) -> None:
        if process_id.exception() is None:
            self.ready_at = time.monotonic()


def _end_with_the_parent() -> None:
    """In a worker process: end at once when the process that started it is gone, killed for instance."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
