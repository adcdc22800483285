"""What a search is going to do, checked and told before anything is trained: budget, networks, time."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from agents.registry import agent_settings, known_agents
from agents.scaling_rule import scaling_rule
from experiments.comparison import TEST_ATTACKS
from experiments.search_settings import Search
from rcnas_env.architecture import Network, NetworkSpec, read_network
from rcnas_env.attacks import validate_attack
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.data import ImageSet, dataset_entry, load_splits
from rcnas_env.data.dataset import validate_test_size
from rcnas_env.delivery.graph_formats import require_formats
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.trained import resolve_device
from rcnas_env.networks import build
from rcnas_env.strict_json import parse_json
from rcnas_env.task import Task, resolve_teacher
from rcnas_env.training.fit import Trainer, cpu_threads
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice, require_integer, require_number

Say = Callable[[str], None]
"""Tells the user something; `print`."""

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BUDGET = re.compile(r"(?P<number>\d+(?:[._]\d+)*(?:[eE]\+?\d+)?)\s*(?P<unit>[kKmMgGtT]?|%)")

QUICK_ATTACKS = ("clean", "fgsm", "pgd", "cw")
"""Families of attacks that take all test images; AutoAttack and the others take as many as `slow_attack_images`."""

FEW_IMAGES = 16
"""Of a timed step; a step of a whole batch is timed only if it promises to take no more than `PATIENCE` seconds."""
PATIENCE = 2.0


@dataclass(frozen=True)
class Plan:
    """A search that was found possible.

    task: what is searched for.
    search, final: recipes.
    rule: RobustResNet's rule's network for the budget; None where even its smallest is over it.
    attacks: of the final measurement, on the test set.
    """

    task: Task
    search: Recipe
    final: Recipe
    rule: NetworkSpec | None
    attacks: tuple[str, ...]


def parse_budget(text: str, teacher_macs: int) -> float:
    """Multiply-accumulates an image from "660000", "660k", "3G" (k, M, G, T: 10³ to 10¹²), or "40%" of the teacher's.

    Raises:
        ValueError: it is none of these, or not above 0.
    """
    found = _BUDGET.fullmatch(text.strip())
    number = float(found["number"].replace("_", "")) if found and found["number"].count(".") < 2 else 0.0
    if not found or not 0 < number < math.inf:
        raise ValueError(
            'budget must be MACs an image above 0 ("660000", "660k", "3G"), or a share of the teacher\'s ("40%"), '
            f"got {text!r}"
        )
    if found["unit"] == "%":
        return float(round(number / 100 * teacher_macs))
    return number * UNITS[found["unit"].lower()]


def cheapest_student(teacher: NetworkSpec) -> int:
    """MACs of the cheapest network that the action space makes of `teacher`."""
    stages = len(teacher.stages)
    keep = np.zeros((stages, 2), np.float32)
    switches = itertools.product((0, 1), repeat=2 * stages)
    return min(
        cost(compress(teacher, {"keep": keep, "switch": np.reshape(s, (stages, 2)).astype(np.int8)})).macs
        for s in switches
    )


def make_plan(task: Task, search: Recipe, final: Recipe, seed: int) -> Plan:
    """Check all that can be checked before anything is trained.

    Raises:
        ValueError: no student fits the budget, or a recipe does not fit the data set.
    """
    least = cheapest_student(task.teacher)
    if task.budget < least:
        raise ValueError(f"budget must be at least {least:,} MACs, the cheapest student's, got {task.budget:,.0f}")
    try:
        rule = scaling_rule(task.budget, task.teacher)
    except ValueError:  # below its smallest network, or above all that it lists
        rule = None
    attacks = tuple(dict.fromkeys(a for a in (*TEST_ATTACKS, task.attack) if _applies(a, task.dataset)))
    plan = Plan(task, search, final, rule, attacks)
    for recipe in (search, final):
        Job(task.teacher, task, recipe, seed)
    return plan


def final_jobs(plan: Plan, network: Network, seed: int, slow_attack_images: int | None) -> list[Job]:
    """One job for each of the plan's attacks on `network`, of one training; white box, on test images."""
    task, fewer = plan.task, plan.final
    if slow_attack_images is not None:
        fewer = plan.final.but(n_test=slow_attack_images)
    return [
        Job(
            network,
            Task(task.dataset, attack, task.teacher, task.budget, task.epsilon),
            plan.final if attack.partition("-")[0] in QUICK_ATTACKS else fewer,
            seed,
            split="test",
        )
        for attack in plan.attacks
    ]


def training_seconds(job: Job, device: str) -> float:
    """What the job's training is going to take here, from one timed step: wall seconds, to a factor of about two."""
    recipe, train = job.recipe, load_splits(job.task.dataset, job.recipe.n_eval).train
    images_in_all = len(train) if recipe.n_train is None else recipe.n_train
    generator = torch.Generator(device).manual_seed(0)
    trainer = Trainer(build(job.network).to(device).train(), recipe, job.training_epsilon, generator)
    few = min(FEW_IMAGES, recipe.batch_size)
    with cpu_threads(recipe.threads):
        _step_seconds(trainer, train.subset(torch.arange(few)), device)  # warms up
        seconds = _step_seconds(trainer, train.subset(torch.arange(few)), device)
        whole = min(recipe.batch_size, images_in_all)
        if seconds * whole / few <= PATIENCE:
            seconds = _step_seconds(trainer, train.subset(torch.arange(whole)), device)
            few = whole
    return recipe.epochs * images_in_all / few * seconds


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def read_plan(config: Search) -> Plan:
    """The settings as a plan, all of them checked.

    Raises:
        ValueError: a setting is unknown or out of range; the message names it.
        DataUnavailableError: the data set's files are not there.
    """
    require_integer("evaluations", config.evaluations, 1)
    require_integer("envs", config.envs, 1)
    require_integer("workers", config.workers, 0)
    require_number("compression_emphasis", config.compression_emphasis, minimum=0.0, maximum=1.0)
    if config.slow_attack_images is not None:
        require_integer("slow_attack_images", config.slow_attack_images, 1)
    require_formats(config.format)
    if config.agent is not None:
        agent_settings(require_choice("agent", config.agent, known_agents()))  # raises if its library is missing
    data = dataset_entry(config.dataset)
    teacher = resolve_teacher(read_network(config.teacher, data.input, data.classes), config.dataset)
    budget = parse_budget(config.budget, cost(teacher).macs)
    task = Task(config.dataset, config.attack, teacher, budget, config.epsilon, config.attack_source)
    plan = make_plan(task, config.recipe, config.final_recipe, config.seed)
    final_jobs(plan, teacher, config.seed, config.slow_attack_images)
    validate_test_size("slow_attack_images", config.dataset, config.slow_attack_images, plan.final.n_eval)
    validate_test_size("final_recipe.n_test", config.dataset, plan.final.n_test, plan.final.n_eval)
    if config.agent == "scaling-rule" and plan.rule is None:
        raise ValueError("agent must be another than 'scaling-rule', which has no network within this budget")
    record = config.folder / "record.json"
    if record.is_file():
        written = parse_json(record.read_bytes())
        results = written.get("results") if isinstance(written, dict) else None
        kept = results.get("settings") if isinstance(results, dict) else None
        if kept != config.deciding():
            raise ValueError(f"out must be a new folder, or that of a search with these settings, got {config.folder}")
    return plan


def announce(config: Search, plan: Plan, say: Say) -> None:
    """Say what is going to be trained, and about how long that takes."""
    task, device = plan.task, resolve_device(config.device)
    teacher, finalists = cost(task.teacher), 2 + (plan.rule is not None)
    say(
        f"Task: {task.dataset} under {task.attack} (radius {task.radius:.4g}), {config.teacher} of {teacher.macs:,} "
        f"MACs, budget {task.budget:,.0f} MACs ({task.budget / teacher.macs:.0%})."
    )
    say(
        f"Search: the teacher and up to {config.evaluations} students, {plan.search.method}, {_epochs(plan.search)} "
        f"each. Final: {finalists} networks, {_epochs(plan.final)}, under {', '.join(plan.attacks)}."
    )
    if plan.rule is None:
        say("RobustResNet's rule has no network for this budget; it is left out of the comparison.")
    job = Job(task.teacher, task, plan.search, config.seed)
    one, last = (
        training_seconds(job, device),
        training_seconds(Job(task.teacher, task, plan.final, config.seed), device),
    )
    lanes = max(1, min(config.workers, config.envs)), max(1, min(config.workers, finalists))
    in_search = one + one * config.evaluations / lanes[0]
    in_final = last * finalists / lanes[1]
    say(
        f"Estimate on {device}, {config.workers or 'no'} worker processes, if every student cost as much as the "
        f"teacher: {duration(in_search)} of training in the search, {duration(in_final)} in the end. Attacks come "
        "on top. What the store has is not trained again."
    )


def _epochs(recipe: Recipe) -> str:
    return f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"


def _step_seconds(trainer: Trainer, batch: ImageSet, device: str) -> float:
    images, labels = batch.images(device), batch.labels.to(device)
    start = time.perf_counter()
    trainer.step(images, labels).item()  # waits for the device
    return time.perf_counter() - start


def _applies(attack: str, dataset: str) -> bool:
    """Whether the data set has the classes that `attack` needs."""
    try:
        validate_attack(attack, dataset_entry(dataset).classes)
    except ValueError:
        return False
    return True
