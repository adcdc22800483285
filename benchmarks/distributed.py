"""The Ray engine on two workers against the trained engine in one process, and what a task costs besides its work.

    python -m benchmarks.distributed

Both evaluate the same new students, in turn. That workers have started is settled before the clock runs. The overhead
of an evaluation is timed on a worker that is idle: a training's task that does nothing but give back weights of the
teacher's size, their way into the object store, and an attack's task that takes them and gives back nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import numpy as np
import tyro

from benchmarks.cost_model import random_students
from benchmarks.summary import Figures, print_summary
from benchmarks.timing import interleaved, seconds_of, spread
from benchmarks.training_steps import DIGITS, staged_network
from benchmarks.whole_jobs import start_workers
from rcnas_env.cost import cost
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.ray_engine import RayEvaluator
from rcnas_env.evaluation.ray_workers import RayWorkers
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.task import Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe


@dataclass(frozen=True)
class Distributed:
    """Settings of the measurement."""

    teacher: str = "WRN-10-2"
    """Whose random students are evaluated, on the digits."""
    students: int = 6
    """In each of the compared calls."""
    workers: int = 2
    """Of the Ray engine, one thread each."""
    epochs: int = 1
    """Of each training."""
    inner_steps: int = 5
    """Of each training."""
    attack: str = "pgd-20"
    """Of each student."""
    pairs: int = 3
    """Calls of either engine."""
    overheads: int = 30
    """Timed evaluations that do nothing."""
    seed: int = 0
    """Of the students."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def overhead(workers: RayWorkers, size: int, number: int) -> float:
    """Seconds of one evaluation's two tasks that do no work, with `size` bytes of weights."""

    def evaluate() -> None:
        """Two tasks, the second after the first: what takes the place of a training, and of an attack."""
        weights = workers.submit(bytes, size).result()
        workers.submit(len, workers.ship(f"benchmark {number}", weights)).result()

    return seconds_of(evaluate)


def measure(config: Distributed) -> dict[str, Figures]:
    """Both figures, and how busy the machine was."""
    task = Task("digits", config.attack, config.teacher, 1.0)  # type: ignore[arg-type]
    recipe = Recipe(epochs=config.epochs, inner_steps=config.inner_steps)
    teacher = staged_network(config.teacher, DIGITS)
    specs = random_students(teacher, config.students, np.random.default_rng(config.seed))
    jobs = [Job(spec, task, recipe) for spec in specs]
    own, ray = TrainedEvaluator(MemoryStore(), device="cpu"), RayEvaluator(MemoryStore(), config.workers, num_gpus=0)
    try:
        ray.evaluate([Job(task.teacher, task, recipe.but(epochs=1, inner_steps=1))])
        start_workers(ray)

        def call(engine: TrainedEvaluator) -> float:
            """Seconds of `jobs` on `engine`, its store emptied first."""
            engine.store = MemoryStore()
            return seconds_of(partial(engine.evaluate, jobs))

        pairs = interleaved(lambda: call(own), lambda: call(ray), config.pairs)
        size = 4 * cost(teacher).params
        extra = [overhead(ray._ray, size, number) for number in range(config.overheads)]
    finally:
        ray.close()
    return {
        f"Ray on {config.workers} workers": {
            **spread([first / second for first, second in pairs], "ratio"),
            "students_per_minute": 60 * len(jobs) / float(np.median([second for _, second in pairs])),
            "in_process_per_minute": 60 * len(jobs) / float(np.median([first for first, _ in pairs])),
            "seconds": pairs,
        },
        "overhead of an evaluation": {**spread([1e3 * each for each in extra], "ms"), "weights_bytes": size},
        "load": {"average_of_5_minutes": os.getloadavg()[1], "cores": os.cpu_count()},
    }


def main() -> None:
    """Command line."""
    config = tyro.cli(Distributed, description=__doc__)
    with cpu_threads(1):
        found = measure(config)
    print_summary(found, config.json, config)


if __name__ == "__main__":
    main()
