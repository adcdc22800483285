"""Trainings with faults, in a module that worker processes, Ray's too, can import as the tests do."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rcnas_env.architecture import NetworkSpec
from rcnas_env.evaluation import work
from rcnas_env.evaluation.job import Job
from rcnas_env.training.fit import Trainer

Trained = tuple[dict[str, Any], bytes]
TRAIN = work.train
"""As it is before a test puts one of those below in its place."""


def dies_once_in_mid_training(deaths: Path, network: NetworkSpec, job: Job, device: str) -> Trained:
    """Train; the first process that trains `network` is killed at the fifth of thirteen steps, and leaves a file."""
    step, steps = Trainer.step, list[int]()

    def counted(trainer: Trainer, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        steps.append(len(images))
        if job.network == network and len(steps) == 5 and not list(deaths.iterdir()):
            (deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, images, labels)

    Trainer.step = counted  # type: ignore[method-assign]
    try:
        return TRAIN(job, device)
    finally:
        Trainer.step = step  # type: ignore[method-assign]


def always_dies(deaths: Path, network: NetworkSpec, job: Job, device: str) -> Trained:
    """Train; a process that trains `network` ends, and leaves a file."""
    if job.network == network:
        (deaths / str(os.getpid())).touch()
        os._exit(3)
    return TRAIN(job, device)


def stalls(started: Path, network: NetworkSpec, job: Job, device: str) -> Trained:
    """Train; of `network` an hour too late, leaving a file named after the process."""
    if job.network == network:
        (started / str(os.getpid())).touch()
        time.sleep(3600)
    return TRAIN(job, device)


def notes_its_time(notes: Path, job: Job, device: str) -> Trained:
    """Train, and leave a file with the begin and the end on the machine's monotonic clock."""
    begin = time.monotonic()
    trained = TRAIN(job, device)
    (notes / job.training_key).write_text(f"{begin} {time.monotonic()}")
    return trained


def first_never_ends(started: Path, network: NetworkSpec, job: Job, device: str) -> Trained:
    """Train; the first process that trains `network` leaves a file and sleeps for an hour in place of it."""
    if job.network == network and not list(started.iterdir()):
        (started / str(os.getpid())).touch()
        time.sleep(3600)
    return TRAIN(job, device)


def meets_others(notes: Path, number: int, others: int, seconds: float = 60.0) -> str:
    """No training: leave a file, wait for as many as `others` and a second more; the GPU that Ray has lent, as told.

    A second file has when it began and when it ended on the machine's monotonic clock.
    """
    begin = time.monotonic()
    (notes / f"here-{number}").touch()
    while len(list(notes.glob("here-*"))) < others and time.monotonic() - begin < seconds:
        time.sleep(0.05)
    time.sleep(1.0)
    (notes / f"span-{number}").write_text(f"{begin} {time.monotonic()}")
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Unpicklable(Exception):
    """An error of a user's attack that pickle cannot make anew."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def raises(job: Job, device: str) -> Trained:
    """In place of a training: such an error."""
    raise Unpicklable("a mistake", "somebody's attack")


def dies_while_sending(job: Job, device: str) -> Trained:
    """Train; the process is killed in the midst of sending what it found."""

    def half(connection: Connection, buffer: bytes, write: Any = os.write) -> None:
        write(connection.fileno(), bytes(buffer)[: len(buffer) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = half  # type: ignore[attr-defined]
    return TRAIN(job, device)
