"""Images attacked through a teacher: attacked once for all of its students, by processes that share a store too."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from rcnas_env.evaluation import attacked_sets, work
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import FolderStore, StoreWarning
from rcnas_env.evaluation.trained import TrainedEvaluator
from tests import tiny
from tests.tiny import CountingStore

KEY = "ab" * 32
OTHER_TENSORS = save({"w": torch.zeros(1)})
IMAGES = save({"images": torch.arange(8.0).view(2, 1, 2, 2)})


def is_set_aside(store: FolderStore) -> bool:
    """Whether the set is found damaged, named in a warning, and absent."""
    with pytest.warns(StoreWarning, match=f"attacked-sets/{KEY} in the store .* is damaged .* is set aside"):
        return store.load_attacked_set(KEY) is None


def test_an_attack_through_the_teacher_is_done_once_for_all_of_its_students(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked, real = list[str](), work.attack_images
    monkeypatch.setattr(work, "attack_images", lambda job, *rest: attacked.append(job.key) or real(job, *rest))
    jobs = [tiny.job(network, attack_source="teacher", seed=77) for network in (tiny.STUDENT, tiny.network(16))]
    found = TrainedEvaluator(CountingStore(), device="cpu").evaluate([*jobs, jobs[0].teacher_job])
    assert attacked == [jobs[0].teacher_job.key]  # its own figure, too, is of these images
    monkeypatch.setattr(attacked_sets, "_sets", OrderedDict())
    again = TrainedEvaluator(CountingStore(), device="cpu").evaluate(jobs[1:])
    assert len(attacked) == 2 and (again[0].robust, again[0].lips) == (found[1].robust, found[1].lips)


def test_images_attacked_through_a_teacher_are_kept_in_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attacked, real = list[str](), work.attack_images
    monkeypatch.setattr(work, "attack_images", lambda job, *rest: attacked.append(job.key) or real(job, *rest))
    jobs = [tiny.job(network, attack_source="teacher", seed=78) for network in (tiny.STUDENT, tiny.network(16))]
    store = FolderStore(tmp_path)

    def verdicts_in_a_new_process(*wanted: Job) -> list[tuple[bool, ...]]:
        """Of the jobs, by a store from which their evaluations are gone, with nothing attacked in memory."""
        monkeypatch.setattr(attacked_sets, "_sets", OrderedDict())
        shutil.rmtree(tmp_path / "evaluations", ignore_errors=True)
        return [each.robust for each in TrainedEvaluator(FolderStore(tmp_path), device="cpu").evaluate(wanted)]

    first = verdicts_in_a_new_process(*jobs)
    (key,) = store.keys("attacked-sets")
    assert verdicts_in_a_new_process(jobs[1], jobs[0]) == first[::-1] and len(attacked) == 1
    images = store.paths("attacked-sets", key)[0]
    images.write_bytes(images.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.warns(StoreWarning, match=f"attacked-sets/{key} .* is damaged"):
        assert verdicts_in_a_new_process(*jobs) == first
    assert len(attacked) == 2 and store.keys("attacked-sets") == [key]
    teacher = jobs[0].teacher_job
    weights = store.load_training(teacher.training_key)
    assert weights is not None and key == attacked_sets.attacked_set_key(teacher, weights[1])
    other = dataclasses.replace(teacher, seed=79)  # other images are another set
    assert len({key, *(attacked_sets.attacked_set_key(each, b"w") for each in (teacher, other))}) == 3


def test_attacked_sets_come_back_to_the_byte_or_not_at_all(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.load_attacked_set(KEY) is None
    store.save_attacked_set(KEY, {"device": "cpu"}, IMAGES)
    assert FolderStore(store.folder).load_attacked_set(KEY) == IMAGES
    path, record_path = store.paths("attacked-sets", KEY)
    record = record_path.read_bytes()
    unsealed = json.dumps(json.loads(record)["record"]).encode()
    for images, said in (
        (IMAGES[:-1], record),
        (IMAGES[:-1] + b"\1", record),
        (OTHER_TENSORS, record),
        (IMAGES, unsealed),
    ):
        path.write_bytes(images)
        record_path.write_bytes(said)
        assert is_set_aside(FolderStore(store.folder))
    store.save_attacked_set(KEY, {"device": "cpu"}, OTHER_TENSORS)  # whole, but nobody's images
    assert is_set_aside(store)


def test_an_attacked_set_that_cannot_be_written_is_not_waited_for(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "attacked-sets").write_bytes(b"")  # root writes where its permissions forbid
    with pytest.warns(StoreWarning, match="cannot be used in full"):
        store.save_attacked_set(KEY, {"device": "cpu"}, IMAGES)
    assert store.load_attacked_set(KEY) is None and store.worker_folder is not None
