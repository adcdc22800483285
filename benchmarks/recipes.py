"""Do cheap recipes tell networks apart as dear ones do? Cost, accuracy, and agreement between seeds and recipes.

    python -m benchmarks.recipes

Trains the same students by several recipes, in turn (so that a machine whose speed drifts is fair to all), and
prints for each: seconds a training, robust accuracy, its standard deviation between networks and between seeds,
Kendall's τ of one seed's ranking with the other's, and that of the mean ranking with the first recipe's.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import kendalltau

from benchmarks.summary import print_summary
from experiments.progress import progress_bar
from experiments.quickstart import QUICK
from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import action_space, compress
from rcnas_env.evaluation.evaluator import make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.presets import preset_entry
from rcnas_env.task import N_STAGE, Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe

RECIPES = {
    "paper: 5 epochs of 128, 10 inner steps": Recipe(),
    "digits preset: 2 epochs of 64, 5 inner steps": preset_entry("digits").recipe,
    "2 epochs of 32, 3 inner steps": Recipe(epochs=2, batch_size=32, inner_steps=3, relative_step=0.5),
    "quickstart": QUICK.but(n_eval=256),
}
"""The first is what the others are compared with."""


@dataclass(frozen=True)
class Recipes:
    """Settings of the measurement."""

    students: int = 10
    """Students of the teacher by uniformly random actions, as an untrained agent meets them."""
    teacher: str = "WRN-10-2"
    """Of the digits preset."""
    seeds: int = 2
    """Trainings of each student by each recipe."""
    attack: str = "pgd-20"
    """What robust accuracy is measured under, on the 256 eval images."""
    workers: int = 2
    """Processes, one training each; 0 for this one."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def draw_students(task: Task, count: int) -> list[NetworkSpec]:
    """`count` distinct students of the task's teacher, by uniformly random actions."""
    space: gym.spaces.Dict = action_space(N_STAGE)
    space.seed(0)
    found: dict[NetworkSpec, None] = {}
    while len(found) < count:
        found.setdefault(compress(task.teacher, space.sample()))
    return list(found)


def measure(config: Recipes) -> dict[str, dict[str, list[list[float]]]]:
    """For each recipe: seconds and robust accuracy, a row a student, a column a seed."""
    task = Task("digits", config.attack, config.teacher, 1e9)  # type: ignore[arg-type]
    students = draw_students(task, config.students)
    evaluator = make_engine("trained", MemoryStore(), workers=config.workers)
    found: dict[str, dict[str, list[list[float]]]] = {name: {"seconds": [], "robust": []} for name in RECIPES}
    try:
        console = Console(stderr=True)  # the standard output is the figures' alone
        with progress_bar("trainings", config.students, console=console) as bar, cpu_threads(1):
            for student in students:
                keys = list(itertools.product(RECIPES, range(config.seeds)))
                jobs = [Job(student, task, RECIPES[name], seed) for name, seed in keys]
                evaluations = dict(zip(keys, evaluator.evaluate(jobs), strict=True))
                for name, values in found.items():
                    mine = [evaluations[name, seed] for seed in range(config.seeds)]
                    values["seconds"].append([evaluation.training_seconds for evaluation in mine])
                    values["robust"].append([evaluation.robust_accuracy for evaluation in mine])
                bar.advance()
    finally:
        evaluator.close()
    return found


def summarise(found: dict[str, dict[str, list[list[float]]]]) -> dict[str, dict[str, float | None]]:
    """The figures of each recipe; ratios against the first."""
    reference = next(iter(found.values()))
    summary: dict[str, dict[str, float | None]] = {}
    for name, values in found.items():
        robust, seconds = np.array(values["robust"]), np.array(values["seconds"])
        summary[name] = {
            "seconds_median": float(np.median(seconds)),
            "seconds_ratio": float(np.median(seconds / np.array(reference["seconds"]))),
            "robust_mean": float(robust.mean()),
            "sd_networks": float(robust.mean(axis=1).std(ddof=1)),
            "sd_seeds": float(np.sqrt(statistics.fmean(robust.var(axis=1, ddof=1)))) if robust.shape[1] > 1 else 0.0,
            "tau_between_seeds": _between_seeds(robust),
            "tau_with_first": float(
                kendalltau(robust.mean(axis=1), np.array(reference["robust"]).mean(axis=1)).statistic
            ),
        }
    return summary


def _between_seeds(robust: NDArray[np.float64]) -> float | None:
    """Mean Kendall τ over the pairs of seeds of `robust`, (students, seeds); None for one seed."""
    taus = [kendalltau(first, second).statistic for first, second in itertools.combinations(robust.T, 2)]
    return float(np.mean(taus)) if taus else None


def main() -> None:
    """Command line."""
    config = tyro.cli(Recipes, description=__doc__)
    print_summary(summarise(measure(config)), config.json, config)


if __name__ == "__main__":
    main()
