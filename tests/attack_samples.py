"""Attacks, images and models that the tests of attacks share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import (
    Attack,
    AttackResult,
    attack_entry,
    autoattack_components,
    known_attacks,
    run_attack,
)
from tests.trained_digits import EPS, digits, trained_digits

torch.set_num_threads(1)

BUILT_IN = ("clean", "fgsm", "pgd-20", "cw-40", "autoattack")
every_attack = pytest.mark.parametrize("name", known_attacks())


def make(name: str, eps: float = EPS, classes: int = 10) -> Attack:
    """The attack; AutoAttack with all its components, but few steps of each."""
    attack = attack_entry(name).make(eps, classes)
    if name == "autoattack":
        attack = replace(attack, components=autoattack_components(eps, classes, iterations=5, square_queries=50))
    return attack


def sample(count: int = 24, channels: int = 1) -> tuple[Tensor, Tensor]:
    _, _, images, labels = digits(channels)
    return images[:count], labels[:count]


def run(name: str, count: int = 24, channels: int = 1, eps: float = EPS, batch_size: int = 16) -> AttackResult:
    images, labels = sample(count, channels)
    return run_attack(make(name, eps), trained_digits(channels), images, labels, seed=5, batch_size=batch_size)


def same(left: AttackResult, right: AttackResult) -> bool:
    return all(torch.equal(getattr(left, f), getattr(right, f)) for f in ("adversarial", "clean_correct", "robust"))


def linear_model(weight: Tensor) -> nn.Sequential:
    """f(x) = W · flatten(x), W (classes, features)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer)
