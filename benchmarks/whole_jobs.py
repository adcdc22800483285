"""Whole jobs (build, train, attack, measure) by ours and as published, prepared for timing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

import rcnas_env.training.fit as fitting
from benchmarks import plain_attacks, published
from benchmarks.timing import Stopwatch, seconds_of
from rcnas_env.data import load_splits
from rcnas_env.evaluation import work
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.networks import build
from rcnas_env.seeding import derive_seed
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe

PARTS: tuple[tuple[Any, str, str], ...] = (
    (work, "build", "build"),
    (work, "fit", "training: batches and schedule"),
    (fitting.Trainer, "step", "training: outer step"),
    (fitting.Trainer, "perturb", "training: inner maximisation"),
    (work, "attack_images", "attack"),
    (work, "measure", "verdicts and Lipschitz coefficients"),
    (MemoryStore, "load_evaluation", "store"),
    (MemoryStore, "save_evaluation", "store"),
    (MemoryStore, "load_training", "store"),
    (MemoryStore, "save_training", "store"),
)
"""Owner, function and name of each part of a job; what is in none of them is "rest"."""


SHORT = Recipe(epochs=1, inner_steps=1, batch_size=256)
"""A second's training, to give a worker something to do."""


def start_workers(evaluator: TrainedEvaluator) -> None:
    """Have every worker process start: it is asked for when there is work for it, and imports torch before it does any.

    What the short trainings leave in the store is of no other job.
    """
    task = Task("digits", "clean", "WRN-10-1", 1.0)  # type: ignore[arg-type]
    evaluator.evaluate([Job(task.teacher, task, SHORT, seed) for seed in range(3 * evaluator.workers)])


def prepare_own(job: Job, device: str) -> Callable[[], dict[str, float]]:
    """A function that evaluates the job by the trained engine, with an empty store, and returns seconds by part."""
    load_splits(job.task.dataset, job.recipe.n_eval)

    def run() -> dict[str, float]:
        """Evaluate the job from scratch; seconds by part."""
        watch = Stopwatch(device)
        evaluator = TrainedEvaluator(MemoryStore(), device=device)
        with ExitStack() as stack:
            for owner, attribute, name in PARTS:
                stack.enter_context(watch.watch(owner, attribute, name))
            stack.enter_context(watch.part("rest"))
            evaluator.evaluate([job])
        return watch.seconds

    return run


def prepare_published(job: Job, device: str) -> Callable[[], float]:
    """A function that does the same by the published loop and torchattacks called plainly; returns its seconds.

    The attack must be one of `plain_attacks.perturb`'s.
    """
    splits = load_splits(job.task.dataset, job.recipe.n_eval)

    def run() -> None:
        """Train, attack, and read off the robust accuracy, which waits for the device."""
        generator = torch.Generator().manual_seed(derive_seed(job.seed, "initial weights"))
        model = published.plain_network(build(job.network, generator)).to(device)
        published.train(model, splits.train, job.recipe, job.training_epsilon, job.seed, device)
        images, labels = splits.eval.images(device), splits.eval.labels.to(device)
        adversarial = plain_attacks.perturb(job.task.attack, model, images, labels, job.task.radius)
        with torch.no_grad():
            correct = (model(images).argmax(1) == labels) & (model(adversarial).argmax(1) == labels)
        correct.float().mean().item()

    return lambda: seconds_of(run, device)
