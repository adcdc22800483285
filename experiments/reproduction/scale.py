"""How large a reproduction is: the paper's own settings, and smaller ones with the same structure.

A scale names what stands at the place of each of the paper's data sets and budget groups. Places keep the paper's names
("cifar10", "5G") in keys, so that a measured figure stands beside the reported one; headings say what was really run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rcnas_env.cost import cost
from rcnas_env.data import dataset_entry
from rcnas_env.task import Task, resolve_teacher
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice

ATTACKS = ("clean", "pgd-20", "cw-40", "autoattack")
"""Columns of most tables."""
PAPER_BUDGETS = {"5G": 5e9, "10G": 10e9, "20G": 20e9, "40G": 40e9}
"""MACs an image; the paper's "FLOPs" are multiply-accumulates (docs/paper-notes.md)."""


@dataclass(frozen=True)
class Group:
    """A budget group: a teacher, its budget, and the rivals that are compared within it.

    teacher: name of a network.
    budget: MACs an image; up to 10 a share of the teacher's own.
    rivals: role ("advrush", …) → name of a network; "robustresnet" may be "rule", its scaling rule at the budget.
    """

    teacher: str
    budget: float
    rivals: Mapping[str, str]


@dataclass(frozen=True)
class Scale:
    """Everything that decides how much is run; fields that the paper fixes have its values in `PAPER`.

    datasets: the paper's data set → the one that stands for it; a place that is not there is left out.
    groups: budget group → what it is here.
    table_groups: table → the groups that it has here; a table that is not there has all the paper's.
    search_attacks: the paper's attack → the one that rewards students in the search, where it is another.
    """

    name: str
    datasets: Mapping[str, str]
    groups: Mapping[str, Group]
    table_groups: Mapping[str, tuple[str, ...]]
    meta_groups: tuple[str, ...]
    meta_places: tuple[str, ...]
    meta_attacks: tuple[str, ...] = ATTACKS
    table_places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Table or figure → the places that it has here; one that is not there has all the paper's."""
    search_attacks: Mapping[str, str] = field(default_factory=dict)
    final_attacks: Mapping[str, str] = field(default_factory=dict)
    """The paper's attack → the one that final figures are measured under, where it is another; headings say so."""
    smaller: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Data set → fields of both recipes in which it differs, where its images are larger."""
    search_recipe: Recipe = field(default_factory=Recipe)
    """Paper section 4 and appendix D: 5 epochs a student, 256 eval images."""
    final_recipe: Recipe = field(default_factory=Recipe)
    """Of the chosen networks and all rivals."""
    meta_iterations: int = 100
    """M of Algorithm 1 (paper appendix D: 100), each of T = 5 steps."""
    meta_envs: int = 1
    """Episodes side by side in an iteration."""
    fine_tune_evaluations: int = 10
    """Students tried on the target task (paper appendix D: 10 iterations of T = 1)."""
    search_envs: int = 1
    """Students tried side by side on the target task."""
    pretrain_steps: int = 300
    """Optimizer steps of the state encoder's pre-training."""
    curve_seeds: int = 3
    """Searches behind each curve of Figure 3."""
    seeds: int = 3
    """Final trainings of each network."""
    autoattack_images: int | None = None
    """Test images for AutoAttack and other attacks that take as long; None for all."""

    def task(self, place: str, group: str, attack: str, epsilon_factor: float = 1.0) -> Task:
        """The task at one of the paper's places, under a registered attack, at a multiple of the data set's radius."""
        dataset, entry = self.datasets[place], self.groups[group]
        teacher = resolve_teacher(entry.teacher, dataset)
        budget = entry.budget * cost(teacher).macs if entry.budget <= 10 else entry.budget
        radius = min(1.0, epsilon_factor * dataset_entry(dataset).epsilon)
        return Task(dataset, attack, teacher, float(round(budget)), epsilon=radius)

    def recipes(self, dataset: str) -> tuple[Recipe, Recipe]:
        """(search, final) recipe of a data set."""
        changes = self.smaller.get(dataset, {})
        return self.search_recipe.but(**changes), self.final_recipe.but(**changes)

    def final_attack(self, attack: str) -> str:
        """The attack that final figures are measured under at the place of `attack`."""
        return self.final_attacks.get(attack, attack)

    def search_attack(self, attack: str) -> str:
        """The attack that rewards students where the target task has `attack`."""
        return self.search_attacks.get(attack, attack)


def paper_groups() -> dict[str, Group]:
    """The paper's four, with the rivals of Table 1."""
    teachers = {"5G": "WRN-28-10", "10G": "WRN-34-12", "20G": "WRN-46-14", "40G": "WRN-70-16"}
    cells = {
        "5G": ("7@96", "7@104"),
        "10G": ("10@96", "10@104"),
        "20G": ("16@100", "16@108"),
        "40G": ("22@100", "22@110"),
    }
    groups = {}
    for number, (label, teacher) in enumerate(teachers.items(), start=1):
        rivals = {"advrush": f"AdvRush-{cells[label][0]}", "racl": f"RACL-{cells[label][1]}"}
        rivals |= {"5G": {"robnet-large-v2": "RobNet-large-v2"}, "10G": {"wrn-34-r": "WRN-34-R"}}.get(label, {})
        groups[label] = Group(teacher, PAPER_BUDGETS[label], {**rivals, "robustresnet": f"RobustResNet-A{number}"})
    return groups


FINAL_PAPER = Recipe(
    epochs=100, batch_size=128, learning_rate=0.1, momentum=0.9, weight_decay=2e-4, schedule="step", gradient_clip=5.0
)
"""Paper section 4 with TRADES' and Huang et al.'s settings: drops at 75 and 90 %, clip 5."""

PAPER = Scale(
    name="paper",
    datasets={name: name for name in ("cifar10", "cifar100", "tiny-imagenet")},
    groups=paper_groups(),
    table_groups={},
    meta_groups=tuple(PAPER_BUDGETS),
    meta_places=("cifar10", "cifar100", "tiny-imagenet"),
    search_recipe=Recipe(precision="fp32"),
    final_recipe=FINAL_PAPER,
)

GPU = Scale(
    name="gpu",
    datasets={"cifar10": "cifar10"},
    groups={"5G": paper_groups()["5G"]},
    table_groups={name: ("5G",) for name in ("table1", "table2", "table3", "table9", "figure4", "figure6")},
    meta_groups=("5G",),
    meta_places=("cifar10",),
    search_attacks={"autoattack": "auto-lite"},
    search_recipe=Recipe(epochs=1, n_train=10_000, inner_steps=5, relative_step=0.5, precision="auto"),
    final_recipe=FINAL_PAPER.but(epochs=4, n_train=20_000, n_test=1_000, schedule="one-cycle", precision="auto"),
    meta_iterations=4,
    meta_envs=1,
    seeds=1,
    curve_seeds=1,
    autoattack_images=200,
)
"""One data-centre GPU. Never run, for none was at hand: how long table1 takes there is not known. `--dry-run` says what
it would be at an assumed rate."""

LAPTOP = Scale(
    name="laptop",
    datasets={"cifar10": "digits", "cifar100": "fashion-mnist-14", "tiny-imagenet": "digits"},
    groups={
        # budgets are the paper's shares of the teacher's MACs (5 of 5.24 G, 10 of 9.58, 20 of 18.59); networks of cells
        # are left out: their hundreds of small convolutions take a CPU many times as long as a teacher's
        "5G": Group("WRN-10-1", 0.954, {"robustresnet": "rule"}),
        "10G": Group("WRN-16-1", 1.044, {"robustresnet": "rule"}),
        "20G": Group("WRN-10-2", 1.076, {"robustresnet": "rule"}),
    },
    table_groups={
        **{name: ("5G", "10G") for name in ("table1", "table2", "table9", "figure4", "figure6")},
        **{name: ("20G",) for name in ("table5", "table6", "table7", "figure1", "figure3")},
        "table3": ("5G",),
        "table10": ("10G",),
    },
    # methods and components are compared on the digits alone, so that each of these tables takes a quarter of an hour
    table_places={name: ("cifar10",) for name in ("table9", "table10")},
    meta_groups=("5G", "10G"),
    meta_places=("cifar10",),
    meta_attacks=("clean", "pgd-20", "cw-40"),
    search_attacks={"autoattack": "auto-lite"},
    search_recipe=Recipe(
        epochs=2, batch_size=32, inner_steps=3, relative_step=0.5, n_eval=128, n_train=640, precision="auto"
    ),
    smaller={"fashion-mnist-14": {"n_train": 480, "n_test": 200}},
    final_recipe=Recipe(
        epochs=4, batch_size=64, inner_steps=3, relative_step=0.5, n_eval=128, weight_decay=2e-4, precision="auto"
    ),
    meta_iterations=6,
    meta_envs=1,
    search_envs=1,
    curve_seeds=3,
    seeds=2,
    autoattack_images=40,
)  # fmt: skip
"""Two cores. All targets together took 49 minutes (docs/results.md)."""

SCALES = {scale.name: scale for scale in (LAPTOP, GPU, PAPER)}


def scale_named(name: str) -> Scale:
    """The scale called `name`.

    Raises:
        ValueError: there is none.
    """
    return SCALES[require_choice("scale", name, tuple(SCALES))]


def recorded_scale(settings: Mapping[str, Any]) -> Scale:
    """The scale that a record's `config.scale_settings` holds, whatever the one of its name has become since.

    Raises:
        ValueError, TypeError: it holds none.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    given["groups"] = {label: Group(**group) for label, group in given["groups"].items()}
    for name in ("table_groups", "table_places"):  # records of before there were places have none
        given[name] = {target: tuple(chosen) for target, chosen in given.get(name, {}).items()}
    for name in ("search_recipe", "final_recipe"):
        given[name] = Recipe.from_dict(given[name])
    return Scale(**given)
