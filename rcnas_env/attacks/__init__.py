"""Adversarial attacks by name, all in the L_inf ball, run through one guarded entry point.

>>> attack = attack_entry("pgd-20").make(eps=8 / 255, classes=10)

and then `run_attack(attack, model, images, labels, seed=0, batch_size=256).robust`.
"""

from __future__ import annotations

from rcnas_env.attacks.alarms import AttackWarning
from rcnas_env.attacks.attack import Attack, Component, Perturbation
from rcnas_env.attacks.autoattack import autoattack_components
from rcnas_env.attacks.catalogue import (
    AttackEntry,
    attack_entry,
    known_attacks,
    register_attack,
    register_iterated_attack,
    validate_attack,
)
from rcnas_env.attacks.guard import attack_guard
from rcnas_env.attacks.run import AttackResult, run_attack

__all__ = [
    "Attack",
    "AttackEntry",
    "AttackResult",
    "AttackWarning",
    "Component",
    "Perturbation",
    "attack_entry",
    "attack_guard",
    "autoattack_components",
    "known_attacks",
    "register_attack",
    "register_iterated_attack",
    "run_attack",
    "validate_attack",
]
