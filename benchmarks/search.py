"""A random search: one process against two, the same again from the store, and what is skipped.

    python -m benchmarks.search

Whether the worker processes have started, and the teacher's evaluation is known, is settled before the clock runs.
The default trains for one epoch, so that it ends within minutes; a search of the paper trains for five.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro

import rcnas_env  # noqa: F401  (registers the ids)
from agents.random_search import RandomSearch
from agents.trial import Trial
from benchmarks.summary import print_summary
from benchmarks.timing import interleaved, spread
from benchmarks.whole_jobs import start_workers
from rcnas_env.cost import cost
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.presets import teacher_entry
from rcnas_env.task import Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe

BUDGET_SHARE = 0.5


@dataclass(frozen=True)
class Search:
    """Settings of the measurement."""

    teacher: str = "WRN-10-2"
    """Whose students are searched, within half of its multiply-accumulates."""
    evaluations: int = 6
    """Students that a search tries."""
    workers: int = 2
    """Processes of one thread each that the second search has; it asks for as many students a step."""
    epochs: int = 1
    """Of each training."""
    inner_steps: int = 10
    """Of each training."""
    attack: str = "pgd-20"
    """What students are rewarded under."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of trainings."""
    actions: int = 500
    """Uniformly random actions of which is counted how many need no training."""
    seed: int = 0
    """Of the actions."""
    pairs: int = 2
    """Searches of each side, in turn."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""

    @property
    def task(self) -> Task:
        """The search's task."""
        budget = teacher_entry(self.teacher, "digits", (BUDGET_SHARE,)).budgets[0]
        return Task("digits", self.attack, self.teacher, budget)  # type: ignore[arg-type]

    @property
    def recipe(self) -> Recipe:
        """Recipe's defaults with these settings."""
        return Recipe(epochs=self.epochs, inner_steps=self.inner_steps, precision=self.precision)


def search(config: Search, evaluator: TrainedEvaluator, side_by_side: int) -> tuple[list[Trial], float]:
    """One random search: (trials, seconds). The same students whatever stands side by side."""
    envs = gym.make_vec(
        "RCNAS-v0",
        num_envs=side_by_side,
        tasks=config.task,
        recipe=config.recipe,
        engine=evaluator,
        annealing_steps=0,
        max_episode_steps=1,
    )
    start = time.perf_counter()
    trials = RandomSearch(config.task, config.seed).search(envs, config.evaluations)
    return trials, time.perf_counter() - start


def started(config: Search, workers: int) -> TrainedEvaluator:
    """An engine with a store of its own that knows the teacher, its workers running."""
    evaluator = TrainedEvaluator(MemoryStore(), workers, config.device)
    start_workers(evaluator)
    evaluator.evaluate([Job(config.task.teacher, config.task, config.recipe)])
    return evaluator


def skipped(config: Search) -> dict[str, Any]:
    """How many of uniformly random actions the environment does not train, their reward being −1 whatever they do."""
    env = gym.make("RCNAS-v0", tasks=config.task, recipe=config.recipe, engine="analytic", annealing_steps=0)
    rng = np.random.default_rng(config.seed)
    infos = []
    for _ in range(config.actions):
        env.reset()
        action = {"keep": rng.random((3, 2), dtype=np.float32), "switch": rng.integers(0, 2, (3, 2), dtype=np.int8)}
        infos.append(env.step(action)[4])
    untrained = [info["macs"] for info in infos if not info["evaluated"]]
    return {
        "actions": len(infos),
        "skipped_share": len(untrained) / len(infos),
        "skipped_share_of_macs": sum(untrained) / sum(info["macs"] for info in infos),
    }


def measure(config: Search) -> dict[str, dict[str, Any]]:
    """Seconds of both searches, their speed-up, the share from the store in a second run, and what is skipped."""
    many = max(1, config.workers)
    repeated: list[tuple[list[Trial], float]] = []

    def with_one() -> tuple[list[Trial], float]:
        """By one process, this one."""
        return search(config, started(config, workers=0), 1)

    def with_many() -> tuple[list[Trial], float]:
        """By the workers; and once more, on what the store has by then."""
        engine = started(config, config.workers)
        try:
            found = search(config, engine, many)
            repeated.append(search(config, engine, many))
        finally:
            engine.close()
        return found

    pairs = interleaved(with_one, with_many, config.pairs)
    (alone, _), (together, _) = pairs[-1]
    again, seconds_again = repeated[-1]
    return {
        "random search": {
            "evaluations": len(alone),
            "seconds": statistics.median(first for (_, first), _ in pairs),
            "workers": config.workers,
            "seconds_with_workers": statistics.median(second for _, (_, second) in pairs),
            "pairs": len(pairs),
            **spread([first / second for (_, first), (_, second) in pairs], "speed_up"),
            "same_rewards": _rewards(alone) == _rewards(together) == _rewards(again),
            "mean_kmacs": sum(cost(trial.student).macs for trial in alone) / len(alone) / 1e3,
        },
        "again on the same store": {
            "seconds": seconds_again,
            "share_from_store": sum(trial.from_store for trial in again) / len(again),
            "share_from_store_first": sum(trial.from_store for trial in together) / len(together),
        },
        "uniformly random actions at ε = 0": skipped(config),
    }


def _rewards(trials: Sequence[Trial]) -> list[float]:
    return [trial.reward for trial in trials]


def main() -> None:
    """Command line."""
    config = tyro.cli(Search, description=__doc__)
    with cpu_threads(1):
        found = measure(config)
    print_summary(found, config.json, config)


if __name__ == "__main__":
    main()
