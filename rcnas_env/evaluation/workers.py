"""Worker processes, each with one call at a time: what happens to one concerns no other.

The trained engine's, and the arena's. They end with the process that started them, and leave Ctrl-C to it: a terminal
sends SIGINT to all of them at once, and only that process knows what is to be cleaned up.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakKeyDictionary

from rcnas_env.held_signals import held_signals

ENDING_SECONDS = 5.0
"""How long to wait for the exit code of a process that is known to be ending."""


class Workers:
    """Up to `count` worker processes, each started when there is a call for it.

    A process that dies breaks its own call, whose future then raises BrokenProcessPool, and is replaced when the next
    call needs it. The others go on.

    Args:
        count: at least 1.
        prepare: called once in each process, before its first call; a function of a module.
    """

    def __init__(self, count: int, prepare: Callable[[], None] | None = None) -> None:
        self._count, self._prepare = count, prepare
        self._workers: list[_Worker] = []
        self._given: WeakKeyDictionary[Future[Any], tuple[_Worker, float]] = WeakKeyDictionary()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in an idle worker; where all are busy, after the call of one of them."""
        for worker in [each for each in self._workers if each.dead]:
            self._workers.remove(worker)
            worker.close()
        chosen = next((worker for worker in self._workers if worker.idle), None)
        if chosen is None and len(self._workers) < self._count:
            chosen = _Worker(self._prepare)
            self._workers.append(chosen)  # before it starts: an interruption must not leave one that nobody knows
            chosen.start()
        chosen = chosen or self._workers[0]
        call = chosen.submit(function, *arguments)
        self._given[call] = chosen, time.monotonic()
        return call

    def seconds(self, call: Future[Any]) -> float:
        """How long a call has been running, by a monotonic clock; 0 for as long as its process is starting."""
        worker, given = self._given[call]
        return 0.0 if worker.ready_at is None else time.monotonic() - max(worker.ready_at, given)

    def fate(self, call: Future[Any]) -> tuple[bool, int | None]:
        """Of a call whose process died: whether that ever took up work, and its exit code, −9 for SIGKILL."""
        worker, _ = self._given[call]
        return worker.ready_at is not None, worker.exit_code()

    def kill(self, call: Future[Any]) -> None:
        """End the process of a call that is running, at once; does nothing to a call that is done."""
        if not call.done():
            self._given[call][0].kill()

    def kill_all(self) -> None:
        """End all processes at once, calls that are running included."""
        for worker in self._workers:
            worker.kill()

    def close(self) -> None:
        """Stop all processes, after the calls that are running."""
        closing = [threading.Thread(target=worker.close) for worker in self._workers]  # a second each, all at once
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._workers = []


class _Context(SpawnContext):
    """Spawning (a fork is unsafe once torch has started threads), with an eye on the one process that is made."""

    process: BaseProcess | None = None

    def Process(self, *arguments: Any, **named: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        """The process, as SpawnContext makes it; kept in `process`."""
        self.process = SpawnContext.Process(*arguments, **named)
        return self.process


class _Worker:
    """One process, and the call that it was given last."""

    def __init__(self, prepare: Callable[[], None] | None) -> None:
        self._context = _Context()
        self._executor = ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin, initargs=(prepare,))
        self._call: Future[Any] | None = None
        self._killed = False
        self.ready_at: float | None = None  # monotonic seconds

    def start(self) -> None:
        """Start the process."""
        with held_signals():  # one that is broken off while it is born says so with a traceback
            started = self._executor.submit(_load)
        started.add_done_callback(self._note_start)

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return self._call is None or self._call.done()

    @property
    def dead(self) -> bool:
        """Whether its process has ended, was killed, or was never started."""
        process = self._context.process
        return self._killed or process is None or process.exitcode is not None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Give it a call; the future fails if the process has died."""
        try:
            self._call = self._executor.submit(_call, function, *arguments)
        except BrokenProcessPool as error:  # it died since it was chosen: as if it had with the call
            self._call = Future()
            self._call.set_exception(error)
        return self._call

    def exit_code(self) -> int | None:
        """Of the process, which is ending; None if it takes longer than `ENDING_SECONDS`."""
        process, deadline = self._context.process, time.monotonic() + ENDING_SECONDS
        # not join: the executor's thread waits for the process too, and for an instant it alone knows the code
        while process is not None and process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return None if process is None else process.exitcode

    def kill(self) -> None:
        """End the process at once."""
        self._killed = True
        if self._context.process is not None and self._context.process.pid is not None:
            self._context.process.kill()

    def close(self) -> None:
        """Stop the process after its call; one that is still starting at once."""
        if self.ready_at is None and self.idle:  # it is still starting, for nobody
            self.kill()
        self._executor.shutdown(cancel_futures=True)

    def _note_start(self, loaded: Future[None]) -> None:
        if not loaded.cancelled() and loaded.exception() is None:
            self.ready_at = time.monotonic()
            # The executor keeps the end that only its process writes to. As long as it is open, a process that is
            # killed in the midst of a result leaves this one waiting for the other half for ever.
            writer = getattr(getattr(self._executor, "_result_queue", None), "_writer", None)
            if writer is not None:
                writer.close()


def _load() -> None:
    """In a worker process: import what calls need, seconds of work that are no call's own."""
    import rcnas_env.evaluation.work  # noqa: F401
    from rcnas_env.training.freed_memory import keep_few_kernels

    keep_few_kernels()


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a worker process: the call, with an error that can travel. One that cannot would count as a dead worker."""
    try:
        return function(*arguments)
    except Exception as error:
        try:
            copy.copy(error)  # as pickle makes it anew
            pickle.dumps(error)
        except Exception:
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise


def _begin(prepare: Callable[[], None] | None) -> None:
    """In a worker process: what comes before its first call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as blocked as it was before, and where it could not be blocked too
    _end_with_the_parent()
    if prepare is not None:
        prepare()


def _end_with_the_parent() -> None:
    """In a worker process: end at once when the process that started it is gone, killed for instance."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        """Wait for the parent's end, then leave without any clean-up that could hang."""
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
