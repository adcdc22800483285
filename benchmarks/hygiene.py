"""Whether memory stays flat over a long run, and whether anything is left after close().

    python -m benchmarks.hygiene --json

Resident memory of this process after every few steps: 2,000 steps of `RCNAS-Tabular-v0`, alone and as a vector
environment, and 100 steps of `RCNAS-v0` that really train and attack, each another student. The slope is Theil and
Sen's (the median of all pairs' slopes), with its 95% interval, over the steps after a warm-up. Needs /proc.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from scipy.stats import theilslopes

from benchmarks.summary import print_summary
from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.cost import cost
from rcnas_env.task import Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_integer

SAMPLES = 25
"""Readings of resident memory, spread evenly over the steps after the warm-up."""

WARM_UP = 0.25
"""Share of the steps, before the others, in which caches fill: libraries' kernels, allocators' pools."""

LIVE_RECIPE = Recipe(epochs=1, batch_size=100, inner_steps=1, n_train=200, n_eval=30)
"""Two optimizer steps: what is watched is what a step leaves behind, not what it learns."""


@dataclass(frozen=True)
class Hygiene:
    """Settings of the measurement.

    Raises:
        ValueError: a field is out of range.
    """

    tabular_steps: int = 2_000
    """On the table, after the warm-up."""
    live_steps: int = 100
    """Of real training, after the warm-up."""
    num_envs: int = 16
    """Of the tabular vector environment."""
    seed: int = 0
    """Of tasks and actions."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""

    def __post_init__(self) -> None:
        for name in ("tabular_steps", "live_steps"):
            require_integer(name, getattr(self, name), 4)
        require_integer("num_envs", self.num_envs, 1)


@dataclass(frozen=True)
class Held:
    """What this process holds of the system: open file descriptors, and worker processes that are alive."""

    descriptors: int
    processes: int


def held() -> Held:
    """What this process holds now, garbage collected."""
    gc.collect()
    return Held(len(os.listdir("/proc/self/fd")), len(active_children()))


def resident_mib() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(step: Callable[[], object], steps: int, samples: int = SAMPLES) -> dict[str, Any]:
    """Resident memory over so many calls of `step`, after WARM_UP times as many, read `samples` times.

    Returns:
        MiB after the warm-up and at the end, MiB a thousand steps with the ends of its 95% interval, steps.
    """
    for _ in range(round(WARM_UP * steps)):
        step()
    at, found = [0], [_collected_mib()]
    for number in range(1, steps + 1):
        step()
        if number % max(1, steps // samples) == 0:
            at.append(number)
            found.append(_collected_mib())
    fit = theilslopes(found, at, 0.95)
    return {
        "steps": steps,
        "start_mib": found[0],
        "end_mib": found[-1],
        "mib_per_1000_steps": 1_000 * float(fit[0]),
        "interval_95": [1_000 * float(fit[2]), 1_000 * float(fit[3])],
    }


def tabular_step(seed: int = 0) -> Callable[[], object]:
    """A step of `RCNAS-Tabular-v0` with a random action, and a reset where an episode ends."""
    return _stepping(gym.make("RCNAS-Tabular-v0"), seed)


def vector_step(num_envs: int, seed: int = 0) -> Callable[[], object]:
    """A step of a tabular vector environment with random actions."""
    envs, rng = gym.make_vec("RCNAS-Tabular-v0", num_envs=num_envs), np.random.default_rng(seed)
    envs.reset(seed=seed)
    return lambda: envs.step(_action(rng, num_envs))


def live_step(store: Path, seed: int = 0) -> Callable[[], object]:
    """A step that trains and attacks a student of a small teacher in this process, with a store in a folder."""
    stages = tuple(StageSpec(2, 32, strided) for strided in (False, True, True))
    teacher = NetworkSpec(stages, StemSpec(16), (1, 8, 8))
    task = Task("digits", "fgsm", teacher, 2.0 * cost(teacher).macs)
    env = gym.make(
        "RCNAS-v0", tasks=task, recipe=LIVE_RECIPE, engine="trained", engine_options={"device": "cpu"}, store=store
    )
    return _stepping(env, seed)


def measure(config: Hygiene) -> dict[str, dict[str, Any]]:
    """The slope of each kind of step."""
    with tempfile.TemporaryDirectory() as store, cpu_threads(1):
        return {
            "tabular": slope(tabular_step(config.seed), config.tabular_steps),
            f"tabular, {config.num_envs} environments": slope(
                vector_step(config.num_envs, config.seed), config.tabular_steps
            ),
            "live": slope(live_step(Path(store), config.seed), config.live_steps),
        }


def _stepping(env: gym.Env[Any, Any], seed: int) -> Callable[[], object]:
    rng, done = np.random.default_rng(seed), [True]
    env.reset(seed=seed)

    def step() -> None:
        """One step by a random action, with a reset before it where the episode has ended."""
        if done[0]:
            env.reset()
        _, _, terminated, truncated, _ = env.step(_action(rng))
        done[0] = terminated or truncated

    return step


def _action(rng: np.random.Generator, *batch: int) -> dict[str, Any]:
    keep = rng.random((*batch, 3, 2), dtype=np.float32)
    return {"keep": keep, "switch": rng.integers(0, 2, (*batch, 3, 2), dtype=np.int8)}


def _collected_mib() -> float:
    gc.collect()
    return resident_mib()


def main() -> None:
    """Command line."""
    config = tyro.cli(Hygiene, description=__doc__)
    print_summary(measure(config), config.json, config)


if __name__ == "__main__":
    main()
