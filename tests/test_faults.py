"""Faults of the trained engine, injected for real: workers that die, stall or never start, folders that take nothing.

Those of memory are in test_memory.py, those of the store in test_store_load.py, clocks in test_claims.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import multiprocessing
import multiprocessing.resource_tracker
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnas_env.attacks import AttackProgress, attack_entry, run_attack
from rcnas_env.attacks.progress import AttackState, ProgressWarning
from rcnas_env.attacks.run import AttackResult
from rcnas_env.evaluation import work
from rcnas_env.evaluation.evaluator import make_engine
from rcnas_env.evaluation.faults import FaultWarning, WorkerStartError
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from tests import tiny, training_faults
from tests.full_disk import no_room

STUDENT, TEACHER, TRANSFER = tiny.job(), tiny.job(tiny.TEACHER), tiny.job(attack_source="teacher")


def timeless(evaluation: Evaluation) -> Evaluation:
    """What must be equal to the bit: all but the wall times and where it came from."""
    return dataclasses.replace(evaluation, training_seconds=0.0, attack_seconds=0.0, from_store=False)


@pytest.fixture
def deaths(tmp_path: Path) -> Path:
    """A folder in which every death of a worker leaves a file."""
    folder = tmp_path / "deaths"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def engine(store: MemoryStore | FolderStore, **options: Any) -> Iterator[TrainedEvaluator]:
    """A trained engine that is closed."""
    made = make_engine("trained", store, device="cpu", **options)
    assert isinstance(made, TrainedEvaluator)
    try:
        yield made
    finally:
        made.close()


# --- worker processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])  # each imports torch and the digits
def test_a_killed_worker_costs_time_alone(
    workers: int, deaths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TrainedEvaluator(MemoryStore(), device="cpu").evaluate([STUDENT, TEACHER])
    store = FolderStore(tmp_path / "store")
    dies = functools.partial(training_faults.dies_once_in_mid_training, deaths, STUDENT.network)
    monkeypatch.setattr(work, "train", dies)
    message = r"is done again: its worker process was ended by signal 9 \(SIGKILL\), 1 of 3 times"
    with engine(store, workers=workers) as evaluator, pytest.warns(FaultWarning, match=message) as warned:
        found = evaluator.evaluate([STUDENT, TEACHER])
    assert len(warned) == len(list(deaths.iterdir())) == 1
    assert list(map(timeless, found)) == list(map(timeless, expected))
    for job in (STUDENT, TEACHER):
        assert store.load_training(job.training_key) is not None and store.load_evaluation(job.key) is not None
    assert list((store.folder / "claims").iterdir()) == []


def test_a_job_that_always_kills_its_worker_is_flagged_and_tried_again_by_another_run(
    deaths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, announced = FolderStore(tmp_path / "store"), list[Job]()
    jobs = [TEACHER, TRANSFER]  # the student, attacked through the teacher
    with monkeypatch.context() as context, engine(store, workers=1, retries=0) as evaluator:
        context.setattr(work, "train", functools.partial(training_faults.always_dies, deaths, TEACHER.network))
        message = "failed and counts as diverged: its worker process ended with exit code 3, 1 of 1 times"
        with pytest.warns(FaultWarning, match=message) as warned:
            found = evaluator.evaluate(jobs, lambda job, evaluation: announced.append(job))
        assert list(map(timeless, evaluator.evaluate(jobs))) == list(map(timeless, found))
        assert len(warned) == len(list(deaths.iterdir())) == 1  # by this engine no more
    assert announced == jobs
    for job, evaluation, lips in zip(jobs, found, (30, 0), strict=True):
        assert evaluation.diverged and evaluation.robust == (False,) * 30 and len(evaluation.lips) == lips
        assert "exit code 3" in evaluation.provenance["failed"]
        assert store.load_evaluation(job.key) is None
        assert Evaluation.from_dict(evaluation.to_dict()) == evaluation
    assert store.load_training(STUDENT.training_key) is None  # no job needs it any more
    assert list((store.folder / "claims").iterdir()) == []
    assert not any(each.diverged for each in TrainedEvaluator(store, device="cpu").evaluate(jobs))


def test_a_training_that_stalls_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, before = tiny.CountingStore(), set(multiprocessing.active_children())
    with monkeypatch.context() as context, engine(store, workers=1, time_limit=0.5) as evaluator:
        context.setattr(work, "train", functools.partial(training_faults.stalls, tmp_path, STUDENT.network))
        with pytest.warns(FaultWarning, match=r"failed and counts as diverged: took longer than .* 0.5 s") as warned:
            found = evaluator.evaluate([STUDENT])[0]
        assert len(warned) == 1  # it is not done again
        assert found.diverged and found.provenance["failed"] == "took longer than the time limit of 0.5 s"
        deadline = time.monotonic() + 20
        while not set(multiprocessing.active_children()) <= before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert set(multiprocessing.active_children()) <= before
    assert store.trained == store.evaluated == []


@pytest.mark.timeout(60)
def test_a_worker_that_dies_in_the_midst_of_a_result_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "train", training_faults.dies_while_sending)
    with engine(MemoryStore(), workers=1, retries=0) as evaluator, pytest.warns(FaultWarning, match="SIGKILL"):
        (found,) = evaluator.evaluate([STUDENT])
    assert found.diverged and "signal 9" in found.provenance["failed"]


def test_an_error_that_cannot_travel_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "train", training_faults.raises)
    with engine(MemoryStore(), workers=1) as evaluator, pytest.raises(RuntimeError, match="a mistake in somebody's"):
        evaluator.evaluate([STUDENT])


def test_workers_that_cannot_start_are_an_error_and_no_fault_of_the_job() -> None:
    multiprocessing.resource_tracker.ensure_running()
    with engine(MemoryStore(), workers=1, retries=1) as evaluator:
        multiprocessing.set_executable("/bin/false")
        try:
            with (
                pytest.warns(FaultWarning, match="is done again: .* exit code 1, 1 of 2 times"),
                pytest.raises(WorkerStartError, match="before they take up work .the last one ended with exit code 1"),
            ):
                evaluator.evaluate([STUDENT])
        finally:
            multiprocessing.set_executable(sys.executable)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit": 10.0}, "time_limit must be None without workers, .* got 10.0 with workers = 0"),
        ({"workers": 1, "time_limit": 0}, "time_limit must be .* got 0"),
        ({"workers": 1, "time_limit": float("nan")}, "time_limit must be"),
        ({"retries": -1}, "retries must be an integer of at least 0, got -1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_engine("trained", MemoryStore(), **options)


# --- folders that take nothing ----------------------------------------------------------------------------------------


def attack(progress: AttackProgress | None) -> AttackResult:
    """Three batches, and so three writes."""
    pgd = attack_entry("pgd-2").make(0.1, 10)
    return run_attack(
        pgd, tiny.built().eval(), tiny.images(12), tiny.labels(12), seed=0, batch_size=4, progress=progress
    )


def test_an_attack_goes_on_where_its_progress_cannot_be_kept(tmp_path: Path) -> None:
    expected, folder = attack(None), tmp_path / "under-way"
    with no_room(), pytest.warns(ProgressWarning, match=f"{folder} cannot be kept .*errno {errno.EFBIG}") as warned:
        found = attack(AttackProgress(folder, every_seconds=0.0))
    assert len(warned) == 1 and list(folder.iterdir()) == []
    assert torch.equal(found.adversarial, expected.adversarial) and torch.equal(found.robust, expected.robust)
    progress = AttackProgress(tmp_path / "later", every_seconds=0.0)
    (tmp_path / "later").write_text("a file in the folder's place")
    with pytest.warns(ProgressWarning, match="the attack goes on without") as warned:
        assert torch.equal(attack(progress).adversarial, expected.adversarial)
    assert len(warned) == 1


def test_progress_that_could_not_be_written_over_stays_whole(tmp_path: Path) -> None:
    file = AttackProgress(tmp_path, every_seconds=0.0).file("00")
    state = AttackState(tiny.images(4), torch.ones(4, dtype=torch.bool), torch.arange(4), batch=1)
    file.save(state, tiny.generator())
    before = file.path.read_bytes()
    with no_room(), pytest.warns(ProgressWarning):
        file.save(dataclasses.replace(state, batch=2), tiny.generator())
    file.save(dataclasses.replace(state, batch=3), tiny.generator())  # given up
    assert file.path.read_bytes() == before and list(tmp_path.iterdir()) == [file.path]
    file.remove()
    assert list(tmp_path.iterdir()) == []
