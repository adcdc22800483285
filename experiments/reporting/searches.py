"""Searches as run folders hold them: a label, its task, and the students that were tried, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.trial import SELECTION_RULES, Trial, select
from rcnas_env.architecture import NetworkSpec
from rcnas_env.validation import require_boolean, require_fields, require_integer, require_number

_TRIAL = ("student", "params", "macs", "within_budget", "reward", "robust_accuracy", "from_store")


@dataclass(frozen=True)
class RecordedTask:
    """A task as it was recorded (`rcnas_env.task.Task.to_dict`).

    Not a Task: that one is refused where its attack or data set, such as somebody's plug-in, is not registered, and
    a report can be made on any machine.

    budget: multiply-accumulates an image, above 0.
    epsilon: L_inf radius in [0, 1] image units, None where it was not recorded.
    """

    dataset: str
    attack: str
    teacher: NetworkSpec
    budget: float
    epsilon: float | None
    attack_source: str

    @property
    def title(self) -> str:
        """In words: data set, attack, radius, budget."""
        radius = "" if self.epsilon is None else f", ε = {self.epsilon:.3g}"
        return f"{self.dataset}, {self.attack}{radius}, budget {self.budget / 1e6:,.3g} M MACs"


@dataclass(frozen=True)
class Search:
    """One agent's search on one task with one seed.

    seed: None where the run has one for everything.
    student: what the search delivered.
    trials: one or more, in the order in which they were tried.
    """

    label: str
    task: RecordedTask
    seed: int | None
    student: NetworkSpec
    trials: tuple[Trial, ...]


def searches_of_record(record: Mapping[str, Any], source: str) -> tuple[Search, ...]:
    """The searches inside a record: of an experiment on one "task" with "trials" by label, such as quickstart.

    A list of trials, as `experiments.search` has it, is the one search of the agent "chosen".

    Args:
        record: a record.json. One without both keys in its results has no searches.
        source: what errors name the file by.

    Raises:
        ValueError: the task or a trial is malformed.
    """
    results, config = record.get("results"), record.get("config")
    if not isinstance(results, Mapping) or not {"task", "trials"} <= results.keys():
        return ()
    by_agent = results["trials"]
    if isinstance(by_agent, list) and isinstance(results.get("chosen"), str):
        by_agent = {results["chosen"]: by_agent}
    if not isinstance(by_agent, Mapping) or not isinstance(results["task"], Mapping):
        return ()
    rule = config.get("select") if isinstance(config, Mapping) else None
    task = read_task(results["task"], f"{source}: results.task")
    found = []
    for label, given in by_agent.items():
        trials = read_trials(given, f"{source}: results.trials[{label!r}]")
        student = _delivered(results.get("rows"), str(label), f"{source}: results.rows")
        if student is None:
            student = select(trials, rule if rule in SELECTION_RULES else "reward").student
        found.append(Search(str(label), task, None, student, trials))
    return tuple(found)


def _delivered(rows: object, name: str, where: str) -> NetworkSpec | None:
    """The network that was trained to the end for the agent of this name; None if no row says."""
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and row.get("name") == name and "network" in row:
            return _network(row["network"], f"{where}, {name!r}")
    return None


def read_searches(value: object, source: str) -> tuple[Search, ...]:
    """The searches of a searches.json: a list of {"label", "task", "seed", "student", "trials"} and more.

    Raises:
        ValueError: the list or an entry is malformed; the message names `source`, the entry and the field.
    """
    found = []
    for position, given in enumerate(_list(value, source)):
        where = f"{source}[{position}]"
        entry = _mapping(given, where, ("label", "task", "seed", "student", "trials"))
        seed = None if entry["seed"] is None else require_integer(f"{where}.seed", entry["seed"], 0)
        task = read_task(entry["task"], f"{where}.task")
        trials = read_trials(entry["trials"], f"{where}.trials")
        student = _network(entry["student"], f"{where}.student")
        found.append(Search(str(entry["label"]), task, seed, student, trials))
    return tuple(found)


def read_task(value: object, where: str) -> RecordedTask:
    """Read the JSON form of a task; `where` is what errors call it.

    Raises:
        ValueError: a field is missing or out of range.
    """
    given = _mapping(value, where, ("dataset", "attack", "teacher", "budget"))
    epsilon = given.get("epsilon")
    return RecordedTask(
        dataset=str(given["dataset"]),
        attack=str(given["attack"]),
        teacher=_network(given["teacher"], f"{where}.teacher"),
        budget=require_number(f"{where}.budget", given["budget"], minimum=0.0, exclusive_minimum=True),
        epsilon=None if epsilon is None else require_number(f"{where}.epsilon", epsilon, minimum=0.0, maximum=1.0),
        attack_source=str(given.get("attack_source", "student")),
    )


def read_trials(value: object, where: str) -> tuple[Trial, ...]:
    """Read the JSON form of one trial or more (`agents.trial.Trial.to_dict`).

    Raises:
        ValueError: there is none, or a field is missing, unknown or out of range.
    """
    trials = tuple(_trial(given, f"{where}[{position}]") for position, given in enumerate(_list(value, where)))
    if not trials:
        raise ValueError(f"{where} must be one trial or more, got none")
    return trials


def by_task(searches: Sequence[Search]) -> dict[RecordedTask, list[Search]]:
    """The searches of each task, tasks in the order in which they first come."""
    groups: dict[RecordedTask, list[Search]] = {}
    for search in searches:
        groups.setdefault(search.task, []).append(search)
    return groups


def by_label(searches: Sequence[Search]) -> dict[str, list[Search]]:
    """The searches of each label, labels in the order in which they first come."""
    groups: dict[str, list[Search]] = {}
    for search in searches:
        groups.setdefault(search.label, []).append(search)
    return groups


def _trial(value: object, where: str) -> Trial:
    given = require_fields(where, value, _TRIAL)
    accuracy = given["robust_accuracy"]
    return Trial(
        student=_network(given["student"], f"{where}.student"),
        params=require_integer(f"{where}.params", given["params"], 1),
        macs=require_integer(f"{where}.macs", given["macs"], 1),
        within_budget=require_boolean(f"{where}.within_budget", given["within_budget"]),
        reward=require_number(f"{where}.reward", given["reward"]),
        robust_accuracy=(
            None if accuracy is None else require_number(f"{where}.robust_accuracy", accuracy, minimum=0.0, maximum=1.0)
        ),
        from_store=require_boolean(f"{where}.from_store", given["from_store"]),
    )


def _network(value: object, where: str) -> NetworkSpec:
    try:
        return NetworkSpec.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {type(value).__name__}")
    return value


def _mapping(value: object, where: str, required: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object, got {type(value).__name__}")
    missing = [name for name in required if name not in value]
    if missing:
        raise ValueError(f"{where} must have the fields {', '.join(required)}; missing: {', '.join(missing)}")
    return value
