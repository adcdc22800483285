"""The store under load and faults: processes that share it or are killed, bytes that change, disks that fill."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import multiprocessing.synchronize
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnas_env.evaluation import work
from rcnas_env.evaluation.evaluator import OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, MemoryStore, StoreWarning
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.whole_files import TEMPORARY_PREFIX
from tests import tiny
from tests.full_disk import no_room

ROOT = Path(__file__).resolve().parent.parent
STUDENT, TEACHER, OTHER_ATTACK = tiny.job(), tiny.job(tiny.TEACHER), tiny.job(attack="pgd-2")


@pytest.fixture(scope="module")
def recorded() -> tuple[MemoryStore, dict[Job, Evaluation]]:
    """What undisturbed runs find: a store with both trainings, and the evaluations."""
    store, jobs = MemoryStore(), [STUDENT, TEACHER, OTHER_ATTACK]
    found = TrainedEvaluator(store, device="cpu").evaluate(jobs)
    return store, dict(zip(jobs, found, strict=True))


@pytest.fixture
def store(recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path) -> FolderStore:
    """A folder with the student's training and evaluation."""
    filled, training = FolderStore(tmp_path), recorded[0].load_training(STUDENT.training_key)
    assert training is not None
    filled.save_training(STUDENT.training_key, *training)
    filled.save_evaluation(recorded[1][STUDENT])
    return filled


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the trainings that really run in this process, in order."""
    keys: list[str] = []
    train = work.train

    def noted(job: Job, device: str) -> tuple[dict[str, Any], bytes]:
        keys.append(job.training_key)
        return train(job, device)

    monkeypatch.setattr(work, "train", noted)
    return keys


def timeless(evaluation: Evaluation) -> Evaluation:
    """What must be equal to the bit: all but the wall times and where it came from."""
    return dataclasses.replace(evaluation, training_seconds=0.0, attack_seconds=0.0, from_store=False)


def evaluate(store: FolderStore, *jobs: Job, on_done: OnDone | None = None) -> list[Evaluation]:
    return [timeless(each) for each in TrainedEvaluator(store, device="cpu").evaluate(jobs, on_done)]


# --- several processes ------------------------------------------------------------------------------------------------


def search(
    folder: Path, out: Path, start: multiprocessing.synchronize.Barrier, jobs: list[Job], seconds: float
) -> None:
    """One of several processes: evaluate `jobs` at the same instant as the others; write down what was done."""
    trained, train = [], work.train

    def noted(job: Job, device: str) -> tuple[dict[str, Any], bytes]:
        trained.append(job.training_key)
        time.sleep(seconds)  # so that the others come while it is under way
        return train(job, device)

    work.train = noted
    start.wait(120)
    found = evaluate(FolderStore(folder), *jobs)
    out.write_text(json.dumps({"trained": trained, "found": [each.to_dict() for each in found]}))


def test_processes_that_need_the_same_trainings_train_each_once(
    recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    start, jobs = context.Barrier(2), [STUDENT, TEACHER, OTHER_ATTACK]
    outs = [tmp_path / "first.json", tmp_path / "second.json"]
    processes = [context.Process(target=search, args=(tmp_path / "store", out, start, jobs, 1.0)) for out in outs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0]
    reports = [json.loads(out.read_text()) for out in outs]
    assert sorted(sum((report["trained"] for report in reports), [])) == sorted(
        [STUDENT.training_key, TEACHER.training_key]
    )
    for report in reports:
        assert list(map(Evaluation.from_dict, report["found"])) == [timeless(recorded[1][job]) for job in jobs]
    assert list((tmp_path / "store" / "claims").iterdir()) == []


def test_what_another_process_trains_is_waited_for_after_all_other_work(
    recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path, trained: list[str]
) -> None:
    other = FolderStore(tmp_path)
    claim, order = other.claim(TEACHER.training_key), list[Job]()
    assert claim is not None

    def the_other_finishes(job: Job, evaluation: Evaluation) -> None:
        order.append(job)
        if job is STUDENT:
            training = recorded[0].load_training(TEACHER.training_key)
            assert training is not None
            other.save_training(TEACHER.training_key, *training)
            claim.release()

    found = evaluate(FolderStore(tmp_path), TEACHER, STUDENT, on_done=the_other_finishes)
    assert found == [timeless(recorded[1][job]) for job in (TEACHER, STUDENT)]
    assert order == [STUDENT, TEACHER] and trained == [STUDENT.training_key]


def test_an_interrupted_or_failed_run_holds_no_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(job: Job, device: str) -> None:
        assert [path.stem for path in (tmp_path / "claims").iterdir()] == [job.training_key]
        raise RuntimeError("out of memory")

    monkeypatch.setattr(work, "train", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(FolderStore(tmp_path), STUDENT)
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_training_that_a_killed_process_had_claimed_is_done(
    recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path, trained: list[str]
) -> None:
    program = (
        "import os, signal, sys; from rcnas_env.evaluation.folder_store import FolderStore; "
        "claim = FolderStore(sys.argv[1]).claim(sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path), STUDENT.training_key], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and len(list((tmp_path / "claims").iterdir())) == 1
    assert evaluate(FolderStore(tmp_path), STUDENT) == [timeless(recorded[1][STUDENT])]
    assert trained == [STUDENT.training_key] and list((tmp_path / "claims").iterdir()) == []


WRITER = """
import dataclasses, json, os, sys
from rcnas_env.evaluation.folder_store import FolderStore
from rcnas_env.evaluation.record import Evaluation
store, evaluation = FolderStore(sys.argv[1]), Evaluation.from_dict(json.loads(sys.argv[2]))
header = json.dumps({"w": {"dtype": "U8", "shape": [300000], "data_offsets": [0, 300000]}}).encode()
for turn in range(10**9):
    key = f"{turn % 3:02d}" * 32  # the same three over and over: entries are written over, too
    store.save_evaluation(dataclasses.replace(evaluation, key=key, macs=turn))
    weights = len(header).to_bytes(8, "little") + header + bytes([turn % 256]) * 300000
    store.save_training(key, {"seconds": 1.0 * turn, "diverged": False}, weights)
    if turn == 3:
        print("started", flush=True)
"""


def test_a_writer_killed_at_any_instant_leaves_whole_entries(
    recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path
) -> None:
    instants, store, read = random.Random(0), FolderStore(tmp_path), 0
    command = [sys.executable, "-c", WRITER, str(tmp_path), json.dumps(recorded[1][STUDENT].to_dict())]
    for _ in range(8):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "started\n"
            time.sleep(instants.uniform(0.0, 0.01))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        for key in store.keys("evaluations"):
            assert store.read("evaluations", key) is not None
        entries = [store.read("trainings", key) for key in store.keys("trainings")]  # raises for a damaged one
        whole = [entry for entry in entries if entry is not None]
        assert len(whole) >= len(entries) - 1  # but for the one that was being written over
        assert all(isinstance(each.record, dict) and each.tensors[-1] == each.record["seconds"] % 256 for each in whole)
        read += len(whole)
    assert read >= 16
    assert not (tmp_path / "set-aside").exists()


# --- bytes that change ------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped at the start": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "flipped in the middle": lambda content: content[: len(content) // 2] + flip(content[len(content) // 2 :]),
    "flipped at the end": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


def flip(content: bytes) -> bytes:
    """`content` with the lowest bit of its first digit changed, or of its first byte if there is none."""
    place = next((at for at, byte in enumerate(content) if chr(byte).isdigit()), 0)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_evaluation_is_computed_again_from_its_training(
    damage: str, recorded: tuple[MemoryStore, dict[Job, Evaluation]], store: FolderStore, trained: list[str]
) -> None:
    (path,) = store.paths("evaluations", STUDENT.key)
    before = path.read_bytes()
    path.write_bytes(DAMAGES[damage](before))
    with pytest.warns(StoreWarning, match=f"evaluations/{STUDENT.key} .* is damaged"):
        assert evaluate(FolderStore(store.folder), STUDENT) == [timeless(recorded[1][STUDENT])]
    assert trained == []
    (aside,) = (store.folder / "set-aside").iterdir()
    assert aside.read_bytes() == DAMAGES[damage](before)
    found = FolderStore(store.folder).load_evaluation(STUDENT.key)
    assert found is not None and timeless(found) == timeless(recorded[1][STUDENT])


@pytest.mark.parametrize("which", ["weights", "report"])
@pytest.mark.parametrize("damage", ["flipped in the middle", "truncated"])
def test_a_damaged_training_is_done_again_to_the_same_weights(
    damage: str,
    which: str,
    recorded: tuple[MemoryStore, dict[Job, Evaluation]],
    store: FolderStore,
    trained: list[str],
) -> None:
    path = store.paths("trainings", STUDENT.training_key)[("weights", "report").index(which)]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(StoreWarning, match=f"trainings/{STUDENT.training_key} .* is damaged"):
        found = evaluate(FolderStore(store.folder), STUDENT, OTHER_ATTACK)
    assert found == [timeless(recorded[1][STUDENT]), timeless(recorded[1][OTHER_ATTACK])]
    assert trained == [STUDENT.training_key]
    again, before = store.load_training(STUDENT.training_key), recorded[0].load_training(STUDENT.training_key)
    assert again is not None and before is not None
    assert again[1] == before[1] and again[0]["losses"] == before[0]["losses"]
    assert len(list((store.folder / "set-aside").iterdir())) == 2


@pytest.mark.parametrize("kind", ["evaluations", "trainings"])
def test_no_changed_byte_changes_what_is_found(kind: Any, store: FolderStore) -> None:
    key = STUDENT.key if kind == "evaluations" else STUDENT.training_key
    path, noise, detected = store.paths(kind, key)[-1], random.Random(0), 0
    whole, expected = path.read_bytes(), store.read(kind, key)
    assert expected is not None and expected.checked
    places = range(0, len(whole), 3)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << noise.randrange(8))]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):
            found = store.read(kind, key)
            assert found == expected  # "1e-05" and "1E-05" are the same number
            continue
        detected += 1
    assert detected >= 0.95 * len(places)


def test_entries_without_a_checksum_are_read_and_can_be_given_one(store: FolderStore) -> None:
    places = [("evaluations", STUDENT.key), ("trainings", STUDENT.training_key)]
    for kind, key in places:
        path = store.paths(kind, key)[-1]  # type: ignore[arg-type]
        path.write_text(json.dumps(json.loads(path.read_text())["record"]))
    old = FolderStore(store.folder)
    evaluation, training = old.load_evaluation(STUDENT.key), old.load_training(STUDENT.training_key)
    assert evaluation is not None and training is not None
    for kind, key in places:
        entry = old.read(kind, key)  # type: ignore[arg-type]
        assert entry is not None and not entry.checked
        assert old.seal(kind, key) and not old.seal(kind, key)  # type: ignore[arg-type]
        entry = old.read(kind, key)  # type: ignore[arg-type]
        assert entry is not None and entry.checked
    assert FolderStore(store.folder).load_evaluation(STUDENT.key) == evaluation
    assert FolderStore(store.folder).load_training(STUDENT.training_key) == training


# --- disks that take nothing ------------------------------------------------------------------------------------------


def test_a_run_goes_on_without_room_and_writes_when_there_is_some(
    recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path, trained: list[str]
) -> None:
    store = FolderStore(tmp_path)
    with no_room(), pytest.warns(StoreWarning, match=f"{tmp_path} cannot be used .*errno {errno.EFBIG}") as warned:
        assert evaluate(store, STUDENT) == [timeless(recorded[1][STUDENT])]
        assert evaluate(store, STUDENT, OTHER_ATTACK)[1] == timeless(recorded[1][OTHER_ATTACK])
    assert len(warned) == 1
    assert trained == [STUDENT.training_key]  # of the run's memory the second time
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.progress_folder is None
    store.save_evaluation(recorded[1][TEACHER])
    assert store.progress_folder is not None
    fresh = FolderStore(tmp_path)
    assert fresh.load_training(STUDENT.training_key) is not None
    for job in (STUDENT, TEACHER, OTHER_ATTACK):
        assert fresh.load_evaluation(job.key) is not None
    assert not list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*"))


def test_a_whole_entry_outlives_a_failed_writing_over(store: FolderStore) -> None:
    key, before = STUDENT.training_key, store.load_training(STUDENT.training_key)
    assert before is not None
    with no_room(), pytest.warns(StoreWarning):
        store.save_training(key, {**before[0], "seconds": 9.0}, before[1])
    assert FolderStore(store.folder).load_training(key) == before


def test_a_run_goes_on_where_no_folder_can_be_made(
    recorded: tuple[MemoryStore, dict[Job, Evaluation]], tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("a file in the folder's place")
    with pytest.warns(StoreWarning, match="the run goes on") as warned:
        assert evaluate(FolderStore(tmp_path / "store"), STUDENT) == [timeless(recorded[1][STUDENT])]
    assert 1 <= len(warned) <= 2  # one for each kind of failure
