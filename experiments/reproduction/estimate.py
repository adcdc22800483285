"""What a plan would train, how long that takes, and what the store has of it already.

The cost model: a forward or backward pass of a network on a batch takes (MACs of the batch) · p + (layers) · q seconds.
p and q come from timing one step of real training on two networks of the plan, on the machine and device at hand; they
do not know about attacks that end early, so that the estimate is of the order, not of the minute.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

import rcnas_env
from experiments.reproduction.plan import Plan
from experiments.reproduction.scale import Scale
from experiments.reproduction.searches import SearchSettings, meta_buffers
from rcnas_env.architecture import Network, NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.data import dataset_entry, load_splits
from rcnas_env.evaluation.folder_store import FolderStore
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import open_store
from rcnas_env.evaluation.trained import resolve_device
from rcnas_env.networks import build
from rcnas_env.training.fit import cpu_threads, fit
from rcnas_env.training.recipe import Recipe

ATTACK_PASSES = {"clean": 1, "fgsm": 3, "pgd-20": 41, "cw-40": 81, "autoattack": 1_500, "auto-lite": 600}
"""Forward and backward passes an image, roughly; others count as auto-lite."""
STUDENT_SHARE = 0.6
"""Cost of a student as a share of its teacher's, on average; the policy decides, and is not known yet."""
TIMED_BATCHES = 3


@dataclass(frozen=True)
class Prices:
    """Seconds a MAC, and seconds a layer of a pass."""

    mac: float
    layer: float

    def passes(self, network: Network, images: int, batch_size: int, count: float) -> float:
        """Seconds of `count` passes over `images` images in batches."""
        batches = -(-images // batch_size)
        return count * (images * cost(network).macs * self.mac + batches * layers(network) * self.layer)


@dataclass(frozen=True)
class Estimate:
    """Trainings and seconds of one worker, by phase, and how many of the known jobs the store has."""

    trainings: dict[str, int]
    seconds: dict[str, float]
    known: int
    stored: int

    def text(self, workers: int) -> str:
        """The estimate in words."""
        lines = [f"{'phase':<24}{'trainings':>10}{'minutes of one worker':>24}"]
        for phase, count in self.trainings.items():
            lines.append(f"{phase:<24}{count:>10}{self.seconds[phase] / 60:>24.1f}")
        whole = sum(self.seconds.values())
        lines.append(f"{'all':<24}{sum(self.trainings.values()):>10}{whole / 60:>24.1f}")
        lines.append(f"With {max(1, workers)} workers about {whole / 60 / max(1, workers):.0f} minutes.")
        lines.append(f"Of the {self.known} final evaluations known before the search the store has {self.stored}.")
        return "\n".join(lines)


def layers(network: Network) -> int:
    """Layers of a network, roughly: three a block, eight a robust block, twenty a cell."""
    if isinstance(network, NetworkSpec):
        return 3 + sum(stage.depth * (8 if stage.robust else 3) for stage in network.stages)
    return 3 + 20 * network.layers


def measure_prices(networks: Sequence[Network], dataset: str, recipe: Recipe, device: str = "auto") -> Prices:
    """Time a few training steps of the smallest and the largest network; p and q by non-negative least squares."""
    data = load_splits(dataset, recipe.n_eval).train
    few = data.subset(_first(TIMED_BATCHES * recipe.batch_size, len(data)))
    chosen = sorted(set(networks), key=lambda network: cost(network).macs)
    chosen = [chosen[0], chosen[-1]]
    short, target = recipe.but(epochs=1, n_train=None), resolve_device(device)
    rows, seconds = [], []
    for network in chosen:
        batches, per_image = -(-len(few) // recipe.batch_size), passes_of(recipe)
        for _ in range(2):  # the first is slower: kernels are chosen, memory is asked for
            start = time.perf_counter()
            with cpu_threads(recipe.threads):
                fit(build(network).to(target), few, short, dataset_entry(dataset).epsilon, 0, target)
            elapsed = time.perf_counter() - start
        rows.append([per_image * len(few) * cost(network).macs, per_image * batches * layers(network)])
        seconds.append(elapsed)
    scale = np.max(rows, axis=0)
    price, _ = nnls(np.asarray(rows) / scale, np.asarray(seconds))
    return Prices(float(price[0] / scale[0]), float(price[1] / scale[1]))


def passes_of(recipe: Recipe) -> float:
    """Forward and backward passes an image of one epoch: two an inner step, three for each of the two outer batches."""
    return 2 * recipe.inner_steps + 6


def estimate(settings: SearchSettings, plan: Plan) -> Estimate:
    """Estimate a plan on this machine, after timing a few steps."""
    scale = settings.scale
    fixed = plan.fixed_jobs(scale)
    teachers = [scale.task(key.place, key.group, "clean").teacher for key in plan.searches]
    networks = [job.network for job in fixed] or teachers
    dataset = next(name for name in scale.datasets.values() if name not in plan.missing)
    shape = dataset_entry(dataset).input
    prices = measure_prices([n for n in networks if n.input == shape], dataset, scale.search_recipe, settings.device)
    store = open_store(settings.store)
    stored = sum(store.load_evaluation(job.key) is not None for job in fixed) if isinstance(store, FolderStore) else 0
    trainings, seconds = {}, {}
    steps = scale.meta_iterations * scale.meta_envs * rcnas_env.META_EPISODE_STEPS
    meta_tasks = meta_buffers(scale, plan.missing).base_tasks() if plan.meta else ()
    trainings["meta-training"] = steps * len(plan.meta)
    share = [_student_seconds(prices, scale, task.teacher, task.dataset, task.attack) for task in meta_tasks]
    seconds["meta-training"] = trainings["meta-training"] * float(np.mean(share)) if share else 0.0
    trainings["search"] = scale.fine_tune_evaluations * len(plan.searches)
    seconds["search"] = scale.fine_tune_evaluations * sum(
        _student_seconds(prices, scale, task.teacher, task.dataset, task.attack)
        for task in (scale.task(k.place, k.group, scale.search_attack(k.attack)) for k in plan.searches)
    )
    trainings["finals"], seconds["finals"] = _finals(prices, scale, plan, fixed)
    trainings["pruning"] = len(plan.prunings)
    seconds["pruning"] = sum(_pruning_seconds(prices, scale, cells[0]) for cells in plan.prunings.values())
    return Estimate(trainings, seconds, len(fixed), stored)


def _student_seconds(prices: Prices, scale: Scale, teacher: NetworkSpec, dataset: str, attack: str) -> float:
    recipe = scale.recipes(dataset)[0]
    return STUDENT_SHARE * (
        _training_seconds(prices, teacher, dataset, recipe)
        + prices.passes(teacher, recipe.n_eval, recipe.attack_batch_size, ATTACK_PASSES.get(attack, 600))
    )


def _training_seconds(prices: Prices, network: Network, dataset: str, recipe: Recipe) -> float:
    images = recipe.n_train or dataset_entry(dataset).training_images - recipe.n_eval
    return recipe.epochs * prices.passes(network, images, recipe.batch_size, passes_of(recipe))


def _job_seconds(prices: Prices, job: Job, share: float = 1.0) -> float:
    images = job.recipe.n_test or 250
    count = ATTACK_PASSES.get(job.task.attack, 600)
    return share * prices.passes(job.network, images, job.recipe.attack_batch_size, count)


def _finals(prices: Prices, scale: Scale, plan: Plan, fixed: Sequence[Job]) -> tuple[int, float]:
    trained = {job.training_key: job for job in fixed}
    seconds = sum(_training_seconds(prices, job.network, job.task.dataset, job.recipe) for job in trained.values())
    seconds += sum(_job_seconds(prices, job) for job in fixed)
    searched = {(final.search, final.seed): final for final in plan.finals if final.search is not None}
    for final in searched.values():
        task = scale.task(final.place, final.group, final.column.attack)
        job = Job(task.teacher, task, scale.recipes(task.dataset)[1], final.seed, split="test")
        seconds += STUDENT_SHARE * _training_seconds(prices, job.network, task.dataset, job.recipe)
        seconds += _job_seconds(prices, job, STUDENT_SHARE)
    return len(trained) + len(searched), seconds


def _pruning_seconds(prices: Prices, scale: Scale, final: object) -> float:
    place, group = final.place, final.group  # type: ignore[attr-defined]
    task = scale.task(place, group, "clean")
    recipe = scale.recipes(task.dataset)[1]
    attacks = sum(ATTACK_PASSES[attack] for attack in ("clean", "pgd-20", "cw-40"))
    return 3 * _training_seconds(prices, task.teacher, task.dataset, recipe) + prices.passes(
        task.teacher, 250, recipe.attack_batch_size, attacks
    )


def _first(count: int, available: int):  # type: ignore[no-untyped-def]
    import torch

    return torch.arange(min(count, available))
