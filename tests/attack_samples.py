"""Attacks, images and models that the tests of attacks share."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import (
    Attack,
    AttackResult,
    adaptive_auto_attack,
    attack_entry,
    autoattack_components,
    discovered_reduced,
    hop_skip_jump,
    known_attacks,
    run_attack,
    substitute_guided_boundary,
)
from rcnas_env.attacks.adaptive_schedule import ROUNDS, Round
from tests.trained_digits import EPS, digits, trained_digits

torch.set_num_threads(1)

BUILT_IN = ("clean", "fgsm", "pgd-20", "cw-40", "autoattack")
every_attack = pytest.mark.parametrize("name", known_attacks())


SHORTER = {
    "autoattack": lambda eps, classes: autoattack_components(eps, classes, iterations=4, square_queries=30),
    "auto-lite": lambda eps, classes: autoattack_components(eps, classes, iterations=4)[:2],
    "a3": lambda eps, classes: adaptive_auto_attack(eps, classes, rounds=[Round(r.share, 2) for r in ROUNDS[::3]]),
    "hop-skip-jump": functools.partial(hop_skip_jump, queries=100),
    "boundary-substitute": functools.partial(substitute_guided_boundary, queries=30),
    "discovered-reduced": functools.partial(discovered_reduced, attacks=1, trials=3, samples=12, gradients=10),
}
"""The components of long attacks with few steps of each."""


def make(name: str, eps: float = EPS, classes: int = 10) -> Attack:
    """The attack; a long one with all its components, but few steps of each."""
    attack = attack_entry(name).make(eps, classes)
    return replace(attack, components=tuple(SHORTER[name](eps, classes))) if name in SHORTER else attack


def sample(count: int = 24, channels: int = 1) -> tuple[Tensor, Tensor]:
    _, _, images, labels = digits(channels)
    return images[:count], labels[:count]


def run(name: str, count: int = 24, channels: int = 1, eps: float = EPS, batch_size: int = 16) -> AttackResult:
    images, labels = sample(count, channels)
    return run_attack(make(name, eps), trained_digits(channels), images, labels, seed=5, batch_size=batch_size)


def same(left: AttackResult, right: AttackResult) -> bool:
    return all(torch.equal(getattr(left, f), getattr(right, f)) for f in ("adversarial", "clean_correct", "robust"))


class Counting(nn.Module):
    """`network`, how many images went through it, and the most at once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.images = self.largest = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        self.largest = max(self.largest, len(images))
        return self.network(images)


def linear_model(weight: Tensor) -> nn.Sequential:
    """f(x) = W · flatten(x), W (classes, features)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer)
