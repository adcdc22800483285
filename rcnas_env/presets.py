"""Presets: task buffers and a recipe under one name, so that `gym.make("RCNAS-v0")` works with no argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rcnas_env.architecture import named_network
from rcnas_env.cost import cost
from rcnas_env.data import dataset_entry
from rcnas_env.registry import Registry
from rcnas_env.task import TaskBuffers, TeacherEntry
from rcnas_env.training.recipe import Recipe, make_recipe

BUDGET_SHARES = (0.25, 0.5)
"""Budgets of the digits preset, as shares of the teacher's MACs."""


@dataclass(frozen=True)
class Preset:
    """What an environment needs to know.

    buffers: makes the buffers that tasks come from.
    recipe: of every training; or a mapping of its fields, made a Recipe by `preset_entry`, so that precision "auto"
        asks for the GPU when a preset is used, not when this module is imported.
    """

    buffers: Callable[[], TaskBuffers]
    recipe: Recipe | Mapping[str, Any]


@dataclass(frozen=True)
class ReadyPreset:
    """A preset that is looked up: see `Preset`."""

    buffers: Callable[[], TaskBuffers]
    recipe: Recipe


_PRESETS: Registry[Preset] = Registry("preset")


def register_preset(name: str, preset: Preset) -> None:
    """Make a preset known by its name.

    Raises:
        ValueError: the name is taken.
    """
    _PRESETS.register(name, preset)


def preset_entry(name: str) -> ReadyPreset:
    """The preset called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    preset = _PRESETS[name]
    return ReadyPreset(preset.buffers, make_recipe(preset.recipe))


def known_presets() -> tuple[str, ...]:
    """The names of all registered presets."""
    return tuple(_PRESETS)


def teacher_entry(network: str, dataset: str, shares: tuple[float, ...] = BUDGET_SHARES) -> TeacherEntry:
    """A teacher for `dataset` with budgets that are `shares` of its own MACs, rounded to whole MACs."""
    data = dataset_entry(dataset)
    macs = cost(named_network(network, data.input, data.classes)).macs
    return TeacherEntry(network, tuple(float(round(share * macs)) for share in shares))


register_preset(
    "digits",
    Preset(
        buffers=lambda: TaskBuffers(
            datasets=("digits",),
            attacks=("fgsm", "pgd-20", "cw-40"),
            teachers=(teacher_entry("WRN-10-2", "digits"), teacher_entry("WRN-16-1", "digits")),
        ),
        # a third of the paper's cost, and ranks students as its five epochs do: docs/evidence/recipes.json
        recipe={"epochs": 2, "batch_size": 64, "inner_steps": 5, "relative_step": 0.5, "precision": "auto"},
    ),
)

PAPER_TEACHERS = (("WRN-28-10", 5e9), ("WRN-34-12", 10e9), ("WRN-46-14", 20e9), ("WRN-70-16", 40e9))
"""The paper's teachers, each with its budget in MACs (section 4: 5G, 10G, 20G, 40G)."""

register_preset(
    "paper",
    Preset(
        buffers=lambda: TaskBuffers(
            datasets=("cifar10", "cifar100", "tiny-imagenet"),
            attacks=("clean", "pgd-20", "cw-40", "autoattack"),  # the columns of the paper's Table 1
            teachers=tuple(TeacherEntry(network, (budget,)) for network, budget in PAPER_TEACHERS),
        ),
        recipe={"precision": "auto"},
    ),
)

register_preset(
    "fashion-mnist",
    Preset(
        buffers=lambda: TaskBuffers(
            datasets=("fashion-mnist",),
            attacks=("fgsm", "pgd-20", "cw-40"),
            teachers=(teacher_entry("WRN-10-1", "fashion-mnist"), teacher_entry("WRN-16-1", "fashion-mnist")),
        ),
        # 2,000 images: a reward in minutes on a CPU, not hours
        recipe={"batch_size": 64, "inner_steps": 5, "relative_step": 0.5, "n_train": 2_000, "precision": "auto"},
    ),
)

register_preset(
    "fashion-mnist-14",
    Preset(
        buffers=lambda: TaskBuffers(
            datasets=("fashion-mnist-14",),
            attacks=("fgsm", "pgd-20", "cw-40"),
            teachers=(teacher_entry("WRN-10-1", "fashion-mnist-14"), teacher_entry("WRN-16-1", "fashion-mnist-14")),
        ),
        # a reward in seconds, and the recipe of the table of this name (docs/tabular.md): in fp32 everywhere, for
        # students this small train no faster in bf16
        recipe={
            "epochs": 2,
            "batch_size": 64,
            "inner_steps": 3,
            "relative_step": 0.5,
            "n_train": 2_000,
            "precision": "fp32",
        },
    ),
)
