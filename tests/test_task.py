"""Tasks, their buffers, presets, and the registries behind their names."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import rcnas_env.data.dataset as dataset_module
from rcnas_env.architecture import NetworkSpec, StageSpec, named_network
from rcnas_env.cost import cost
from rcnas_env.data import DatasetEntry, ImageSet, dataset_entry, register_dataset
from rcnas_env.evaluation.job import Job
from rcnas_env.presets import known_presets, preset_entry, register_preset, teacher_entry
from rcnas_env.registry import Registry, UnknownNameError
from rcnas_env.task import FixedTasks, Task, TaskBuffers, TeacherEntry

TEACHER = named_network("WRN-10-2", (1, 8, 8), 10)
STUDENT = named_network("WRN-10-1", (1, 8, 8), 10)
TASK = Task("digits", "pgd-20", TEACHER, 5e5)


@pytest.fixture
def three_classes(monkeypatch: pytest.MonkeyPatch) -> str:
    """A second data set, of 3 classes, known for the length of a test."""

    def load() -> tuple[ImageSet, ImageSet]:
        pixels, labels = torch.zeros(30, 1, 4, 4, dtype=torch.uint8), torch.arange(30) % 3
        return ImageSet(pixels, labels), ImageSet(pixels, labels)

    digits = dataset_entry("digits")
    monkeypatch.setattr(dataset_module, "_DATASETS", Registry("dataset"))
    register_dataset(digits)
    register_dataset(DatasetEntry("three", input=(1, 4, 4), classes=3, epsilon=0.1, training_images=30, load=load))
    return "three"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digit"}, r"unknown dataset 'digit'; known: .*digits.* Did you mean 'digits'\?"),
        ({"dataset": None}, "unknown dataset None; known: .*digits"),
        ({"attack": "fgsmm"}, r"unknown attack 'fgsmm'; known: .*fgsm.* Did you mean 'fgsm'\?"),
        ({"teacher": "WRN-28-1O"}, r"unknown network 'WRN-28-1O'; known: .* Did you mean 'WRN-28-10'\?"),
        ({"teacher": "WRN-11-1"}, "depth d of WRN-d-w must be 6n"),
        ({"teacher": 28}, "task.teacher must be a NetworkSpec or a network's name, got 28"),
        ({"budget": 0}, r"task.budget \(MACs\) must be a finite number, above 0, got 0"),
        ({"budget": -5e9}, r"task.budget \(MACs\) must be a finite number, above 0, got -5"),
        ({"budget": math.nan}, r"task.budget \(MACs\) must be a finite number, above 0, got nan"),
        ({"budget": math.inf}, r"task.budget \(MACs\) must be a finite number, above 0, got inf"),
        ({"budget": "5G"}, r"task.budget \(MACs\) must be a finite number, above 0, got '5G'"),
        ({"epsilon": 1.5}, "task.epsilon must be a finite number, at least 0 and at most 1, got 1.5"),
        ({"epsilon": -0.1}, "task.epsilon must be a finite number, at least 0 and at most 1, got -0.1"),
        ({"attack_source": "both"}, "task.attack_source must be one of 'student', 'teacher', got 'both'"),
        (
            {"teacher": named_network("WRN-10-2")},
            r"task.teacher must have input \(1, 8, 8\) and 10 classes for dataset 'digits', got \(3, 32, 32\) and 10",
        ),
        ({"teacher": named_network("WRN-10-2", (1, 8, 8), 9)}, "and 10 classes for dataset 'digits', got .* and 9"),
        (
            {"teacher": NetworkSpec((StageSpec(1, 8),) * 2, input=(1, 8, 8))},
            "task.teacher must have 3 stages, got 2",
        ),
        ({"teacher": "AdvRush-1@4"}, "task.teacher must have 3 stages, got a network of 5 cells"),
    ],
)
def test_bad_tasks_are_named(changes: dict[str, Any], message: str) -> None:
    fields = {"dataset": "digits", "attack": "fgsm", "teacher": TEACHER, "budget": 5e5}
    with pytest.raises(ValueError, match=message):
        Task(**fields | changes)


def test_autoattack_needs_four_classes(three_classes: str) -> None:
    with pytest.raises(ValueError, match=r"autoattack.* 4 .*3"):
        Task(three_classes, "autoattack", "WRN-10-1", 1e5)
    assert Task(three_classes, "pgd-20", "WRN-10-1", 1e5).teacher.classes == 3
    with pytest.raises(ValueError, match="autoattack"):  # in the buffers too, before anything is trained
        TaskBuffers(["digits", three_classes], ["fgsm", "autoattack"], [TeacherEntry("WRN-10-1", (1e5,))])


def test_names_become_specs_and_defaults_the_data_set_s() -> None:
    task = Task("digits", "pgd-20", "WRN-10-2", 5e5)
    assert task == TASK
    assert hash(task) == hash(TASK)
    assert (task.teacher, task.epsilon, task.radius, task.attack_source) == (TEACHER, 0.2, 0.2, "student")
    assert Task("digits", "clean", TEACHER, 1, epsilon=0).radius == 0.0


@pytest.mark.parametrize(
    "task", [TASK, Task("digits", "clean", "RobustResNet-A1", 1, epsilon=0.05, attack_source="teacher")]
)
def test_tasks_go_to_json_and_back(task: Task) -> None:
    assert Task.from_dict(json.loads(json.dumps(task.to_dict(), allow_nan=False))) == task


def test_json_may_name_a_teacher_and_leave_defaults_out() -> None:
    assert Task.from_dict({"dataset": "digits", "attack": "pgd-20", "teacher": "WRN-10-2", "budget": 5e5}) == TASK


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({name: entry for name, entry in TASK.to_dict().items() if name != "budget"}, "task .*missing 'budget'"),
        (TASK.to_dict() | {"bugdet": 1}, "task must have the fields .*unknown 'bugdet'"),
        ([1], r"task must be an object with the fields dataset, .*got \[1\]"),
    ],
)
def test_bad_json_is_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task.from_dict(value)


def drawn(source: FixedTasks | TaskBuffers, count: int, seed: int = 0) -> list[Task]:
    rng = np.random.default_rng(seed)
    return [source.sample(rng) for _ in range(count)]


def assert_uniform(counts: Counter[Any], kinds: int) -> None:
    """All kinds occur, none further than five standard deviations from its share."""
    total = sum(counts.values())
    assert len(counts) == kinds
    deviation = math.sqrt(total * (1 / kinds) * (1 - 1 / kinds))
    assert max(abs(count - total / kinds) for count in counts.values()) < 5 * deviation


def test_buffers_sample_every_combination_uniformly(three_classes: str) -> None:
    teachers = (TeacherEntry("WRN-10-2", (1e5, 2e5)), TeacherEntry("WRN-10-1", (3e5,)))
    buffers = TaskBuffers(["digits", three_classes], ["fgsm", "pgd-20", "clean"], teachers)
    tasks = drawn(buffers, 2_400)
    assert set(tasks) == set(buffers.base_tasks())
    assert len(buffers.base_tasks()) == 2 * 3 * (2 + 1)
    widest = [task for task in tasks if task.teacher.stages[0].planes == 32]
    assert_uniform(Counter((task.dataset, task.attack, task.teacher) for task in tasks), 2 * 3 * 2)
    assert_uniform(Counter(task.budget for task in widest), 2)
    assert drawn(buffers, 20) == tasks[:20]
    assert drawn(buffers, 20, seed=1) != tasks[:20]


def test_students_join_with_the_budget_of_their_task_and_are_forgotten(three_classes: str) -> None:
    buffers = TaskBuffers(["digits", three_classes], ["fgsm"], [TeacherEntry("WRN-10-2", (4e5, 6e5))])
    buffers.add_student(TASK, STUDENT)
    tasks = drawn(buffers, 400)
    with_student = [task for task in tasks if task.teacher == STUDENT]
    assert {task.budget for task in with_student} == {5e5}
    assert_uniform(Counter(task.teacher for task in tasks if task.dataset == "digits"), 2)
    # a student has seen one data set's images; the other's tasks keep their teachers
    assert {task.teacher.input for task in tasks if task.dataset == three_classes} == {(1, 4, 4)}
    assert {task.budget for task in tasks if task.dataset == three_classes} == {4e5, 6e5}
    buffers.reset()
    assert STUDENT not in {task.teacher for task in drawn(buffers, 200)}


def test_buffers_pass_the_attack_source_on() -> None:
    buffers = TaskBuffers(["digits"], ["fgsm"], [TeacherEntry(TEACHER, (4e5,))], attack_source="teacher")
    assert {task.attack_source for task in (*buffers.base_tasks(), *drawn(buffers, 3))} == {"teacher"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": []}, r"buffers.datasets must be a list of one entry or more, got \[\]"),
        ({"attacks": "fgsm"}, "buffers.attacks must be a list of one entry or more, got 'fgsm'"),
        ({"teachers": ()}, "buffers.teachers must be a list of one entry or more"),
        ({"teachers": ["WRN-10-2"]}, "buffers.teachers must be TeacherEntry objects, got"),
        ({"attacks": ["fgsm", "pgdd"]}, "unknown attack 'pgdd'"),
    ],
)
def test_bad_buffers_are_named(changes: dict[str, Any], message: str) -> None:
    fields = {"datasets": ["digits"], "attacks": ["fgsm"], "teachers": [TeacherEntry("WRN-10-2", (1e5,))]}
    with pytest.raises(ValueError, match=message):
        TaskBuffers(**fields | changes)


@pytest.mark.parametrize("budgets", [(), None, 5e9])
def test_a_teacher_without_budgets_is_named(budgets: Any) -> None:
    with pytest.raises(ValueError, match="teacher.budgets must be a list of one number of MACs or more, got"):
        TeacherEntry("WRN-10-2", budgets)


def test_fixed_tasks_are_sampled_uniformly_and_gain_none() -> None:
    tasks = tuple(Task("digits", attack, TEACHER, 1e5) for attack in ("fgsm", "pgd-20", "clean"))
    source = FixedTasks(tasks)
    source.add_student(tasks[0], STUDENT)
    assert_uniform(Counter(drawn(source, 300)), 3)


@pytest.mark.parametrize("tasks", [(), ["digits"]])
def test_bad_fixed_tasks_are_named(tasks: Any) -> None:
    with pytest.raises(ValueError, match="tasks must be one Task or more, got"):
        FixedTasks(tasks)


def test_the_digits_preset_is_complete() -> None:
    assert "digits" in known_presets()
    buffers = preset_entry("digits").buffers()
    assert buffers is not preset_entry("digits").buffers()  # each environment's students are its own
    for task in buffers.base_tasks():
        share = task.budget / cost(task.teacher).macs
        assert share == pytest.approx(0.25, abs=1e-5) or share == pytest.approx(0.5, abs=1e-5)


def test_budgets_are_shares_of_the_teacher_s_cost() -> None:
    entry = teacher_entry("WRN-10-2", "digits", shares=(0.1, 1.0))
    assert entry.budgets == (float(round(0.1 * cost(TEACHER).macs)), float(cost(TEACHER).macs))


def test_the_paper_preset_has_its_teachers_and_budgets_on_every_data_set() -> None:
    tasks = preset_entry("paper").buffers().base_tasks()
    assert len(tasks) == len(set(tasks)) == 3 * 4 * 4
    for task in tasks:
        share = cost(task.teacher).macs / task.budget
        assert 0.92 < share < 1.06, task.teacher  # each budget is about what the teacher itself costs, at 64×64 too
    assert preset_entry("paper").recipe.precision in ("fp32", "bf16")


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "fashion-mnist-14", "paper"])
def test_presets_have_valid_tasks_and_recipes(name: str) -> None:
    preset = preset_entry(name)
    for task in preset.buffers().base_tasks():
        assert Job(task.teacher, task, preset.recipe).training_key


def test_presets_are_registered_once() -> None:
    with pytest.raises(ValueError, match="preset 'digits' is registered already"):
        register_preset("digits", preset_entry("digits"))


def test_registries_know_their_entries_and_their_neighbours() -> None:
    animals: Registry[int] = Registry("animal")
    with pytest.raises(UnknownNameError, match=r"^unknown animal 'cat'; known: none\.$"):
        animals["cat"]
    animals.register("Cat", 1)
    animals.register("ant", 2)
    assert (animals["Cat"], len(animals), list(animals), "ant" in animals, "bee" in animals) == (
        1,
        2,
        ["Cat", "ant"],
        True,
        False,
    )
    with pytest.raises(UnknownNameError, match=r"^unknown animal 'cta'; known: Cat, ant\. Did you mean 'Cat'\?$"):
        animals["cta"]
    with pytest.raises(UnknownNameError, match=r"^unknown animal 'zebra'; known: Cat, ant\.$"):
        animals["zebra"]
    with pytest.raises(UnknownNameError, match=r"^unknown animal \['ant'\]; "):
        animals[["ant"]]  # type: ignore[index]
    with pytest.raises(ValueError, match="animal 'ant' is registered already"):
        animals.register("ant", 3)
    assert animals["ant"] == 2
