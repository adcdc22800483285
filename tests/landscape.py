"""A search problem with a known optimum, large enough that an agent has something to learn: the analytic engine's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.state_encoder import StateEncoder
from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.cost import cost
from rcnas_env.task import Task
from rcnas_env.vector_env import RCNASVectorEnv

N_EVAL = 10
"""Length of LIPS and CT here: the fewest that the digits allow."""


def teacher(blocks: int = 8, planes: int = 128) -> NetworkSpec:
    """For the digits; up to `planes` / 16 widths and `blocks` depths in the first stage."""
    widths = (planes, 2 * planes, 4 * planes)
    stages = tuple(StageSpec(blocks, width, downsample=i > 0) for i, width in enumerate(widths))
    return NetworkSpec(stages, StemSpec(16), input=(1, 8, 8))


def task(attack: str = "cw-40", budget_share: float = 1.0, network: NetworkSpec | None = None) -> Task:
    """A task whose budget is a share of its teacher's MACs."""
    network = network or teacher()
    return Task("digits", attack, network, budget_share * cost(network).macs)


def environments(num_envs: int, tasks: Any = None, steps: int = 1, **options: Any) -> RCNASVectorEnv:
    """On the analytic engine, over-budget students at −1 from the start."""
    return RCNASVectorEnv(
        num_envs,
        max_episode_steps=steps,
        tasks=task() if tasks is None else tasks,
        engine="analytic",
        store=None,
        annealing_steps=0,
        recipe={"n_eval": N_EVAL},
        **options,
    )


def encoder(seed: int = 0) -> StateEncoder:
    """One that fits these environments, not pre-trained."""
    return StateEncoder(N_EVAL, seed=seed)


def observations(count: int = 5, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random observations of about the sizes that the environment gives."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 300, (count, 3, 2))
    switches = rng.integers(0, 2, (count, 3, 2))
    return {
        "stages": np.concatenate([sizes, switches], axis=2).astype(np.float32),
        "lips": rng.uniform(0, 60, (count, N_EVAL)).astype(np.float32),
        "cost": np.repeat(rng.uniform(1e-3, 40, (count, 1)), N_EVAL, axis=1).astype(np.float32),
    }
