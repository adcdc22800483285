"""One run of the arena, an agent on a task by a seed, and the file that keeps all of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from agents.agent import Agent, incumbent_of
from agents.registry import make_agent
from agents.trial import Trial
from experiments.arena_landscape import Landscape, make_landscape
from experiments.arena_meta import Charge, load_encoder, load_meta_trained
from experiments.arena_roster import Entry
from experiments.arena_roster import entry as find_entry
from experiments.arena_settings import ArenaSettings
from experiments.arena_tasks import held_out_task
from rcnas_env.architecture import NetworkSpec
from rcnas_env.evaluation.evaluator import Evaluator
from rcnas_env.seeding import derive_seed
from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_fields, require_integer, require_number, shown
from rcnas_env.whole_files import write_text

RunKey = tuple[str, str, int]
"""(label, task's name, seed)."""


@dataclass(frozen=True)
class AgentRun:
    """What one agent found on one task by one seed, evaluation after evaluation.

    label: of the roster's entry.
    task: name of the held-out task.
    seed: of the run.
    observed: reward of each trial (Eq. 4 at ε = 0), as the agent saw it.
    expected: expected reward of the incumbent after each trial; 0 before there is one.
    seconds: simulated seconds of each trial; 0 where nothing had to be trained, over budget or met before.
    best: greatest expected reward within the budget; None where nobody knows (real training).
    charge: what the agent had spent before the search.
    delivered: the last incumbent, as a spec's JSON values; None where there was none.
    """

    label: str
    task: str
    seed: int
    observed: tuple[float, ...]
    expected: tuple[float, ...]
    seconds: tuple[float, ...]
    best: float | None
    charge: Charge = Charge()
    delivered: dict[str, Any] | None = None

    @property
    def key(self) -> RunKey:
        """What tells it from other runs."""
        return self.label, self.task, self.seed

    def to_json(self) -> str:
        """One line of JSON; floats are exact."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_dict(cls, value: object) -> AgentRun:
        """Read the parsed line that `to_json` wrote.

        Raises:
            ValueError: a field is missing, unknown, or no number.
        """
        names = ("label", "task", "seed", "observed", "expected", "seconds", "best", "charge", "delivered")
        given = dict(require_fields("run", value, names))
        for name in ("observed", "expected", "seconds"):
            if not isinstance(given[name], list | tuple):
                raise ValueError(f"run.{name} must be a list of numbers, got {shown(given[name])}")
            given[name] = tuple(require_number(f"run.{name}", entry) for entry in given[name])
        if not len(given["observed"]) == len(given["expected"]) == len(given["seconds"]) >= 1:
            raise ValueError(f"run must have one trial or more, with all figures of each, got {shown(value)}")
        given["seed"] = require_integer("run.seed", given["seed"], 0)
        if given["delivered"] is not None:
            NetworkSpec.from_dict(given["delivered"])
        charge = require_fields("run.charge", given["charge"], ("evaluations", "seconds"))
        seconds = require_number("run.charge.seconds", charge["seconds"], minimum=0.0)
        given["charge"] = Charge(require_integer("run.charge.evaluations", charge["evaluations"], 0), seconds)
        if given["best"] is not None:
            given["best"] = require_number("run.best", given["best"])
        for name in ("label", "task"):
            if not isinstance(given[name], str):
                raise ValueError(f"run.{name} must be a string, got {shown(given[name])}")
        return cls(**given)


class Progress:
    """What an agent tried, and after each trial the student that it would have delivered then, or None."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.trials: list[Trial] = []
        self.incumbents: list[Trial | None] = []

    def note(self, trial: Trial) -> None:
        """Take note of a trial as it is done."""
        self.trials.append(trial)
        self.incumbents.append(incumbent_of(self.agent, self.trials))


def run_agent(settings: ArenaSettings, folder: Path, entry: Entry, task_name: str, seed: int) -> AgentRun:
    """Let the entry's agent search the task: T = 1, over-budget students at once at −1 (ε = 0).

    All that the agent draws derives from (label, task, seed); trainings and their noise from the seed alone, so that a
    student is worth the same to all agents of one seed.

    Args:
        settings: of the comparison.
        folder: of the comparison; encoders and meta-trained agents are read from it.
        entry: of the roster.
        task_name: of a held-out task.
        seed: at least 0.
    """
    task = held_out_task(task_name)
    agent, charge = _agent(settings, folder, entry, task_name, seed)
    evaluator = settings.make_evaluator()
    try:
        envs = gym.make_vec(
            "RCNAS-v0",
            num_envs=settings.envs,
            tasks=task,
            recipe=settings.recipe,
            engine=evaluator,
            annealing_steps=0,
            max_episode_steps=1,
            training_seed=seed,
            compression_emphasis=settings.compression_emphasis,
        )
        progress = Progress(agent)
        agent.search(envs, settings.evaluations, progress.note)
        landscape = _landscape(settings, evaluator, task_name, seed)
        return _judged(progress, landscape, entry.label, task_name, seed, charge)
    finally:
        evaluator.close()


def run_by_key(settings: ArenaSettings, folder: Path, key: RunKey) -> AgentRun:
    """`run_agent` for the run that the key names."""
    label, task_name, seed = key
    return run_agent(settings, folder, find_entry(label), task_name, seed)


def _agent(settings: ArenaSettings, folder: Path, entry: Entry, task_name: str, seed: int) -> tuple[Agent, Charge]:
    meta_seed, own_seed = seed % settings.meta_seeds, derive_seed(seed, entry.label, task_name)
    if entry.meta_trained:
        learner, charge = load_meta_trained(settings, folder, entry, meta_seed)
        learner.seed = own_seed  # runs that start from one meta-training draw differently from here on
        return learner, charge
    encoder, charge = load_encoder(settings, folder, meta_seed) if entry.encoded else (None, Charge())
    return make_agent(entry.agent, held_out_task(task_name), own_seed, encoder, **entry.settings), charge


def _judged(progress: Progress, landscape: Landscape, label: str, task: str, seed: int, charge: Charge) -> AgentRun:
    worth = functools.cache(landscape.expected_reward)
    met = set()
    seconds = []
    for trial in progress.trials:
        new = trial.within_budget and trial.student not in met
        met.add(trial.student)
        seconds.append(landscape.simulated_seconds(trial.student) if new else 0.0)
    expected = tuple(0.0 if trial is None else worth(trial.student) for trial in progress.incumbents)
    observed = tuple(trial.reward for trial in progress.trials)
    last = progress.incumbents[-1] if progress.incumbents else None
    delivered = None if last is None else last.student.to_dict()
    return AgentRun(label, task, seed, observed, expected, tuple(seconds), landscape.best, charge, delivered)


@functools.lru_cache(maxsize=8)
def _kept_landscape(settings: ArenaSettings, task_name: str) -> Landscape:
    """One that no run changes: finding its best student takes seconds."""
    return make_landscape(settings, settings.make_evaluator(), held_out_task(task_name), 0)


def _landscape(settings: ArenaSettings, evaluator: Evaluator, task_name: str, seed: int) -> Landscape:
    if settings.engine == "trained":
        return make_landscape(settings, evaluator, held_out_task(task_name), seed)
    return _kept_landscape(settings, task_name)


class RunLog:
    """Runs as JSON lines in `folder`/runs.jsonl: whatever was done before an interruption is still there.

    Args:
        folder: of the comparison.
        deciding: `ArenaSettings.deciding`, kept beside the runs in settings.json.

    Raises:
        ValueError: the folder holds runs of other settings, a line that is no run, or what is no file;
            the message says which.
    """

    def __init__(self, folder: Path, deciding: dict[str, Any]) -> None:
        self.path = folder / "runs.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "settings.json"
        if settings.exists():
            _require_equal(_parsed(settings, _contents(settings)), deciding)
        else:
            write_text(settings, json.dumps(deciding, indent=1) + "\n")
        lines = _contents(self.path).splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]  # the last one may have been broken off
        self.runs = {run.key: run for run in (_run(self.path, number, line) for number, line in enumerate(whole, 1))}
        if whole != lines:
            write_text(self.path, b"".join(whole).decode())

    def add(self, run: AgentRun) -> None:
        """Keep a run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(run.to_json() + "\n")
        self.runs[run.key] = run

    def missing(self, wanted: Iterable[RunKey]) -> list[RunKey]:
        """Those of `wanted` that are still to be done."""
        return [key for key in wanted if key not in self.runs]


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read: {error.strerror}") from None


def _parsed(place: object, content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"{place} must be JSON, but {error}") from None


def _run(path: Path, number: int, line: bytes) -> AgentRun:
    place = f"{path}, line {number},"
    try:
        return AgentRun.from_dict(_parsed(place, line))
    except ValueError as error:
        raise ValueError(f"{place} must be a run: {error}") from None


def _require_equal(found: Any, wanted: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"out must be a folder with settings that are an object, got {shown(found)}")
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"out must be a new folder for {shown(name)} {wanted.get(name)!r}, got one with runs of "
                f"{shown(found.get(name))}"
            )
