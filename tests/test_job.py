"""Jobs: what their keys depend on, and that they survive the journey to another process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from rcnas_env.attacks import attack_entry
from rcnas_env.data import dataset_entry
from rcnas_env.evaluation.job import Job
from tests import tiny

OTHER = tiny.network(planes=16)


def recipe(**changes: object) -> dict[str, object]:
    return {"recipe": tiny.RECIPE.but(**changes)}


SAME_KEY = {
    "budget": {"budget": 7.0},
    "teacher of a white-box attack": {"teacher": OTHER},
    "epsilon written out": {"epsilon": dataset_entry("digits").epsilon},
    "training epsilon written out": recipe(epsilon=dataset_entry("digits").epsilon),
    "n_test on the eval split": recipe(n_test=50),
}

OTHER_EVALUATION_ONLY = {
    "attack": {"attack": "pgd-20"},
    "steps of the attack": {"attack": "pgd-21"},
    "attack's epsilon": {"epsilon": 0.1},
    "split": {"split": "test"},
    "through the teacher": {"attack_source": "teacher"},
    "attack_batch_size": recipe(attack_batch_size=10),
}

OTHER_TRAINING = {
    "network": {"net": OTHER},
    "seed": {"seed": 1},
    **{
        name: recipe(**{name: value})
        for name, value in {
            "epochs": 2, "batch_size": 64, "learning_rate": 0.05, "momentum": 0.8, "weight_decay": 2e-4,
            "method": "sat", "schedule": "step", "gradient_clip": 1.0, "beta": 5.0, "epsilon": 0.1, "inner_steps": 2,
            "relative_step": 0.5, "precision": "bf16", "folded": False, "augment": False, "n_eval": 40,
            "n_train": 100, "threads": 2, "compilation": "inductor",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("change", SAME_KEY)
def test_what_does_not_matter_is_not_in_the_keys(change: str) -> None:
    base, changed = tiny.job(), tiny.job(**SAME_KEY[change])
    assert changed.training_key == base.training_key
    assert changed.key == base.key


@pytest.mark.parametrize("change", OTHER_EVALUATION_ONLY)
def test_what_matters_to_the_attack_only_leaves_the_training(change: str) -> None:
    base, changed = tiny.job(), tiny.job(**OTHER_EVALUATION_ONLY[change])
    assert changed.training_key == base.training_key
    assert changed.key != base.key


@pytest.mark.parametrize("change", OTHER_TRAINING)
def test_what_matters_to_the_training_is_in_both_keys(change: str) -> None:
    base, changed = tiny.job(), tiny.job(**OTHER_TRAINING[change])
    assert changed.training_key != base.training_key
    assert changed.key != base.key


def test_every_field_of_the_recipe_is_covered_above() -> None:
    covered = set(OTHER_TRAINING) | {"attack_batch_size", "n_test"}
    assert {field.name for field in dataclasses.fields(tiny.RECIPE)} <= covered


def test_keys_are_those_of_the_records_that_there_are() -> None:
    job = tiny.job()  # a field that is new and at its default changes none; EVALUATION_VERSION (4) changes all
    assert job.key == "e6af5d3695b1ef36ab5c82245595c70cc42c914d35f0a07411fd51fd096bb7fe"
    assert job.training_key == "2975bd4a0d5b75ba85ec37a7e7a5466434948a6f502108ced117b2ff77f464c5"


def test_an_attack_s_revision_leaves_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    before, revised = tiny.job(), dataclasses.replace(attack_entry("pgd-20"), revision=2)
    keys = before.training_key, before.key
    monkeypatch.setattr("rcnas_env.evaluation.job.attack_entry", lambda name: revised)
    after = tiny.job()
    assert after == before and after.training_key == keys[0] and after.key != keys[1]


def test_keys_are_all_different() -> None:
    jobs = [tiny.job(), *(tiny.job(**change) for change in (OTHER_EVALUATION_ONLY | OTHER_TRAINING).values())]
    keys = [key for job in jobs for key in {job.key, job.training_key}]
    assert len(set(map(len, keys))) == 1 and len(keys[0]) == 64
    assert len({job.key for job in jobs}) == len(jobs)
    assert not {job.key for job in jobs} & {job.training_key for job in jobs}


def test_n_test_matters_on_the_test_split_only() -> None:
    base, fewer = tiny.job(split="test"), tiny.job(split="test", **recipe(n_test=50))
    assert base.training_key == fewer.training_key
    assert base.key != fewer.key


def test_teacher_matters_where_the_attack_goes_through_it() -> None:
    base, changed = tiny.job(attack_source="teacher"), tiny.job(attack_source="teacher", teacher=OTHER)
    assert base.source_job is not None and base.source_job.network == tiny.TEACHER
    assert base.source_job == base.teacher_job
    assert changed.key != base.key
    assert changed.training_key == base.training_key


def test_attack_through_oneself_is_a_white_box_attack() -> None:
    through, direct = tiny.job(tiny.TEACHER, attack_source="teacher"), tiny.job(tiny.TEACHER)
    assert through.source_job is None
    assert through.key == direct.key


def test_an_attacks_radius_is_not_the_trainings() -> None:
    job = tiny.job(epsilon=0.05, **recipe(epsilon=0.3))
    assert (job.task.radius, job.training_epsilon) == (0.05, 0.3)
    assert tiny.job().training_epsilon == tiny.job().task.radius == 0.2


@pytest.mark.parametrize("change", [{}, {"seed": 3}, {"split": "test"}, {"attack_source": "teacher"}])
def test_json_round_trip_keeps_job_and_key(change: dict[str, object]) -> None:
    job = tiny.job(**change)  # type: ignore[arg-type]
    again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert again == job and hash(again) == hash(job)
    assert (again.key, again.training_key) == (job.key, job.training_key)


def test_numpy_integers_make_the_same_job() -> None:
    assert tiny.job(seed=np.int64(3)).key == tiny.job(seed=3).key  # type: ignore[arg-type]
    assert type(tiny.job(seed=np.int64(3)).seed) is int  # type: ignore[arg-type]


def test_keys_are_the_same_in_another_process() -> None:
    job = tiny.job(attack_source="teacher", seed=2)
    program = (
        "import json, sys; from rcnas_env.evaluation.job import Job; "
        "job = Job.from_dict(json.load(sys.stdin)); print(job.key, job.training_key)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(job.to_dict()),
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [job.key, job.training_key]


WRONG = {
    "network": ({"net": dataclasses.replace(tiny.STUDENT, input=(3, 32, 32))}, r"job\.network must have input \(1, 8"),
    "classes": ({"net": dataclasses.replace(tiny.STUDENT, classes=7)}, r"job\.network .* 10 classes .* got .* 7"),
    "n_eval too large": (recipe(n_eval=1550), r"n_eval .* from 10 to 1547, got 1550"),
    "n_eval too small": (recipe(n_eval=9), r"n_eval .* from 10 to 1547, got 9"),
    "seed": ({"seed": -1}, r"job\.seed must be .* got -1"),
    "boolean seed": ({"seed": True}, r"job\.seed must be .* got True"),
    "split": ({"split": "train"}, r"job\.split must be one of 'eval', 'test', got 'train'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_field(case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        tiny.job(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["network", "task", "recipe", "seed", "split"])
def test_json_without_a_field_is_refused(name: str) -> None:
    value = tiny.job().to_dict()
    del value[name]
    with pytest.raises(ValueError, match=f"job must have the fields .* missing '{name}'"):
        Job.from_dict(value)


@pytest.mark.parametrize("n_train", [9, 1_528])
def test_training_images_must_be_there(n_train: int) -> None:
    with pytest.raises(ValueError, match=r"n_train \(of digits's 1557 training images, 30 of them eval images\)"):
        tiny.job(recipe=tiny.RECIPE.but(n_train=n_train))
    assert tiny.job(recipe=tiny.RECIPE.but(n_train=1_527)).training_key != tiny.job().training_key
