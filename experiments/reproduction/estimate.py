"""What a plan would train, what of it the store and the run folder have, and how long the rest takes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import rcnas_env
from agents.checkpoint import has_checkpoint, load_checkpoint
from experiments.arena_meta import Charge
from experiments.reproduction.finals import Final, final_job, pruned_figures
from experiments.reproduction.plan import Plan
from experiments.reproduction.prices import Prices, passes_of, prices
from experiments.reproduction.scale import Scale
from experiments.reproduction.searches import Found, SearchKey, SearchSettings, meta_buffers, read_search, teacher_jobs
from rcnas_env.architecture import Network, NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.data import dataset_entry
from rcnas_env.evaluation.folder_store import FolderStore
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import Store, open_store
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe

ATTACK_PASSES = {"clean": 1, "fgsm": 3, "pgd-20": 41, "cw-40": 81, "autoattack": 1_500, "auto-lite": 600}
"""Forward and backward passes an image, roughly; others count as auto-lite."""
VERDICT_PASSES = 2
"""Of a student on images that its teacher's own row has had attacked: on the clean ones, and on those."""
STUDENTS = 16
"""Uniformly random students of a teacher, whose mean cost stands for that of a student that is not known yet."""
TEST_IMAGES = 10_000
"""Of the paper's data sets and Fashion-MNIST, where a recipe takes them all; smaller data sets have a sixth as many as
training images, roughly."""

PriceList = Mapping[str, Prices]
"""The price of passes by data set: how much a MAC costs depends on the size of the images."""


@dataclass(frozen=True)
class Phase:
    """Trainings of a phase, how many of them are done, and seconds of one worker that the rest takes, attacks too."""

    trainings: int
    done: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Phases by name, and how many of the final evaluations whose networks are known the store has."""

    phases: Mapping[str, Phase]
    known: int
    stored: int
    prices: PriceList

    def text(self, workers: int) -> str:
        """The estimate in words."""
        lines = [f"{'phase':<20}{'trainings':>10}{'done':>8}{'minutes left of one worker':>28}"]
        parts = self.phases.values()
        whole = Phase(sum(p.trainings for p in parts), sum(p.done for p in parts), sum(p.seconds for p in parts))
        for name, each in {**self.phases, "all": whole}.items():
            lines.append(f"{name:<20}{each.trainings:>10}{each.done:>8}{each.seconds / 60:>28.1f}")
        lines += dict.fromkeys(price.source for price in self.prices.values())
        several = all(price.lanes for price in self.prices.values())
        lanes = max(1, workers) if several else 1
        where = f"With {lanes} workers" if several else "On one such device"
        minutes = whole.seconds / 60 / lanes
        lines.append(f"{where} about {f'{minutes:.0f} minutes' if minutes < 300 else f'{minutes / 60:,.0f} hours'}.")
        lines.append(f"Of the {self.known} final evaluations of known networks the store has {self.stored}.")
        return "\n".join(lines)


def estimate(settings: SearchSettings, plan: Plan, tflops: float | None = None) -> Estimate:
    """Estimate a plan on this machine, after timing a few steps, or at an assumed rate (`prices`)."""
    scale, store = settings.scale, open_store(settings.store)
    price_list = _price_list(settings, plan, tflops)
    found = {key: each for key in plan.searches if (each := read_search(settings.folder, key)) is not None}
    jobs = _distinct(job for final in plan.finals if (job := known_job(scale, final, found)) is not None)
    phases = {
        "teachers of searches": _jobs(price_list, store, _search_teachers(settings, plan, found)),
        "meta-training": _meta_training(price_list, settings, plan),
        "searches": _searches(price_list, scale, plan, found),
        "finals": _finals(price_list, scale, store, plan, found, jobs),
        "pruning": _pruning(price_list, settings, plan),
    }
    stored = sum(_has(store, "evaluations", job.key) for job in jobs)
    return Estimate(phases, len(jobs), stored, price_list)


def _price_list(settings: SearchSettings, plan: Plan, tflops: float | None) -> PriceList:
    """The price of passes on each data set's images, by the plan's networks for them."""
    scale = settings.scale
    networks: dict[str, list[Network]] = {}
    for job in plan.fixed_jobs(scale):
        networks.setdefault(job.task.dataset, []).append(job.network)
    groups = [(key.place, key.group) for key in plan.searches] + [(final.place, final.group) for final in plan.pruned]
    tasks = [scale.task(place, group, "clean") for place, group in groups]
    for task in (*tasks, *(meta_buffers(scale, plan.missing).base_tasks() if plan.meta else ())):
        networks.setdefault(task.dataset, []).append(task.teacher)
    return {
        dataset: prices(chosen, dataset, scale.recipes(dataset)[0], settings.device, tflops)
        for dataset, chosen in networks.items()
    }


def known_job(scale: Scale, final: Final, found: Mapping[SearchKey, Found]) -> Job | None:
    """The job of a final whose network is known: fixed, or found by a search that is done; None before that."""
    return None if final.search is not None and final.search not in found else final_job(scale, final, found)


def _has(store: Store, kind: str, key: str) -> bool:
    """Whether there are files under the key; they are not read, for weights may be hundreds of megabytes."""
    if not isinstance(store, FolderStore):
        return False
    return all(path.exists() for path in store.paths(kind, key))  # type: ignore[arg-type]


def _distinct(jobs: Iterator[Job]) -> list[Job]:
    return list({job.key: job for job in jobs}.values())


def _jobs(price_list: PriceList, store: Store, jobs: Sequence[Job]) -> Phase:
    """Trainings and attacks of known jobs. What is evaluated needs no training any more."""
    left = [job for job in jobs if not _has(store, "evaluations", job.key)]
    keys = {job.training_key for job in jobs}
    wanted = {job.training_key: job for job in left if not _has(store, "trainings", job.training_key)}
    seconds = sum(_training(price_list, job.network, job.task.dataset, job.recipe) for job in wanted.values())
    return Phase(len(keys), len(keys) - len(wanted), seconds + sum(_attack(price_list, job) for job in left))


def _search_teachers(settings: SearchSettings, plan: Plan, found: Mapping[SearchKey, Found]) -> list[Job]:
    """The teachers, whose accuracy every reward is measured by, trained and attacked as students are in the search."""
    scale = settings.scale
    jobs = teacher_jobs(settings, meta_buffers(scale, plan.missing)) if plan.searches else []
    for key in plan.searches:
        if key not in found:
            task = scale.task(key.place, key.group, scale.search_attack(key.attack))
            jobs.append(Job(task.teacher, task, scale.recipes(task.dataset)[0], settings.seed))
    return _distinct(iter(jobs))


def _meta_training(price_list: PriceList, settings: SearchSettings, plan: Plan) -> Phase:
    """A student a step; what a checkpoint has done is done."""
    scale, done = settings.scale, 0
    an_iteration = scale.meta_envs * rcnas_env.META_EPISODE_STEPS
    for variant in plan.meta:
        path = settings.folder / "meta" / variant
        done += load_checkpoint(path)[0].iteration * an_iteration if has_checkpoint(path) else 0
    trainings = scale.meta_iterations * an_iteration * len(plan.meta)
    if not trainings:
        return Phase(0, 0, 0.0)
    tasks = meta_buffers(scale, plan.missing).base_tasks()
    mean = _mean([_student(price_list, task, scale.search_recipe) for task in tasks])
    return Phase(trainings, done, (trainings - done) * mean)


def _searches(price_list: PriceList, scale: Scale, plan: Plan, found: Mapping[SearchKey, Found]) -> Phase:
    seconds = 0.0
    for key in plan.searches:
        if key not in found:
            task = scale.task(key.place, key.group, scale.search_attack(key.attack))
            recipe = scale.recipes(task.dataset)[0]
            seconds += scale.fine_tune_evaluations * _student(price_list, task, recipe)
    each = scale.fine_tune_evaluations
    return Phase(each * len(plan.searches), each * len(found), seconds)


def _finals(
    price_list: PriceList, scale: Scale, store: Store, plan: Plan, found: Mapping[SearchKey, Found], jobs: Sequence[Job]
) -> Phase:
    """Known networks as they are; students that are still to be found as random ones of their teachers."""
    known, seconds = _jobs(price_list, store, jobs), 0.0
    unknown = [final for final in plan.finals if final.search is not None and final.search not in found]
    trained = set[tuple[SearchKey, int]]()
    for final in unknown:
        key, task = final.search, scale.task(final.place, final.group, "clean")
        assert key is not None
        job = final_job(scale, final, {key: Found(key, task, (), task.teacher, Charge(0, 0.0))})
        assert job is not None
        students = [replace(job, network=student) for student in _random_students(task.teacher)]
        if (key, final.seed) not in trained:
            trained.add((key, final.seed))
            seconds += _mean([_training(price_list, each.network, each.task.dataset, each.recipe) for each in students])
        seconds += _mean([_attack(price_list, each) for each in students])
    return Phase(known.trainings + len(trained), known.done, known.seconds + seconds)


def _pruning(price_list: PriceList, settings: SearchSettings, plan: Plan) -> Phase:
    """Three phases of the final recipe's length for each teacher, and its attacks."""
    done, seconds = 0, 0.0
    for cells in plan.prunings.values():
        columns = [final.column for final in cells]
        kept = pruned_figures(settings.scale, settings.folder, cells[0], columns)
        if all(final.column.key in kept for final in cells):
            done += 1
            continue
        jobs = [job for final in cells if (job := final_job(settings.scale, final, {})) is not None]
        seconds += 3 * _training(price_list, jobs[0].network, jobs[0].task.dataset, jobs[0].recipe)
        seconds += sum(_attack(price_list, job) for job in jobs)
    return Phase(len(plan.prunings), done, seconds)


def _student(price_list: PriceList, task: Task, recipe: Recipe) -> float:
    jobs = [Job(student, task, recipe) for student in _random_students(task.teacher)]
    return _mean([_training(price_list, job.network, task.dataset, recipe) + _attack(price_list, job) for job in jobs])


@functools.cache
def _random_students(teacher: NetworkSpec) -> tuple[NetworkSpec, ...]:
    rng, stages = np.random.default_rng(0), len(teacher.stages)
    actions = [{"keep": rng.random((stages, 2)), "switch": rng.integers(0, 2, (stages, 2))} for _ in range(STUDENTS)]
    return tuple(compress(teacher, action) for action in actions)


def _mean(seconds: Sequence[float]) -> float:
    return float(np.mean(seconds))


def _training(price_list: PriceList, network: Network, dataset: str, recipe: Recipe) -> float:
    images = recipe.n_train or dataset_entry(dataset).training_images - recipe.n_eval
    return recipe.epochs * price_list[dataset].passes(network, images, recipe.batch_size, passes_of(recipe))


def _attack(price_list: PriceList, job: Job) -> float:
    every = min(TEST_IMAGES, dataset_entry(job.task.dataset).training_images // 6)
    images = job.recipe.n_eval if job.split == "eval" else job.recipe.n_test or every
    price = price_list[job.task.dataset]
    if job.source_job is not None:  # the teacher's own row pays for the images
        return price.passes(job.network, images, job.recipe.attack_batch_size, VERDICT_PASSES)
    count = price.attack * ATTACK_PASSES.get(job.task.attack, 600)
    return price.passes(job.network, images, job.recipe.attack_batch_size, count)
