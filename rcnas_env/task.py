"""Tasks, and the buffers that they are sampled from (paper sections 3.1 and 3.2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rcnas_env.architecture import NetworkSpec, named_network, network_from_dict
from rcnas_env.attacks import attack_entry, validate_attack
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.data import dataset_entry
from rcnas_env.validation import require_choice, require_fields, require_number, shown

ATTACK_SOURCES = ("student", "teacher")
N_STAGE = 3
"""Stages of every teacher (paper Table 8: N_stage)."""


@dataclass(frozen=True)
class Task:
    """data set × attack × teacher × budget: what a student is searched for.

    dataset: name of a registered data set.
    attack: name of a registered attack ("clean" for none).
    teacher: a NetworkSpec for the data set's images and classes, or a name that makes one ("WRN-10-2").
    budget: CB of Eq. 4, multiply-accumulates an image (5e9 for the paper's 5 "GFLOPs").
    epsilon: L_inf radius of the attack in [0, 1] image units; None takes the data set's.
    attack_source: "student" attacks the student itself (white box), "teacher" transfers the teacher's
        adversarial images (the letter of Algorithm 2).

    Raises:
        ValueError: a field is unknown or out of range, or the attack needs more classes than there are.
    """

    dataset: str
    attack: str
    teacher: NetworkSpec
    budget: float
    epsilon: float | None = None
    attack_source: str = "student"

    def __post_init__(self) -> None:
        data = dataset_entry(self.dataset)
        object.__setattr__(self, "dataset", data.name)  # of an image folder, the one spelling of its path
        object.__setattr__(self, "attack", attack_entry(self.attack).name)
        validate_attack(self.attack, data.classes)
        teacher = resolve_teacher(self.teacher, self.dataset)
        object.__setattr__(self, "teacher", teacher)
        budget = require_number("task.budget (MACs)", self.budget, minimum=0.0, exclusive_minimum=True)
        object.__setattr__(self, "budget", budget)
        epsilon = data.epsilon if self.epsilon is None else self.epsilon
        object.__setattr__(self, "epsilon", require_number("task.epsilon", epsilon, minimum=0.0, maximum=1.0))
        require_choice("task.attack_source", self.attack_source, ATTACK_SOURCES)

    @property
    def radius(self) -> float:
        """The attack's L_inf radius in image units, never None."""
        assert self.epsilon is not None
        return self.epsilon

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "dataset": self.dataset,
            "attack": self.attack,
            "teacher": self.teacher.to_dict(),
            "budget": self.budget,
            "epsilon": self.epsilon,
            "attack_source": self.attack_source,
        }

    @classmethod
    def from_dict(cls, value: object) -> Task:
        """Read `to_dict`'s form.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        given = dict(
            require_fields("task", value, ("dataset", "attack", "teacher", "budget"), ("epsilon", "attack_source"))
        )
        if isinstance(given["teacher"], Mapping):
            given["teacher"] = network_from_dict(given["teacher"])
        return cls(**given)


def resolve_teacher(teacher: object, dataset: str) -> NetworkSpec:
    """A teacher for `dataset`: a spec that fits its images and classes, or a name that makes one.

    Raises:
        ValueError: it is neither, does not fit, or has not N_STAGE stages.
    """
    data = dataset_entry(dataset)
    if isinstance(teacher, str):
        teacher = named_network(teacher, input=data.input, classes=data.classes)
    if isinstance(teacher, CellNetworkSpec):
        raise ValueError(f"task.teacher must have {N_STAGE} stages, got a network of {teacher.layers} cells")
    if not isinstance(teacher, NetworkSpec):
        raise ValueError(f"task.teacher must be a NetworkSpec or a network's name, got {shown(teacher)}")
    if (teacher.input, teacher.classes) != (data.input, data.classes):
        raise ValueError(
            f"task.teacher must have input {data.input} and {data.classes} classes for dataset {dataset!r}, "
            f"got {teacher.input} and {teacher.classes}"
        )
    if len(teacher.stages) != N_STAGE:
        raise ValueError(f"task.teacher must have {N_STAGE} stages, got {len(teacher.stages)}")
    return teacher


class TaskSource(Protocol):
    """Where an environment takes its tasks from."""

    def reset(self) -> None:
        """Re-initialise the buffers; called at the start of every episode."""

    def sample(self, rng: np.random.Generator) -> Task:
        """The next task."""

    def add_student(self, task: Task, student: NetworkSpec) -> None:
        """Take note of a student that was compressed under `task`."""


@dataclass
class FixedTasks:
    """Tasks sampled uniformly from a list; students are not added (fine-tuning: a list of one, Algorithm 2)."""

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        self.tasks = tuple(self.tasks)
        if not self.tasks or not all(isinstance(task, Task) for task in self.tasks):
            raise ValueError(f"tasks must be one Task or more, got {shown(self.tasks)}")

    def reset(self) -> None:
        """Nothing to re-initialise."""

    def sample(self, rng: np.random.Generator) -> Task:
        """One of the tasks, each equally likely."""
        return self.tasks[int(rng.integers(len(self.tasks)))]

    def add_student(self, task: Task, student: NetworkSpec) -> None:
        """Students do not become teachers here."""


@dataclass(frozen=True)
class TeacherEntry:
    """An entry of the architecture buffer: a network's name or spec, with the budgets (MACs) that it is paired with.

    Raises:
        ValueError: there is no budget.
    """

    network: str | NetworkSpec
    budgets: tuple[float, ...]

    def __post_init__(self) -> None:
        budgets = tuple(self.budgets) if isinstance(self.budgets, list | tuple) else ()
        if not budgets:
            raise ValueError(f"teacher.budgets must be a list of one number of MACs or more, got {shown(self.budgets)}")
        object.__setattr__(self, "budgets", budgets)


@functools.lru_cache(maxsize=4_096)
def _task(dataset: str, attack: str, teacher: str | NetworkSpec, budget: float, attack_source: str) -> Task:
    """A Task, validated once: a table's environment samples thousands a second."""
    return Task(dataset, attack, teacher, budget, attack_source=attack_source)  # type: ignore[arg-type]


@dataclass
class TaskBuffers:
    """The data, attack and architecture buffers of Algorithm 1; each student joins the architecture buffer.

    A student inherits the budget of the task it was made under, and stands for its data set's image shape only.

    Raises:
        ValueError: a buffer is empty, or one of its combinations is no valid Task.
    """

    datasets: Sequence[str]
    attacks: Sequence[str]
    teachers: Sequence[TeacherEntry]
    attack_source: str = "student"
    students: dict[str, list[TeacherEntry]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name in ("datasets", "attacks", "teachers"):
            value = getattr(self, name)
            if isinstance(value, str | Mapping) or not isinstance(value, Sequence) or not len(value):
                raise ValueError(f"buffers.{name} must be a list of one entry or more, got {shown(value)}")
            setattr(self, name, tuple(value))
        if not all(isinstance(entry, TeacherEntry) for entry in self.teachers):
            raise ValueError(f"buffers.teachers must be TeacherEntry objects, got {shown(self.teachers)}")
        self.base_tasks()  # every combination is validated before any training
        self.datasets = tuple(dataset_entry(name).name for name in self.datasets)  # as students are filed

    def base_tasks(self) -> tuple[Task, ...]:
        """Every combination of the initial buffers."""
        return tuple(
            Task(dataset, attack, entry.network, budget, attack_source=self.attack_source)  # type: ignore[arg-type]
            for dataset in self.datasets
            for attack in self.attacks
            for entry in self.teachers
            for budget in entry.budgets
        )

    def reset(self) -> None:
        """Forget all students."""
        self.students = {}

    def sample(self, rng: np.random.Generator) -> Task:
        """A data set, an attack, a teacher and one of its budgets, each uniformly."""
        dataset = self.datasets[int(rng.integers(len(self.datasets)))]
        attack = self.attacks[int(rng.integers(len(self.attacks)))]
        entries = [*self.teachers, *self.students.get(dataset, [])]
        entry = entries[int(rng.integers(len(entries)))]
        budget = entry.budgets[int(rng.integers(len(entry.budgets)))]
        return _task(dataset, attack, entry.network, budget, self.attack_source)

    def add_student(self, task: Task, student: NetworkSpec) -> None:
        """Put `student` into the architecture buffer, with the budget of the task it came from."""
        self.students.setdefault(task.dataset, []).append(TeacherEntry(student, (task.budget,)))


Tasks = Task | Sequence[Task] | TaskSource
"""What users may give as tasks; see `make_task_source`."""


def make_task_source(tasks: Tasks) -> TaskSource:
    """A task source from a Task, a list of them, or a source.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(tasks, Task):
        return FixedTasks((tasks,))
    if isinstance(tasks, list | tuple):
        return FixedTasks(tuple(tasks))
    if not all(hasattr(tasks, name) for name in ("reset", "sample", "add_student")):
        raise ValueError(f"tasks must be a Task, a list of them, or a TaskSource, got {shown(tasks)}")
    return tasks  # type: ignore[return-value]
