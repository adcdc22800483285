"""Work shared out to worker processes of one thread each, that end with this one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from rcnas_env.evaluation.workers import Workers

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""`each(function, items)`: what the function makes of each item, as it is done, in whatever order.

An item is asked for when a process is free, so that an iterator may choose it by what is done by then."""


@contextmanager
def mapper(workers: int) -> Iterator[Each]:
    """One that works in this process (0 workers), or in up to `workers` others of one thread each.

    What `each` is given for those must be functions of modules, and data that can be sent. A process that dies makes it
    raise BrokenProcessPool; whatever ends the block early ends the processes at once.
    """
    if workers == 0:
        yield map
        return
    pool = Workers(workers, _begin)
    try:
        yield partial(_shared_out, pool, workers)
    except BaseException:
        pool.kill_all()  # what they work on is not kept any more
        raise
    finally:
        pool.close()


def _begin() -> None:
    torch.set_num_threads(1)


def _shared_out(pool: Workers, workers: int, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    to_do, running = iter(items), set[Future[Any]]()
    while True:
        running |= {pool.submit(function, item) for item in itertools.islice(to_do, workers - len(running))}
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        # what ended well first: an error ends the loop
        yield from (call.result() for call in sorted(done, key=lambda call: bool(call.exception())))
