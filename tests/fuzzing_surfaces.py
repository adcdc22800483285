"""What takes input from outside, as surfaces to be fuzzed: the inputs, what is done with them, what may be raised.

An input is accepted, refused, or it crashed something. A refusal is an exception of the surface's own list that says
something and was raised by the project's own code: a ValueError from the depths of numpy is a crash. So is whatever
executes the payload of `tests.fuzzing_strategies`, warns, or takes more than MOST_SECONDS of processor time.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from hypothesis import strategies as st

from rcnas_env.architecture import named_network, network_from_dict
from rcnas_env.cost import cost
from rcnas_env.data import DataUnavailableError
from rcnas_env.env import RCNASEnv
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.folder_store import StoreWarning
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.rendering import RENDER_MODES
from rcnas_env.tabular.env import TabularEnv
from rcnas_env.tabular.evaluator import NotInTableError
from rcnas_env.task import Task, TaskBuffers, TeacherEntry
from rcnas_env.training.recipe import Recipe, make_recipe
from rcnas_env.vector_env import RCNASVectorEnv
from tests import tiny
from tests.fuzzing_strategies import MARKER, mutated

ROOT = Path(__file__).resolve().parent.parent
MOST_SECONDS = 10.0


class CommandRefusedError(Exception):
    """A command ended with code 2 and said why."""


@dataclass(frozen=True)
class Surface:
    """A way into the project.

    name: for tests and tables.
    inputs: what it is fed.
    feed: called with an input and a new, empty folder; raises what the project raises.
    refusals: the exceptions that it documents.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    feed: Callable[[Any, Path], object]
    refusals: tuple[type[BaseException], ...] = (ValueError,)


def outcome(surface: Surface, value: Any, folder: Path) -> tuple[str, str]:
    """("accepted", ""), ("refused", why) or ("crashed", how)."""
    started = time.process_time()
    verdict = ("accepted", "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", StoreWarning)
            surface.feed(value, folder)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except surface.refusals as error:
        verdict = ("refused", str(error)) if _is_clear(error) else ("crashed", "".join(traceback.format_exc()))
    except BaseException:  # a panic of safetensors' Rust is no Exception
        verdict = ("crashed", traceback.format_exc())
    if MARKER.exists():
        MARKER.rmdir()
        return "crashed", "the payload was executed"
    seconds = time.process_time() - started
    return verdict if seconds <= MOST_SECONDS else ("crashed", f"took {seconds:.0f} s of processor time")


def _is_clear(error: BaseException) -> bool:
    """Whether the project itself, or gymnasium in its own words, refused the input, and said something."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    if error.__cause__ is not None and Path(last).parent == Path(gym.__file__).parent / "envs":  # gym.make raises anew
        last = traceback.extract_tb(error.__cause__.__traceback__)[-1].filename
    ours = any(Path(last).is_relative_to(ROOT / package) for package in ("rcnas_env", "agents", "experiments"))
    return bool(str(error)) and (ours or isinstance(error, gym.error.Error | CommandRefusedError))


# -- values ---------------------------------------------------------------------------------------------

NETWORKS = [
    named_network("WRN-10-1", (1, 8, 8)).to_dict(),
    named_network("RobustResNet-A1").to_dict(),
    named_network("AdvRush-1@4").to_dict(),
    tiny.TEACHER.to_dict(),
]
TASKS = [tiny.task().to_dict(), tiny.task("pgd-20", attack_source="teacher").to_dict()]
RECIPES = [Recipe().to_dict(), tiny.RECIPE.to_dict(), {"epochs": 2, "batch_size": 64}]
JOBS = [tiny.job().to_dict(), tiny.job(seed=3, split="test").to_dict()]
EVALUATION = AnalyticEvaluator().evaluate([tiny.job()])[0]
BUFFERS: list[dict[str, Any]] = [
    {
        "datasets": ["digits"],
        "attacks": ["fgsm", "pgd-20"],
        "teachers": [["WRN-10-1", [1e6]], ["WRN-16-1", [1e6, 2e6]]],
        "attack_source": "student",
    }
]
ACTIONS: list[dict[str, Any]] = [
    {"keep": [[0.5, 1.0], [0.25, 0.0], [1.0, 0.5]], "switch": [[0, 1], [1, 1], [0, 0]]},
    {"keep": [[[0.5, 1.0]] * 3] * 2, "switch": [[[0, 1]] * 3] * 2},
    {"keep": np.full((3, 2), 0.5), "switch": np.zeros((3, 2), np.int8)},
    {"keep": torch.ones(3, 2, requires_grad=True), "switch": torch.zeros(3, 2, dtype=torch.bfloat16)},
]
RESETS = [{"seed": 0, "options": {"task": tiny.task().to_dict(), "steps_taken": 5}}, {"seed": 1, "options": {}}]
MAKES: list[dict[str, Any]] = [
    {
        "preset": "digits",
        "recipe": {"epochs": 1, "n_eval": 10},
        "engine": "analytic",
        "engine_options": {"noise": 0.1},
        "penalty": "annealed",
        "annealing_steps": 5,
        "compression_emphasis": 0.5,
        "attack_source": "student",
        "training_seed": 1,
        "render_mode": "ansi",
        "store": None,
    },
    {"engine": "tabular", "engine_options": {"table": "digits", "noise": False}, "tasks": None, "store": "default"},
    {"table": "digits", "noise": True, "penalty": "hard", "training_seed": 1, "render_mode": "rgb_array"},
]


def _network(value: Any, folder: Path) -> None:
    cost(network_from_dict(value))


def _buffers(value: Any, folder: Path) -> None:
    given = dict.fromkeys(("datasets", "attacks", "teachers"), value)
    given |= {name: each for name, each in value.items() if name in BUFFERS[0]} if isinstance(value, dict) else {}
    if isinstance(given["teachers"], list):
        given["teachers"] = [
            TeacherEntry(*each) if isinstance(each, list) and len(each) == 2 else each for each in given["teachers"]
        ]
    TaskBuffers(**given).sample(np.random.default_rng(0))


_ENVIRONMENTS: dict[str, Any] = {}


def _environment(name: str) -> Any:
    """An environment that all inputs share: a refused one must leave it usable."""
    if name not in _ENVIRONMENTS:
        options: dict[str, Any] = {"disable_env_checker": True, "max_episode_steps": 10**9}
        made = {
            "tabular": lambda: gym.make("RCNAS-Tabular-v0", **options),
            "analytic": lambda: gym.make("RCNAS-v0", engine="analytic", store=None, recipe={"n_eval": 10}, **options),
            "vector": lambda: RCNASVectorEnv(2, engine="analytic", store=None, recipe={"n_eval": 10}),
            "tabular vector": lambda: gym.make_vec("RCNAS-Tabular-v0", num_envs=2),
        }
        _ENVIRONMENTS[name] = made[name]()
    return _ENVIRONMENTS[name]


def _act(value: Any, folder: Path) -> None:
    name, action = value
    env = _environment(name)
    env.reset(seed=0)
    env.step(action)


def _reset(value: Any, folder: Path) -> None:
    name, given = value
    given = given if isinstance(given, dict) else {"seed": given}
    options = given.get("options")
    if isinstance(options, dict) and isinstance(options.get("task"), dict):
        options["task"] = Task.from_dict(options["task"])
    env = _environment(name)
    env.reset(seed=given.get("seed"), options=options)
    env.step(env.action_space.sample())


def _make(value: Any, folder: Path) -> None:
    given = value if isinstance(value, dict) else {"preset": value}
    tabular = "table" in given
    known = MAKES[2] if tabular else MAKES[0] | {"tasks": None}
    given = {name: each for name, each in given.items() if name in known}
    mode = given.get("render_mode")
    if mode is not None and not (isinstance(mode, str) and mode in RENDER_MODES):
        # gymnasium's own reader of it warns, or fails
        (TabularEnv if tabular else RCNASEnv)(**given).close()
    else:
        gym.make("RCNAS-Tabular-v0" if tabular else "RCNAS-v0", disable_env_checker=True, **given).close()


def _with_environment(documents: list[dict[str, Any]]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(("tabular", "analytic", "vector", "tabular vector"))
    return st.tuples(names, mutated(documents, python=True))


UNAVAILABLE = (ValueError, DataUnavailableError)
VALUES = (
    Surface("network", mutated(NETWORKS, python=True), _network),
    Surface("task", mutated(TASKS, python=True), lambda value, _: Task.from_dict(value), UNAVAILABLE),
    Surface("task buffers", mutated(BUFFERS, python=True), _buffers, UNAVAILABLE),
    Surface("recipe", mutated(RECIPES, python=True), lambda value, _: make_recipe(value)),
    Surface("job", mutated(JOBS, python=True), lambda value, _: Job.from_dict(value).key, UNAVAILABLE),
    Surface("evaluation", mutated([EVALUATION.to_dict()], python=True), lambda value, _: Evaluation.from_dict(value)),
    Surface("action", _with_environment(ACTIONS), _act),
    Surface("reset", _with_environment(RESETS), _reset, (*UNAVAILABLE, NotInTableError, gym.error.Error)),
    Surface("gym.make", mutated(MAKES, python=True), _make, (*UNAVAILABLE, NotInTableError)),
)
"""The surfaces that take values."""
