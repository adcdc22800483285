"""Signals do not break off what must be whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from rcnas_env.held_signals import held_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_after_the_block_whichever_thread_took_it(number: signal.Signals) -> None:
    class Stopped(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stopped

    done, before = [], signal.signal(number, stop)
    idle = threading.Event()
    other = threading.Thread(target=idle.wait)  # takes a SIGINT that is blocked in this one
    other.start()
    try:
        with pytest.raises(Stopped), held_signals():
            os.kill(os.getpid(), number)
            done.append(sum(range(1_000)))
        assert done == [sum(range(1_000))]
        assert signal.getsignal(number) is stop
    finally:
        idle.set()
        other.join()
        signal.signal(number, before)


def test_what_is_ignored_stays_so_and_the_mask_comes_back() -> None:
    before, mask = signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with held_signals():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_that_starts_inside_is_deaf_to_ctrl_c() -> None:
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with held_signals():
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (inside.stdout, outside.stdout) == ("True\n", "False\n")


def test_another_thread_holds_no_handlers() -> None:
    found: list[object] = []

    def look() -> None:
        with held_signals():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
