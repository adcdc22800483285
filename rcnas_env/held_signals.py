"""Signals that wait until what they would break off is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM are only noted where Python code handles them; their handlers are called afterwards.

    A handler that raises would otherwise do so between any two lines. Processes that start inside are born with SIGINT
    blocked, where the system can: they must not take the terminal's Ctrl-C for theirs before they have a handler.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers are called in that thread alone
        with _sigint_blocked():
            yield
        return
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        """The handler meanwhile."""
        noted.append(number)

    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    handlers = {number: signal.signal(number, note) for number in handled}
    try:
        with _sigint_blocked():
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for taken in noted:
            signal.raise_signal(taken)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Hold SIGINT back from this thread, and from what it starts; another thread of the process may still take it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
