"""Networks, tasks and recipes so small that a test can really train them, and what watches that happen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.networks import build
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe

RECIPE = Recipe(epochs=1, batch_size=128, inner_steps=1, n_eval=30)
"""Thirteen optimizer steps on the digits."""


def network(planes: int = 8, depth: int = 1, robust: bool = False) -> NetworkSpec:
    """Three stages for the digits, the second and the third strided."""
    stages = tuple(StageSpec(depth, planes, downsample=strided, robust=robust) for strided in (False, True, True))
    return NetworkSpec(stages, StemSpec(8), input=(1, 8, 8))


TEACHER = network(planes=12)
STUDENT = network(planes=8)


def task(attack: str = "fgsm", teacher: NetworkSpec = TEACHER, budget: float = 1e6, **fields: Any) -> Task:
    """A task on the digits."""
    return Task("digits", attack, teacher, budget, **fields)


def job(net: NetworkSpec = STUDENT, *, seed: int = 0, split: str = "eval", recipe: Recipe = RECIPE, **of: Any) -> Job:
    """A job whose task is `task(**of)`."""
    return Job(net, task(**of), recipe, seed, split)


def generator(seed: int = 0) -> torch.Generator:
    """A seeded stream."""
    return torch.Generator().manual_seed(seed)


def built(spec: NetworkSpec = STUDENT, seed: int = 0) -> nn.Module:
    """The network of `spec` with random running statistics, scales and shifts: no term of a batch norm vanishes."""
    model, draws = build(spec, generator(seed)), generator(seed + 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.running_var, 0.5, 2.0), (module.running_mean, -0.5, 0.5)):
                assert values is not None
                values.uniform_(low, high, generator=draws)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=draws)
                module.bias.uniform_(-0.5, 0.5, generator=draws)
    return model


def images(count: int = 6, seed: int = 2) -> Tensor:
    """Grey images of the digits' shape with noise all over, in [0, 1]."""
    return torch.rand(count, 1, 8, 8, generator=generator(seed))


def labels(count: int = 6, seed: int = 3) -> Tensor:
    """Labels from 0 to 9."""
    return torch.randint(10, (count,), generator=generator(seed))


class CountingStore(MemoryStore):
    """A store in memory that remembers what was saved, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[str] = []
        self.evaluated: list[str] = []

    def save_training(self, key: str, report: dict[str, Any], weights: bytes) -> None:
        """See `Store`."""
        self.trained.append(key)
        super().save_training(key, report, weights)

    def save_evaluation(self, evaluation: Any) -> None:
        """See `Store`."""
        self.evaluated.append(evaluation.key)
        super().save_evaluation(evaluation)
