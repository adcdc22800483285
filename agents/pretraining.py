"""Observations of diverse tasks for the state encoder's pre-training (Eq. 10), without training a network for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.evaluation.record import Evaluation


def diverse_observations(
    teachers: Sequence[NetworkSpec], evaluations: Sequence[Evaluation], count: int, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """`count` observations that pair the stages and exact cost of random students with measured LIPS.

    Stages and cost of any network are known in closed form, LIPS only where a teacher was trained and
    attacked: each observation takes the LIPS of one of the `evaluations`, which have at least that variety.
    The teachers themselves, each with all of its own evaluations, come first.

    Args:
        teachers: the network of each evaluation, in order.
        evaluations: of attacked teachers (white box, so that they hold LIPS).
        count: how many, at least as many as evaluations.
        seed: of the random students and of the pairing.

    Returns:
        stages (count, N_stage, 4), lips and cost (count, n_eval), as RCNASEnv observes them.
    """
    if count < len(evaluations) or len(teachers) != len(evaluations) or not evaluations:
        raise ValueError(
            f"count must be at least the number of evaluations, one for each teacher: got {count}, "
            f"{len(evaluations)} and {len(teachers)}"
        )
    rng = np.random.default_rng(seed)
    networks, lips = list(teachers), [evaluation.lips for evaluation in evaluations]
    while len(networks) < count:
        teacher = teachers[int(rng.integers(len(teachers)))]
        shape = (len(teacher.stages), 2)
        networks.append(compress(teacher, {"keep": rng.random(shape), "switch": rng.integers(0, 2, shape)}))
        lips.append(evaluations[int(rng.integers(len(evaluations)))].lips)
    stages = [[[s.planes, s.depth, s.downsample, s.robust] for s in network.stages] for network in networks]
    gmacs = np.array([cost(network).macs / 1e9 for network in networks], np.float32)
    lips_array = np.asarray(lips, np.float32)
    return {
        "stages": np.asarray(stages, np.float32),
        "lips": lips_array,
        "cost": np.repeat(gmacs[:, None], lips_array.shape[1], axis=1),
    }
