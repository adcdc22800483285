"""The arena's tasks on the digits: what agents are compared on, and what meta-trained ones learn from before.

The held-out attack and the held-out teacher are in no buffer of meta-training. The budgets' shares are.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from rcnas_env.cost import cost
from rcnas_env.task import Task, TaskBuffers, TeacherEntry, resolve_teacher

DATASET = "digits"
TEACHER, ATTACK = "WRN-16-1", "cw-40"
"""Of every held-out task."""
META_ATTACKS = ("fgsm", "pgd-20")
BUDGET_SHARES = {"quarter": 0.25, "half": 0.5}
"""Budgets by name, as shares of the teacher's MACs; the digits preset's two."""
DEPTHS = (1, 2)
"""Blocks of a stage of a meta-training teacher; WRN-16-1 itself has two in each."""


def known_tasks() -> tuple[str, ...]:
    """Names of the held-out tasks."""
    return tuple(BUDGET_SHARES)


def held_out_task(name: str) -> Task:
    """The held-out task called `name`: the held-out attack on the held-out teacher within a share of its MACs.

    Raises:
        ValueError: there is none.
    """
    if name not in BUDGET_SHARES:
        raise ValueError(f"tasks must be among {', '.join(BUDGET_SHARES)}, got {name!r}")
    teacher = resolve_teacher(TEACHER, DATASET)
    return Task(DATASET, ATTACK, teacher, float(round(BUDGET_SHARES[name] * cost(teacher).macs)))


def meta_buffers() -> TaskBuffers:
    """Meta-training's buffers: the held-out teacher's seven shallower variants, two attacks, the same budget shares."""
    teacher = resolve_teacher(TEACHER, DATASET)
    entries = []
    for depths in itertools.product(DEPTHS, repeat=len(teacher.stages)):
        stages = tuple(replace(stage, depth=depth) for stage, depth in zip(teacher.stages, depths, strict=True))
        variant = replace(teacher, stages=stages)
        if variant != teacher:
            macs = cost(variant).macs
            entries.append(TeacherEntry(variant, tuple(float(round(s * macs)) for s in BUDGET_SHARES.values())))
    return TaskBuffers((DATASET,), META_ATTACKS, tuple(entries))
