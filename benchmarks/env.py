"""Environment steps on the digits: how many a minute, where their time goes, and against the published way.

    python -m benchmarks.env
    python -m benchmarks.env --memory        # the paper's largest teacher too: minutes

1. Uniformly random actions on tasks with a WRN-10-2 teacher whose evaluation is known, through the vector
   environment with two workers of one thread each. Every student is new, and is trained (ε ≈ 1).
2. Some of these students' jobs again, in turn by ours and by the published loop and plain torchattacks, one thread
   each; and ours by part.
3. Steps whose answer is in the store; importing the package.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro

import rcnas_env  # noqa: F401  (registers the ids)
from benchmarks import memory, whole_jobs
from benchmarks.contender import Contender
from benchmarks.stored_steps import import_time, stored_steps
from benchmarks.summary import print_summary
from benchmarks.timing import spread
from rcnas_env.cost import cost
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.presets import preset_entry, teacher_entry
from rcnas_env.task import Task, TaskBuffers
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe


@dataclass(frozen=True)
class Env:
    """Settings of the measurement."""

    teacher: str = "WRN-10-2"
    """Of every task."""
    steps: int = 4
    """Steps of the vector environment, of `envs` students each."""
    envs: int = 2
    """Environments side by side."""
    workers: int = 2
    """Worker processes of one thread each; 0 works in this process."""
    compared: int = 2
    """Of the students' jobs, so many done again by both sides, evenly spread over their MACs."""
    epochs: int | None = None
    """Of every training; None for the preset's."""
    inner_steps: int | None = None
    """Of every training; None for the preset's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of our trainings."""
    stored_seconds: float = 1.0
    """How long to step from each kind of store."""
    imports: int = 5
    """Fresh interpreters that import the package."""
    memory: bool = False
    """Measure the paper's largest teacher too."""
    seed: int = 0
    """Of tasks and actions."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    own_processes: bool = True
    """Run each contender in a process of its own."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""

    @property
    def recipe(self) -> Recipe:
        """The digits preset's recipe with these settings."""
        given = {"epochs": self.epochs, "inner_steps": self.inner_steps}
        changes = {name: value for name, value in given.items() if value is not None}
        return preset_entry("digits").recipe.but(precision=self.precision, **changes)


@dataclass
class _Trained:
    """The jobs of students as they are evaluated."""

    jobs: list[Job] = field(default_factory=list)

    def add(self, job: Job, evaluation: Evaluation) -> None:
        if not evaluation.from_store:
            self.jobs.append(job)


def digits_tasks(teacher: str) -> tuple[Task, ...]:
    """The digits preset's tasks of a teacher: three attacks, two budgets."""
    attacks = ("fgsm", "pgd-20", "cw-40")
    return TaskBuffers(("digits",), attacks, (teacher_entry(teacher, "digits"),)).base_tasks()


def measure_throughput(config: Env) -> tuple[dict[str, Any], list[Job]]:
    """Step with random actions: (figures, the students' jobs)."""
    tasks = digits_tasks(config.teacher)
    trained = _Trained()
    evaluator = TrainedEvaluator(MemoryStore(), workers=config.workers, device=config.device)
    try:
        start = time.perf_counter()  # teachers known and workers started: neither is part of a step
        whole_jobs.start_workers(evaluator)
        evaluator.evaluate([Job(task.teacher, task, config.recipe) for task in tasks])
        teacher_seconds = time.perf_counter() - start
        envs = gym.make_vec(
            "RCNAS-v0",
            num_envs=config.envs,
            tasks=list(tasks),
            recipe=config.recipe,
            engine=evaluator,
            max_episode_steps=config.steps,
            on_done=trained.add,
        )
        envs.reset(seed=config.seed)
        rng = np.random.default_rng(config.seed)
        seconds = []
        for _ in range(config.steps):
            keep = rng.random((config.envs, 3, 2), dtype=np.float32)
            switch = rng.integers(0, 2, (config.envs, 3, 2), dtype=np.int8)
            start = time.perf_counter()
            envs.step({"keep": keep, "switch": switch})
            seconds.append(time.perf_counter() - start)
    finally:
        evaluator.close()
    students = config.steps * config.envs
    figures = {
        "students_per_minute": 60 * students / sum(seconds),
        "students": students,
        "trained": len(trained.jobs),
        "workers": config.workers,
        **spread(seconds, "step_seconds"),
        "teacher_and_start_seconds": teacher_seconds,
        "precision": config.recipe.precision,
    }
    return figures, trained.jobs


def choose(jobs: list[Job], count: int) -> list[Job]:
    """`count` jobs evenly spread over the order of their networks' MACs; all where there are no more."""
    ordered = sorted(jobs, key=lambda job: cost(job.network).macs)
    if len(ordered) <= count:
        return ordered
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def _own(config: Env, job: Job, ours: Contender, theirs: Contender) -> Any:
    return ours.run(whole_jobs.prepare_own, job, config.device)


def _published(config: Env, job: Job, ours: Contender, theirs: Contender) -> Any:
    return theirs.run(whole_jobs.prepare_published, job, config.device)


def compare(config: Env, jobs: list[Job]) -> dict[str, dict[str, Any]]:
    """Both sides' seconds on `jobs`, in turn, the pairs' ratios, and where ours go."""
    isolated = config.own_processes
    pairs = []
    with Contender(own_process=isolated) as ours, Contender(own_process=isolated) as theirs:
        for number, job in enumerate(jobs):
            ours.prepare(whole_jobs.prepare_own, job, config.device)
            theirs.prepare(whole_jobs.prepare_published, job, config.device)
            own_first = number % 2 == 0  # which goes first changes from job to job
            sides = (_own, _published) if own_first else (_published, _own)
            found = [side(config, job, ours, theirs) for side in sides]
            pairs.append(tuple(found if own_first else reversed(found)))
    own = [sum(parts.values()) for parts, _ in pairs]
    published = [seconds for _, seconds in pairs]
    names = dict.fromkeys(name for parts, _ in pairs for name in parts)
    return {
        "against the published loop": {
            "jobs": len(jobs),
            "attacks": [job.task.attack for job in jobs],
            "kmacs": [round(cost(job.network).macs / 1e3) for job in jobs],
            "seconds": own,
            "published_seconds": published,
            **spread([theirs / ours for ours, theirs in zip(own, published, strict=True)], "ratio"),
            "ratio_of_sums": sum(published) / sum(own),
        },
        "share of our seconds": {name: sum(parts.get(name, 0.0) for parts, _ in pairs) / sum(own) for name in names},
    }


def measure(config: Env) -> dict[str, dict[str, Any]]:
    """All figures; see the module's docstring."""
    throughput, jobs = measure_throughput(config)
    found = {"digits, random actions": throughput}
    if config.compared and jobs:
        found |= compare(config, choose(jobs, config.compared))
    found["steps from the store"] = stored_steps(digits_tasks(config.teacher)[0], config.stored_seconds)
    found["import rcnas_env"] = import_time(config.imports)
    if config.memory:
        found |= memory.measure(memory.Memory(precision=config.precision, device=config.device))
    return found


def main() -> None:
    """Command line."""
    config = tyro.cli(Env, description=__doc__)
    with cpu_threads(1):
        found = measure(config)
    print_summary(found, config.json, config)


if __name__ == "__main__":
    main()
