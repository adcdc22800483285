"""Images attacked through a teacher: attacked once for all of its students, in later runs too."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from rcnas_env.data import load_splits
from rcnas_env.evaluation import work
from rcnas_env.evaluation.attacked_sets import AttackedSet, attacked_set_key
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.scheduling import Schedule
from rcnas_env.evaluation.store import SETS_IN_MEMORY, FolderStore, MemoryStore, StoreWarning
from rcnas_env.evaluation.trained import TrainedEvaluator
from tests import tiny
from tests.tiny import CountingStore

KEY = "ab" * 32
SET = AttackedSet.of(torch.arange(8.0).view(2, 1, 2, 2), 1.5, {"device": "cpu"})
STUDENTS = [tiny.job(network, attack_source="teacher", seed=77) for network in (tiny.STUDENT, tiny.network(16))]


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the jobs whose images are really attacked in this process, in order."""
    keys, real = list[str](), work.attack_images
    monkeypatch.setattr(work, "attack_images", lambda job, *rest: keys.append(job.key) or real(job, *rest))
    return keys


def evaluate(store: MemoryStore | FolderStore, *jobs: Job) -> list[tuple[bool, ...]]:
    return [each.robust for each in TrainedEvaluator(store, device="cpu").evaluate(jobs)]


def test_images_are_attacked_once_for_all_students_and_the_teacher_itself(attacked: list[str]) -> None:
    store, teacher = CountingStore(), STUDENTS[0].teacher_job
    found = evaluate(store, *STUDENTS, teacher)
    assert attacked == [teacher.key]
    assert [evaluate(CountingStore(), job)[0] for job in (*STUDENTS, teacher)] == found  # each by an attack of its own
    assert len(attacked) == 4 and len(set(found)) > 1


def test_a_later_run_reads_them_from_the_store(attacked: list[str], tmp_path: Path) -> None:
    def a_later_run(*wanted: Job) -> list[tuple[bool, ...]]:
        """By a store from which the evaluations are gone."""
        shutil.rmtree(tmp_path / "evaluations", ignore_errors=True)
        return evaluate(FolderStore(tmp_path), *wanted)

    first, store, teacher = a_later_run(*STUDENTS), FolderStore(tmp_path), STUDENTS[0].teacher_job
    training = store.load_training(teacher.training_key)
    assert training is not None
    (key,) = store.keys("attacked-sets")
    assert (
        key
        == attacked_set_key(STUDENTS[0], b"", training, "cpu")
        == attacked_set_key(teacher, training[1], None, "cpu")
    )
    kept, images = store.load_attacked_set(key), store.paths("attacked-sets", key)[0]
    assert kept is not None and kept.record["device"] == "cpu" and kept.record["images"] == 30
    assert a_later_run(*STUDENTS[::-1]) == first[::-1] and len(attacked) == 1

    images.write_bytes(images.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.warns(StoreWarning, match=f"attacked-sets/{key} .* is damaged"):
        assert a_later_run(*STUDENTS) == first
    assert len(attacked) == 2 and images.read_bytes() == kept.images

    clean = load_splits("digits", 30).eval.images()
    for wrong in (clean[:-1], clean.double(), clean + 0.3, clean * torch.nan):  # whole, but not of this attack
        store.save_attacked_set(key, AttackedSet.of(wrong, 1.0, {}))
        assert a_later_run(*STUDENTS) == first and images.read_bytes() == kept.images
    assert len(attacked) == 6


def test_worker_processes_attack_them_once() -> None:
    store, saved = CountingStore(), list[str]()

    def save_attacked_set(key: str, attacked: AttackedSet) -> None:
        saved.append(key)
        MemoryStore.save_attacked_set(store, key, attacked)

    store.save_attacked_set = save_attacked_set  # type: ignore[method-assign]
    jobs = [tiny.job(tiny.network(planes), attack_source="teacher", seed=77) for planes in (8, 16, 24)]
    engine = TrainedEvaluator(store, workers=2, device="cpu")
    try:
        found = [each.robust for each in engine.evaluate(jobs)]
    finally:
        engine.close()
    assert len(saved) == 1  # only images that were attacked anew are handed back
    assert found == evaluate(CountingStore(), *jobs)


def test_other_students_wait_for_the_first_and_for_no_other_s_sake() -> None:
    store, white_box = MemoryStore(), tiny.job(tiny.network(24), seed=77)
    for job in (*STUDENTS, STUDENTS[0].teacher_job, white_box):
        store.save_training(job.training_key, {"seconds": 1.0, "diverged": False}, b"w")
    schedule = Schedule({job.key: job for job in (*STUDENTS, white_box)}, store)
    given = [schedule.next() for _ in range(3)]
    assert {each[1].key for each in given if each} == {white_box.key, STUDENTS[1].key} and given[2] is None
    assert schedule.unfinished
    first = ("measure", STUDENTS[1])
    schedule.repeat(first)  # its worker died
    assert schedule.next() == first and schedule.attacked_set(first[1]) is None
    assert schedule.next() is None
    schedule.finish_measuring(first[1], SET)
    assert schedule.next() == ("measure", STUDENTS[0]) and schedule.attacked_set(STUDENTS[0]) == SET


def test_what_decides_the_images_decides_the_key() -> None:
    job, through = STUDENTS[0], ({"diverged": False}, b"w")
    key = attacked_set_key(job, b"own", through, "cpu")
    assert key == attacked_set_key(STUDENTS[1], b"other", through, "cpu")
    others = [
        attacked_set_key(job, b"own", ({"diverged": False}, b"v"), "cpu"),
        attacked_set_key(job, b"own", through, "cuda:0"),
        *(
            attacked_set_key(dataclasses.replace(job, **change), b"own", through, "cpu")
            for change in ({"seed": 78}, {"split": "test"}, {"recipe": job.recipe.but(n_eval=40)})
        ),
        *(
            attacked_set_key(
                dataclasses.replace(job, task=dataclasses.replace(job.task, **change)), b"own", through, "cpu"
            )
            for change in ({"attack": "pgd-2"}, {"epsilon": 0.3})
        ),
    ]
    assert len({key, *others}) == 1 + len(others)
    assert attacked_set_key(job, b"own", ({"diverged": True}, b"w"), "cpu") is None
    assert attacked_set_key(tiny.job(), b"own", None, "cpu") is None


def test_seconds_and_divided_batches_are_those_of_the_attack_whoever_did_it() -> None:
    job, store = STUDENTS[0], CountingStore()
    evaluate(store, *STUDENTS)
    own, through = (store.load_training(each.training_key) for each in (job, job.teacher_job))
    assert own is not None and through is not None
    _, fresh = work.measure(job, *own, through)
    assert fresh is not None and 0 < fresh.record["seconds"] < 60
    record = {**fresh.record, "seconds": 1_000.0, "micro_batch": 7}
    evaluation, again = work.measure(job, *own, through, attacked_set=AttackedSet(record, fresh.images))
    assert again is None and 1_000 < evaluation.attack_seconds < 1_060
    assert evaluation.provenance["attack_micro_batch"] == 7


def is_set_aside(store: FolderStore) -> bool:
    """Whether the set is found damaged, named in a warning, and absent."""
    with pytest.warns(StoreWarning, match=f"attacked-sets/{KEY} in the store .* is damaged .* is set aside"):
        return store.load_attacked_set(KEY) is None


def test_sets_come_back_to_the_byte_or_not_at_all(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.load_attacked_set(KEY) is None
    store.save_attacked_set(KEY, SET)
    assert FolderStore(tmp_path).load_attacked_set(KEY) == SET
    path, record_path = store.paths("attacked-sets", KEY)
    images, record = path.read_bytes(), record_path.read_bytes()
    unsealed = json.dumps(json.loads(record)["record"]).encode()
    other = save({"w": torch.zeros(1)})
    for content, said in ((images[:-1], record), (images[:-1] + b"\1", record), (other, record), (images, unsealed)):
        path.write_bytes(content)
        record_path.write_bytes(said)
        assert is_set_aside(FolderStore(tmp_path))
    store.save_attacked_set(KEY, AttackedSet({"seconds": "1"}, SET.images))
    assert is_set_aside(store)


def test_memory_keeps_the_sets_used_last() -> None:
    store = MemoryStore()
    keys = [f"{number:064x}" for number in range(SETS_IN_MEMORY + 1)]
    for key in keys[:-1]:
        store.save_attacked_set(key, SET)
    assert store.load_attacked_set(keys[0]) == SET
    store.save_attacked_set(keys[-1], SET)
    assert [key for key in keys if store.load_attacked_set(key) is None] == [keys[1]]
