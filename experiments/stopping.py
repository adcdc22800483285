"""Ctrl-C and SIGTERM end an experiment in the same clean way: nothing half-written, no worker left, how to go on."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What stops an experiment cleanly: Ctrl-C, and what `kill`, `timeout` and cluster schedulers send."""

SAME_STOP_SECONDS = 2.0
"""A signal that follows another within this time is the same wish, not impatience: `timeout` sends SIGTERM twice."""


class Stop(KeyboardInterrupt):
    """A signal that stops the run, raised in the main thread wherever that is.

    A KeyboardInterrupt, so that whatever cleans up on Ctrl-C does so on SIGTERM.

    Args:
        number: one of `SIGNALS`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stoppable(work: Callable[[], int], name: str, kept: str, options: Sequence[str] = ()) -> int:
    """Do an experiment's `work`, and let SIGINT and SIGTERM stop it with one message on how to go on.

    Args:
        work: returns the exit code; cleans up after itself on a KeyboardInterrupt.
        name: of the experiment: `python -m experiments.NAME`.
        kept: a sentence on what is not lost.
        options: what the command needs beside what it was given, to find its way back.

    Returns:
        What `work` returned; 128 + the signal's number (130, 143) where it was stopped, as a shell has it.
    """
    with _signals_raised():
        try:
            return work()
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stop) else signal.SIGINT
            print(
                f"\n{name}: stopped by {signal.Signals(number).name}. {kept} "
                f"The same command goes on from there:\n    {_again(name, options)}",
                file=sys.stderr,
            )
            return 128 + number


def ended_by_the_system(error: OSError, name: str, kept: str, options: Sequence[str] = ()) -> int:
    """Say what the system refused a run (a full disk, a folder that is read-only), and how to go on.

    Args:
        error: says which file; all else as for `stoppable`.

    Returns:
        The exit code, 1.
    """
    print(
        f"{name}: error: {error}. {kept} "
        f"Once that is put right, the same command goes on from there:\n    {_again(name, options)}",
        file=sys.stderr,
    )
    return 1


def _again(name: str, options: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"experiments.{name}", *sys.argv[1:], *options])


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise `Stop` on each of `SIGNALS`, except those that whoever started this process had it ignore (nohup)."""
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there alone
        yield
        return
    raised_at = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        """The handler: raise `Stop`, once for signals that come together."""
        nonlocal raised_at
        now = time.monotonic()
        if now - raised_at >= SAME_STOP_SECONDS:
            raised_at = now
            raise Stop(number)

    taken = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, stop) for number in taken}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
