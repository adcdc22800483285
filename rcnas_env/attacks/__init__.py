"""Adversarial attacks by name, all in the L_inf ball, run through one guarded entry point.

>>> attack = attack_entry("pgd-20").make(eps=8 / 255, classes=10)

and then `run_attack(attack, model, images, labels, seed=0, batch_size=256).robust`.
"""

from __future__ import annotations

from rcnas_env.attacks.alarms import AttackWarning
from rcnas_env.attacks.attack import Attack, Component, Perturbation, WholeSetComponent, WholeSetPerturbation
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
from rcnas_env.attacks.progress import AttackProgress, Notes
from rcnas_env.attacks.run import AttackResult, run_attack

# isort: split
# After those above, as `known_attacks` lists the attacks in the order of their registration.
from rcnas_env.attacks.adaptive import adaptive_auto_attack
from rcnas_env.attacks.boundary import substitute_guided_boundary
from rcnas_env.attacks.discovered import discovered_reduced
from rcnas_env.attacks.hop_skip_jump import hop_skip_jump
from rcnas_env.attacks.naa import neuron_attribution_attack

__all__ = [
    "Attack",
    "AttackEntry",
    "AttackProgress",
    "AttackResult",
    "AttackWarning",
    "Component",
    "Notes",
    "Perturbation",
    "WholeSetComponent",
    "WholeSetPerturbation",
    "adaptive_auto_attack",
    "attack_entry",
    "attack_guard",
    "autoattack_components",
    "discovered_reduced",
    "hop_skip_jump",
    "known_attacks",
    "neuron_attribution_attack",
    "register_attack",
    "register_iterated_attack",
    "run_attack",
    "substitute_guided_boundary",
    "validate_attack",
]
