"""Steps a second on the tabular twin: one environment, many in a batch, and `RCNAS-v0` on the tabular engine.

    python -m benchmarks.tabular_steps [--json]

Uniformly random actions on the table's default tasks, resets between episodes included; the actions are drawn
beforehand. Each figure is the median of repeats; the contenders take turns, so that whatever else the machine does
hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro
from numpy.typing import NDArray

import rcnas_env
from benchmarks.summary import print_summary
from benchmarks.timing import spread
from rcnas_env.tabular.env import default_tasks
from rcnas_env.tabular.table import load_table

KNOWN_ACTIONS = 64
"""Actions, or batches of them, that the steps go round."""

Actions = list[dict[str, NDArray[np.generic]]]
Contender = Callable[[float], float]
"""Steps for so many seconds and returns steps a second."""


@dataclass(frozen=True)
class TabularSteps:
    """Settings of the measurement."""

    table: str = "digits"
    """Name or path of the table."""
    batches: tuple[int, ...] = (16, 128, 1_024)
    """Environments of each vector environment; each is measured."""
    seconds: float = 0.5
    """Of each repeat."""
    repeats: int = 5
    """Of which the median is shown, with the least and the most."""
    seed: int = 0
    """Of tasks and actions."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def random_actions(rng: np.random.Generator, *batch: int) -> Actions:
    """KNOWN_ACTIONS actions, each of `batch` environments or of a single one."""
    return [
        {
            "keep": rng.random((*batch, 3, 2), dtype=np.float32),
            "switch": rng.integers(0, 2, (*batch, 3, 2), dtype=np.int8),
        }
        for _ in range(KNOWN_ACTIONS)
    ]


def single(env: gym.Env[object, object], config: TabularSteps) -> Contender:
    """Steps of one environment, reset where an episode ends."""
    actions = random_actions(np.random.default_rng(config.seed))
    env.reset(seed=config.seed)

    def steps_per_second(seconds: float) -> float:
        """Steps a second over at least `seconds`, in whole rounds of the actions."""
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds or not done:
            for action in actions:
                if env.step(action)[3]:
                    env.reset()
            done += len(actions)
        return done / elapsed

    return steps_per_second


def batched(num_envs: int, config: TabularSteps) -> Contender:
    """Steps of `num_envs` environments in lockstep; those that only reset one of them are not counted."""
    envs = gym.make_vec("RCNAS-Tabular-v0", num_envs=num_envs, table=config.table)
    actions = random_actions(np.random.default_rng(config.seed), num_envs)
    envs.reset(seed=config.seed)
    share = rcnas_env.META_EPISODE_STEPS / (rcnas_env.META_EPISODE_STEPS + 1)  # every episode ends in a reset step

    def steps_per_second(seconds: float) -> float:
        """Steps a second of all environments over at least `seconds`, in whole rounds of the actions."""
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds or not done:
            for action in actions:
                envs.step(action)
            done += len(actions)
        return share * num_envs * done / elapsed

    return steps_per_second


def measure(config: TabularSteps) -> dict[str, dict[str, float]]:
    """Steps a second of each contender."""
    table = load_table(config.table)
    on_engine = gym.make(
        "RCNAS-v0",
        tasks=default_tasks(table),
        recipe=table.recipe,
        engine="tabular",
        engine_options={"table": config.table},
        store=None,
    )
    contenders = {
        'gym.make("RCNAS-Tabular-v0")': single(gym.make("RCNAS-Tabular-v0", table=config.table), config),
        **{f'gym.make_vec("RCNAS-Tabular-v0", {count})': batched(count, config) for count in config.batches},
        'gym.make("RCNAS-v0", engine="tabular")': single(on_engine, config),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(0.0)  # what is computed once and kept is no part of a step
    for _ in range(config.repeats):
        for name, contender in contenders.items():
            found[name].append(contender(config.seconds))
    return {name: spread(rates, "steps_per_second") for name, rates in found.items()}


def main() -> None:
    """Command line."""
    config = tyro.cli(TabularSteps, description=__doc__)
    print_summary(measure(config), config.json, config)


if __name__ == "__main__":
    main()
