"""Clocks: pairs measured in turn, and where the time of real functions goes."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

First = TypeVar("First")
Second = TypeVar("Second")


def synchronise(device: str) -> None:
    """Wait until a GPU has done all it was given; a CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall seconds of one call of `work`, all that it started on `device` included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def interleaved(
    first: Callable[[], First], second: Callable[[], Second], pairs: int, seconds: float = 0.0
) -> list[tuple[First, Second]]:
    """What both return, in turn: whatever else the machine does hits both alike. Which goes first changes.

    Args:
        first, second: what is compared.
        pairs: at least so many.
        seconds: more pairs follow until so many seconds are spent.
    """
    found: list[tuple[First, Second]] = []
    start = time.perf_counter()
    while len(found) < pairs or time.perf_counter() - start < seconds:
        if len(found) % 2:
            other = second()
            found.append((first(), other))
        else:
            found.append((first(), second()))
    return found


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    """Median, least and most of `values`, as figures called `name`, `name`_least and `name`_most."""
    return {name: statistics.median(values), f"{name}_least": min(values), f"{name}_most": max(values)}


class Stopwatch:
    """Seconds by part of real functions, none counted twice: a part's time is without that of parts inside it.

    device: a GPU is waited for at both ends of a part.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._inside: list[float] = []  # of each open part: seconds of the parts inside it

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`'s."""
        synchronise(self._device)
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            synchronise(self._device)
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inside.pop()
            if self._inside:
                self._inside[-1] += elapsed

    @contextmanager
    def watch(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Inside, count the calls of `owner`'s function or method `attribute` as `name`'s."""
        own = vars(owner).get(attribute)
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def watched(*arguments: Any, **keywords: Any) -> Any:
            """What `function` returns, counted as `name`'s."""
            with self.part(name):
                return function(*arguments, **keywords)

        setattr(owner, attribute, watched)
        try:
            yield
        finally:
            if own is None:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, own)
