"""A student that a reproduction found and trained to the end, as its run folder and its store have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.finding import Finding
from experiments.reproduction.finals import final_job
from experiments.reproduction.plan import make_plan
from experiments.reproduction.scale import recorded_scale
from experiments.reproduction.searches import Found, SearchKey, read_search
from rcnas_env.cost import cost
from rcnas_env.delivery import Measurement
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import open_store
from rcnas_env.validation import require_choice

SEED = 0
"""Of the search, and of the final training whose weights are delivered: the first of both."""


def reproduced(folder: Path, record: Mapping[str, Any], name: str | None, store: str | None) -> Finding:
    """The student called `name`: its search without the seed, such as rc-nas_cifar10_5G_pgd-20.

    It is measured as in the tables: under the attacks that the run's tables have for it, and clean on the same images.

    Args:
        record: of the run in `folder`.
        store: where its measurements lie; the run's own if None.

    Raises:
        ValueError: there is no such student, or the store does not have its measurements (any more).
    """
    config, results = record["config"], record["results"]
    scale = recorded_scale(config["scale_settings"])
    plan = make_plan(scale, results["targets"], False, results["left out"])
    finals = [each for each in plan.finals if each.search is not None and each.seed == SEED]
    names = {_name(each.search): each.search for each in finals if each.search is not None}
    key = names[require_choice("network", name, tuple(names))]
    found = read_search(folder, key)
    if found is None:
        raise ValueError(f"its searches must have {key.name}.json, got none")
    jobs = [job for each in finals if each.search == key and (job := final_job(scale, each, {key: found})) is not None]
    place = store or config["store"]
    return Finding(
        name=_name(key),
        job=jobs[0],
        measurements=_measurements(jobs, place, key),
        search=_search(found, record, _name(key)),
        versions=record["versions"],
        commit=record["commit"],
        store=place,
    )


def _name(key: SearchKey) -> str:
    return key.name.rpartition("_")[0]


def _measurements(jobs: list[Job], store: str, key: SearchKey) -> tuple[Measurement, ...]:
    """Under each attack and radius; clean on the most images that one of them had."""
    opened = open_store(store)
    pairs = [(job, each) for job in jobs if (each := opened.load_evaluation(job.key)) is not None]
    if not pairs:
        raise ValueError(f"store {store!r} must have the measurements of {_name(key)!r}, got none of {len(jobs)}")
    if any(each.diverged for _, each in pairs):
        raise ValueError(f"network {_name(key)!r} is not delivered: its training diverged")
    most: Evaluation = max((each for _, each in pairs), key=lambda each: each.images)
    clean = Measurement.of("clean", jobs[0].task.radius, most.images, most.clean_accuracy)
    attacked = (
        Measurement.of(job.task.attack, job.task.radius, each.images, each.robust_accuracy)
        for job, each in pairs
        if job.task.attack != "clean"
    )
    return clean, *attacked


def _search(found: Found, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "name": name,
        "task": found.task.to_dict(),
        "evaluations": len(found.trials),
        "within_budget": cost(found.student).macs <= found.task.budget,
        "command": record["command"],
        "started": record["started"],
    }
