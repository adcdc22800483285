"""An experiment in a process of its own that can be killed, with all that it started or alone.

Every run is forked off a server process that has imported the experiments already, so that a run begins with the first
line of its `main()`, as the command line's does, and not with seconds of imports in which there is nothing to lose.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn

from rcnas_env.presets import Preset, known_presets, register_preset, teacher_entry
from rcnas_env.task import TaskBuffers

PRELOADED = ("quickstart", "compare_agents", "record_table", "fit_table", "matrix")
"""Experiments that the server imports."""

TINY_PRESET = "tiny"
"""A preset whose trainings take a fraction of a second: one teacher, one attack, two optimizer steps."""

TINY_RECIPE = {"epochs": 1, "batch_size": 100, "inner_steps": 1, "n_train": 200, "n_eval": 30}
"""Its recipe; 30 eval images of the digits are three a class."""

ENDING_SECONDS = 30.0
"""How long to wait for the workers of a killed run: they see at once that it is gone, but may have to be scheduled."""


@dataclass(frozen=True)
class Command:
    """A command line, up to the folder that it writes to.

    experiment: `python -m experiments.EXPERIMENT`.
    arguments: made of the folder; all that the run writes must be below it.
    then: a command to be given when this one has ended, on the same folder.
    """

    experiment: str
    arguments: Callable[[Path], list[str]]
    then: Command | None = None


def start_server() -> None:
    """Have the server import the experiments, so that the first run takes no longer than the others."""
    context = get_context("forkserver")
    context.set_forkserver_preload([f"experiments.{name}" for name in PRELOADED])
    first = context.Process(target=os.getpid)
    first.start()
    first.join()


class Run:
    """A command under way in `folder`; its output is appended to the file beside it, FOLDER.log.

    It leads a session of its own, which its worker processes belong to. Needs /proc, and `start_server` before.
    """

    def __init__(self, command: Command, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder.with_name(f"{folder.name}.log")
        arguments = (command.experiment, command.arguments(folder), self.log, dict(os.environ))
        self.process: ForkServerProcess = get_context("forkserver").Process(target=_experiment, args=arguments)
        self.process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, −9 after SIGKILL; None if the run goes on after so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode

    def send(self, number: int, to_all: bool = False) -> None:
        """Send a signal to the run's main process, or to its whole group, as a terminal does.

        Raises:
            ProcessLookupError: the run has ended.
        """
        pid = self.process.pid
        assert pid is not None
        if to_all:
            with suppress(ProcessLookupError):  # it was just born, and is alone: not yet the leader of its group
                return os.killpg(pid, number)
        os.kill(pid, number)

    def wait_until_stoppable(self) -> None:
        """Wait until the run takes SIGTERM for what `experiments.stopping` makes of it: its work has begun.

        Raises:
            RuntimeError: it ended before.
        """
        while self.wait(0.01) is None:
            caught = Path(f"/proc/{self.process.pid}/status").read_text().split("SigCgt:")[1].split()[0]
            if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
                return
        raise RuntimeError(f"a run must be stoppable before it ends, got exit code {self.wait()}")

    def kill(self, to_all: bool) -> bool:
        """Send SIGKILL; False where the run had ended before.

        Raises:
            RuntimeError: worker processes outlive it by `ENDING_SECONDS`.
        """
        if self.wait(0) is not None:
            return False
        with suppress(ProcessLookupError):  # it ended in this moment
            self.send(signal.SIGKILL, to_all)
        killed = self.wait() == -signal.SIGKILL
        self.require_gone()
        return killed

    def members(self) -> list[int]:
        """Process ids of those of the run's session that are alive."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _session(path) == self.process.pid]

    def require_gone(self) -> None:
        """Wait until no process of the run is left.

        Raises:
            RuntimeError: one is, after `ENDING_SECONDS`.
        """
        deadline = time.monotonic() + ENDING_SECONDS
        while left := self.members():
            if time.monotonic() > deadline:
                raise RuntimeError(f"a run must take its processes with it, got {len(left)} that outlive it")
            time.sleep(0.02)


def run_to_end(command: Command, folder: Path) -> None:
    """Give the command, and those after it, and wait for their end.

    Raises:
        RuntimeError: one of them fails; the message has the end of its output.
    """
    run = Run(command, folder)
    if run.wait() != 0:
        end = run.log.read_text(encoding="utf-8", errors="replace")[-2_000:]
        raise RuntimeError(f"experiments.{command.experiment} must end with exit code 0, got {run.wait()}: {end}")
    if command.then is not None:
        run_to_end(command.then, folder)


def kill_after(command: Command, folder: Path, seconds: float, to_all: bool) -> bool:
    """Give the command, and those after it, and kill what runs after so many seconds; False if all had ended before.

    Raises:
        RuntimeError: one of them fails, or leaves processes behind.
    """
    deadline, part = time.monotonic() + seconds, command
    while True:
        run = Run(part, folder)
        code = run.wait(max(0.0, deadline - time.monotonic()))
        if code is None and run.kill(to_all):
            return True
        if run.wait() != 0:
            raise RuntimeError(f"experiments.{part.experiment} must end with exit code 0, got {run.wait()}")
        if part.then is None:
            return False
        part = part.then


def _session(process: Path) -> int | None:
    """The session of a process that is alive and no zombie."""
    try:
        state, _, _, session = (process / "stat").read_text().rsplit(")", 1)[1].split()[:4]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(session)


def _experiment(name: str, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    """In the run's process: become the command."""
    os.setsid()
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process's ancestors made of it
    become(name, arguments)


def become(name: str, arguments: list[str]) -> NoReturn:
    """Be the experiment's command to the end of this process, with one preset more: `TINY_PRESET`."""
    if TINY_PRESET not in known_presets():
        register_preset(TINY_PRESET, Preset(_tiny_buffers, TINY_RECIPE))
    sys.argv = [name, *arguments]
    code = import_module(f"experiments.{name}").main()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _tiny_buffers() -> TaskBuffers:
    return TaskBuffers(("digits",), ("fgsm",), (teacher_entry("WRN-10-1", "digits"),))
