"""What is compared runs in a process of its own: what one does to its process is no help or hindrance to the other.

`benchmarks.allocator` changes how a whole process allocates, and would make the published loop faster too.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any

import torch

MOST_PREPARED = 8
"""Pieces of work that a process keeps prepared, the least recently used going first."""


def _start(threads: int) -> None:
    torch.set_num_threads(threads)


@functools.lru_cache(maxsize=MOST_PREPARED)
def _prepared(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return prepare(*arguments)


def _prepare(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    _prepared(prepare, arguments)


def _run(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> Any:
    return _prepared(prepare, arguments)()


class Contender:
    """A process, waiting until it is asked to work. A context manager: its process ends with it.

    threads: torch's, in that process.
    own_process: False works in this process; for tests.
    """

    def __init__(self, threads: int = 1, own_process: bool = True) -> None:
        self._executor = None
        if own_process:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(1, context, initializer=_start, initargs=(threads,))

    def prepare(self, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        """Do now what `run` would do first, so that it is not timed."""
        if self._executor is None:
            _prepared(prepare, arguments)
        else:
            self._executor.submit(_prepare, prepare, arguments).result()

    def run(self, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> Any:
        """What the function returns that `prepare(*arguments)` returns; prepared once for calls that follow.

        Args:
            prepare: of a module, by name, so that another process finds it.
            arguments: hashable, and what another process can be sent.
        """
        if self._executor is None:
            return _run(prepare, arguments)
        return self._executor.submit(_run, prepare, arguments).result()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _prepared.cache_clear()
        if self._executor is not None:
            self._executor.shutdown()
