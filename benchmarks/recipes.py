"""Do cheap recipes tell networks apart as dear ones do? Cost, accuracy, and agreement between seeds and recipes.

    python -m benchmarks.recipes

Trains the same students by the default recipe and by the quickstart's, in turn (so that a machine whose speed
drifts is fair to both), and prints for each: seconds a training, robust accuracy, its standard deviation between
networks and between seeds, and Kendall's τ of the ranking with that of the default recipe.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from scipy.stats import kendalltau

from agents.random_search import RandomSearch
from benchmarks.summary import print_summary
from experiments.progress import progress_bar
from experiments.quickstart import QUICK, target_task
from rcnas_env.compression import compress
from rcnas_env.evaluation import work
from rcnas_env.evaluation.job import Job
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe

RECIPES = {"default, batch 64": Recipe(batch_size=64), "quickstart": QUICK}


@dataclass(frozen=True)
class Recipes:
    """Settings of the measurement."""

    students: int = 8
    """Random students of the quickstart's target task, within its budget."""
    seeds: int = 2
    """Trainings of each."""
    attack: str = "pgd-20"
    """What robust accuracy is measured under, on the 256 eval images."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def measure(config: Recipes) -> dict[str, dict[str, list[list[float]]]]:
    """For each recipe: seconds and robust accuracy, a row a student, a column a seed."""
    target = target_task()
    task = Task(target.dataset, config.attack, target.teacher, target.budget)
    search = RandomSearch(task, seed=0)
    students = [compress(task.teacher, search.propose()) for _ in range(config.students)]
    found: dict[str, dict[str, list[list[float]]]] = {name: {"seconds": [], "robust": []} for name in RECIPES}
    with progress_bar("trainings", config.students * config.seeds * len(RECIPES)) as bar:
        for student in students:
            for name in RECIPES:
                found[name]["seconds"].append([])
                found[name]["robust"].append([])
            for seed in range(config.seeds):
                for name, recipe in RECIPES.items():
                    job = Job(student, task, recipe, seed)
                    evaluation = work.measure(job, *work.train(job))
                    found[name]["seconds"][-1].append(evaluation.training_seconds)
                    found[name]["robust"][-1].append(evaluation.robust_accuracy)
                    bar.advance()
    return found


def summarise(found: dict[str, dict[str, list[list[float]]]]) -> dict[str, dict[str, float]]:
    """The figures of each recipe; ratios against the first."""
    reference = next(iter(found.values()))
    summary = {}
    for name, values in found.items():
        robust, seconds = np.array(values["robust"]), np.array(values["seconds"])
        summary[name] = {
            "seconds_median": float(np.median(seconds)),
            "seconds_ratio": float(np.median(seconds / np.array(reference["seconds"]))),
            "robust_mean": float(robust.mean()),
            "sd_networks": float(robust.mean(axis=1).std(ddof=1)),
            "sd_seeds": float(np.sqrt(statistics.fmean(robust.var(axis=1, ddof=1)))) if robust.shape[1] > 1 else 0.0,
            "tau_with_default": float(
                kendalltau(robust.mean(axis=1), np.array(reference["robust"]).mean(axis=1)).statistic
            ),
        }
    return summary


def main() -> None:
    """Command line."""
    config = tyro.cli(Recipes, description=__doc__)
    torch.set_num_threads(1)
    print_summary(summarise(measure(config)), config.json, config)


if __name__ == "__main__":
    main()
