"""Meta-training's wall time on any number of workers, simulated event by event.

Episodes stand side by side, each a chain of T dependent steps; a step is one student, a training and then an attack.
Free workers are given work as `rcnas_env.evaluation.scheduling.Schedule` gives it out: attacks before trainings, and of
either the largest network first. Two barriers are the agent's and the environment's, and can be lifted:

- `pace="lockstep"`: all episodes take a step together, as `gym.make_vec("RCNAS-v0")` does; "own": each goes on as soon
  as its own student is evaluated.
- `update_share`: the policy is updated, and new episodes begin, once so large a share of the episodes is through.
  With 1 the update is synchronous, as in Algorithm 1; below 1 the others go on meanwhile under an older policy.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rcnas_env.validation import require_choice, require_integer, require_number

Pace = Literal["lockstep", "own"]


@dataclass(frozen=True)
class Student:
    """What a step has to compute: its size, which decides who is first, and seconds of training and of attack."""

    macs: int
    training: float
    attack: float


@dataclass(frozen=True)
class Cluster:
    """Where students are computed.

    workers: tasks at once, at least 1.
    task_seconds: by which each task is longer than its computation: passing it on, fetching its result.
    driver_seconds: of the one driver for each task; it gives out one after the other.
    """

    workers: int
    task_seconds: float = 0.0
    driver_seconds: float = 0.0

    def __post_init__(self) -> None:
        require_integer("workers", self.workers, 1)
        require_number("task_seconds", self.task_seconds, minimum=0.0)
        require_number("driver_seconds", self.driver_seconds, minimum=0.0)


@dataclass(frozen=True)
class Training:
    """The shape of meta-training.

    episodes: side by side, at least 1.
    steps: T of an episode, at least 1 (paper: 5).
    iterations: updates, at least 1.
    pace, update_share: see the module; the share is in (0, 1].
    """

    episodes: int
    steps: int = 5
    iterations: int = 1
    pace: Pace = "lockstep"
    update_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("episodes", "steps", "iterations"):
            require_integer(name, getattr(self, name), 1)
        require_choice("pace", self.pace, ("lockstep", "own"))
        require_number("update_share", self.update_share, minimum=0.0, maximum=1.0, exclusive_minimum=True)
        if self.pace == "lockstep" and self.update_share < 1:
            raise ValueError(f"update_share must be 1 where episodes keep step, got {self.update_share:g}")


@dataclass(frozen=True)
class Outcome:
    """What a simulation found: seconds until the last update, and seconds of computation that were done until then."""

    seconds: float
    work: float
    workers: int

    @property
    def efficiency(self) -> float:
        """Work / (workers · seconds), in [0, 1]."""
        return self.work / (self.workers * self.seconds)


@dataclass
class _Run:
    """One simulation under way; times are seconds since it began.

    ready: a heap of (kind, −macs, order of arrival, episode, seconds): kind 0 is an attack, 1 a training.
    running: a heap of (end, order, episode, kind, seconds).
    """

    cluster: Cluster
    shape: Training
    draw: Callable[[], Student]
    now: float = 0.0
    work: float = 0.0
    driver_free: float = 0.0
    updates: int = 0
    count: int = 0
    ready: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    running: list[tuple[float, int, int, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.students: list[Student] = [self.draw() for _ in range(self.shape.episodes)]
        self.left = [self.shape.steps] * self.shape.episodes
        self.waiting: list[int] = []

    def run(self) -> Outcome:
        """All iterations."""
        for episode in range(self.shape.episodes):
            self._offer(episode, 1)
        while self.updates < self.shape.iterations:
            self._give_out()
            self.now, _, episode, kind, seconds = heapq.heappop(self.running)
            self.work += seconds
            if kind == 1:
                self._offer(episode, 0)
            else:
                self._step_done(episode)
        return Outcome(self.now, self.work, self.cluster.workers)

    def _offer(self, episode: int, kind: int) -> None:
        student = self.students[episode]
        seconds = student.training if kind else student.attack
        heapq.heappush(self.ready, (kind, -student.macs, self._order(), episode, seconds))

    def _give_out(self) -> None:
        while self.ready and len(self.running) < self.cluster.workers:
            kind, _, _, episode, seconds = heapq.heappop(self.ready)
            self.driver_free = max(self.now, self.driver_free) + self.cluster.driver_seconds
            end = self.driver_free + self.cluster.task_seconds + seconds
            heapq.heappush(self.running, (end, self._order(), episode, kind, seconds))

    def _step_done(self, episode: int) -> None:
        self.left[episode] -= 1
        if self.shape.pace == "own" and self.left[episode]:
            self._begin_step(episode)
            return
        self.waiting.append(episode)
        if len(self.waiting) < math.ceil(self.shape.update_share * self.shape.episodes - 1e-9):
            return
        if not self.left[episode]:
            self.updates += 1
            for each in self.waiting:
                self.left[each] = self.shape.steps
        for each in sorted(self.waiting):
            self._begin_step(each)
        self.waiting = []

    def _begin_step(self, episode: int) -> None:
        self.students[episode] = self.draw()
        self._offer(episode, 1)

    def _order(self) -> int:
        self.count += 1
        return self.count


def simulate(cluster: Cluster, shape: Training, students: Sequence[Student], rng: np.random.Generator) -> Outcome:
    """One meta-training whose students are drawn from `students`, each as likely as any other.

    Raises:
        ValueError: there are no students.
    """
    if not students:
        raise ValueError("students must not be empty")
    return _Run(cluster, shape, lambda: students[int(rng.integers(len(students)))]).run()
