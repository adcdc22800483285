"""Reading the networks that finished runs found out of their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.finding import Finding
from experiments.reproduction.reproduced import reproduced
from rcnas_env.architecture import Network, network_from_dict
from rcnas_env.delivery import Measurement
from rcnas_env.evaluation.job import Job
from rcnas_env.strict_json import parse_json
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice

EXPERIMENTS = ("search", "quickstart", "reproduce")


def read_finding(folder: Path, name: str | None = None, store: str | None = None) -> Finding:
    """The network called `name` of the run in `folder`; the one that the run chose if None.

    Args:
        store: where a reproduction's measurements lie; its own store if None.

    Raises:
        ValueError: the folder holds no record of a finished run of EXPERIMENTS, or no such network that was measured.
    """
    path = folder / "record.json"
    try:
        record = parse_json(path.read_bytes())
        require_choice("experiment", record["experiment"], EXPERIMENTS)
        results, config = record["results"], record["config"]
        if record["experiment"] == "reproduce":
            return reproduced(folder, record, name, store)
        rows = {row["name"]: row for row in results["rows"]}
        searched = [row["name"] for row in results["rows"] if row["evaluations"] is not None]
        chosen = require_choice("network", name or results.get("chosen") or searched[0], tuple(rows))
        return _finding(folder, record, results, config, rows[chosen])
    except OSError as error:
        raise ValueError(f"run {str(folder)!r} must have a record.json: {error.strerror}") from None
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"run {str(folder)!r}: record.json is of no finished run: no {error}") from None
    except ValueError as error:
        raise ValueError(f"run {str(folder)!r}: {error}") from None


def _finding(folder: Path, record: Any, results: Any, config: Any, row: Any) -> Finding:
    task, recipe = Task.from_dict(results["task"]), Recipe.from_dict(config["final_recipe"])
    network: Network = network_from_dict(row["network"])
    trained_for = Task(task.dataset, "clean", task.teacher, task.budget, task.epsilon)
    measurements = tuple(
        Measurement.of(attack, task.radius, row["images"][attack], accuracy)
        for attack, accuracy in row["accuracies"].items()
    )
    if row["diverged"]:
        raise ValueError(f"network {row['name']!r} is not delivered: its training diverged")
    return Finding(
        name=row["name"],
        job=Job(network, trained_for, recipe, config["seed"], split="test"),
        measurements=measurements,
        search={
            "name": row["name"],
            "task": task.to_dict(),
            "evaluations": row["evaluations"],
            "within_budget": row["within_budget"],
            "command": record["command"],
            "started": record["started"],
        },
        versions=record["versions"],
        commit=record["commit"],
        store=str(folder / "store") if config.get("fresh") else config.get("store", "default"),
    )
