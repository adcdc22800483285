"""Stores: nothing kept is lost, nothing half-written is found."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import (
    FolderStore,
    MemoryStore,
    Store,
    StoreWarning,
    default_store_folder,
    open_store,
)

KEY, OTHER_KEY = "ab" * 32, "cd" * 32
REPORT = {"losses": [2.3, None], "seconds": 1.5, "diverged": False, "provenance": {"engine": "trained"}}
TENSORS = {"stem.weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(4)}
WEIGHTS = save(TENSORS)
EVALUATION = Evaluation(
    key=KEY,
    params=1234,
    macs=56789,
    images=3,
    clean_accuracy=2 / 3,
    robust_accuracy=1 / 3,
    adversarial_loss=0.1 + 0.2,
    robust=(True, False, False),
    lips=(0.1, 2.0, 1e-17),
    zero_perturbations=0.0,
    diverged=False,
    training_seconds=1.5,
    attack_seconds=0.25,
    provenance={"engine": "trained", "threads": 1},
)
DIVERGED = dataclasses.replace(
    EVALUATION, key=OTHER_KEY, clean_accuracy=0.0, robust_accuracy=0.0, adversarial_loss=math.inf,
    robust=(False,) * 3, lips=(), diverged=True,
)  # fmt: skip


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "not" / "made" / "yet")


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    """A folder with one evaluation and one training in it."""
    filled = FolderStore(tmp_path)
    filled.save_evaluation(EVALUATION)
    filled.save_training(KEY, REPORT, WEIGHTS)
    return filled


def files(store: FolderStore) -> list[str]:
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file())


def set_aside(load: Callable[[str], object], key: str = KEY) -> bool:
    """Whether the entry that `load` is to give is found damaged, named in a warning, and absent."""
    with pytest.warns(StoreWarning, match=f"{key} in the store .* is damaged .* is set aside as .*{key}"):
        return load(key) is None


@pytest.mark.parametrize("evaluation", [EVALUATION, DIVERGED], ids=["finite", "diverged"])
def test_evaluations_come_back_equal_and_marked(store: Store, evaluation: Evaluation) -> None:
    assert store.load_evaluation(evaluation.key) is None
    store.save_evaluation(evaluation)
    found = store.load_evaluation(evaluation.key)
    assert found is not None and found.from_store and not evaluation.from_store
    assert dataclasses.replace(found, from_store=False) == evaluation
    assert all(type(entry) is bool for entry in found.robust)
    absent = OTHER_KEY if evaluation.key == KEY else KEY
    assert store.load_evaluation(absent) is None


def test_what_was_looked_up_can_be_saved_again(store: Store) -> None:
    store.save_evaluation(EVALUATION)
    found = store.load_evaluation(KEY)
    assert found is not None
    store.save_evaluation(found)
    assert store.load_evaluation(KEY) == found


def test_trainings_come_back_to_the_byte(store: Store) -> None:
    assert store.load_training(KEY) is None
    store.save_training(KEY, REPORT, WEIGHTS)
    assert store.load_training(KEY) == (REPORT, WEIGHTS)
    assert store.load_training(OTHER_KEY) is None
    assert store.load_evaluation(KEY) is None


def test_the_later_writer_wins(store: Store) -> None:
    store.save_evaluation(EVALUATION)
    store.save_evaluation(dataclasses.replace(EVALUATION, macs=1))
    store.save_training(KEY, REPORT, WEIGHTS)
    store.save_training(KEY, {**REPORT, "seconds": 9.0}, save({"a": torch.zeros(1)}))
    found, training = store.load_evaluation(KEY), store.load_training(KEY)
    assert found is not None and found.macs == 1
    assert training is not None and training[0]["seconds"] == 9.0 and set(load(training[1])) == {"a"}


def test_changing_what_was_given_or_found_changes_nothing_kept(store: Store) -> None:
    given = json.loads(json.dumps(REPORT))
    store.save_training(KEY, given, WEIGHTS)
    given["provenance"]["engine"] = "changed"
    found = store.load_training(KEY)
    assert found is not None
    found[0]["losses"].append(0.0)
    assert store.load_training(KEY) == (REPORT, WEIGHTS)
    store.save_evaluation(EVALUATION)
    evaluation = store.load_evaluation(KEY)
    assert evaluation is not None
    evaluation.provenance["engine"] = "changed"
    again = store.load_evaluation(KEY)
    assert again is not None and again.provenance["engine"] == "trained"


def test_record_goes_through_strict_json() -> None:
    for evaluation in (EVALUATION, DIVERGED):
        text = json.dumps(evaluation.to_dict(), allow_nan=False)
        assert Evaluation.from_dict(json.loads(text)) == evaluation
    assert DIVERGED.to_dict()["adversarial_loss"] is None
    assert "from_store" not in EVALUATION.to_dict()


MALFORMED: dict[str, Any] = {
    "key": 5, "params": "many", "macs": -1, "images": 2.5, "clean_accuracy": 1.5, "robust_accuracy": "high",
    "adversarial_loss": "inf", "robust": [1, 0], "lips": [1.0, 2.0], "zero_perturbations": None, "diverged": 0,
    "training_seconds": -1.0, "attack_seconds": [], "provenance": [],
}  # fmt: skip
ALSO_MALFORMED: list[tuple[str, Any]] = [
    ("robust", 3), ("robust", None), ("robust", [1, 0, "x"]), ("robust", [1, 0, 2]), ("robust", "100"),
    ("lips", {"a": 1}), ("lips", [1.0, 2.0, None]), ("lips", [1.0, 2.0, -1.0]), ("lips", [1.0, 2.0, math.nan]),
    ("adversarial_loss", math.nan), ("params", True), ("macs", None), ("clean_accuracy", math.nan),
]  # fmt: skip


def test_every_field_has_a_malformed_value_below() -> None:
    assert set(MALFORMED) == set(EVALUATION.to_dict())


@pytest.mark.parametrize(("name", "value"), [*MALFORMED.items(), *ALSO_MALFORMED])
def test_a_record_with_a_malformed_field_is_refused_and_counts_as_absent(
    name: str, value: object, folder: FolderStore
) -> None:
    record = {**EVALUATION.to_dict(), name: value}
    with pytest.raises(ValueError, match=name):
        Evaluation.from_dict(record)
    (folder.folder / "evaluations" / "ab" / f"{KEY}.json").write_text(json.dumps(record))
    assert set_aside(folder.load_evaluation)


@pytest.mark.parametrize("name", EVALUATION.to_dict())
def test_a_record_without_a_field_counts_as_absent(name: str, folder: FolderStore) -> None:
    record = EVALUATION.to_dict()
    del record[name]
    (folder.folder / "evaluations" / "ab" / f"{KEY}.json").write_text(json.dumps(record))
    assert set_aside(folder.load_evaluation)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\x00", b"{}", b"[" * 100_000],
    ids=lambda c: repr(c[:4]),
)
def test_files_that_are_no_records_count_as_absent_and_are_replaced(content: bytes, folder: FolderStore) -> None:
    for kind in ("evaluations", "trainings"):
        (folder.folder / kind / "ab" / f"{KEY}.json").write_bytes(content)
    assert set_aside(folder.load_evaluation)
    assert set_aside(folder.load_training)
    assert folder.load_evaluation(KEY) is None and folder.load_training(KEY) is None
    folder.save_evaluation(EVALUATION)
    folder.save_training(KEY, REPORT, WEIGHTS)
    assert folder.load_evaluation(KEY) is not None
    assert folder.load_training(KEY) == (REPORT, WEIGHTS)


def test_every_prefix_of_a_record_counts_as_absent(folder: FolderStore) -> None:
    path = folder.folder / "evaluations" / "ab" / f"{KEY}.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert set_aside(FolderStore(folder.folder).load_evaluation)
    assert len(list((folder.folder / "set-aside").iterdir())) == len(whole)  # none in the place of another


def test_a_record_under_anothers_key_counts_as_absent(folder: FolderStore) -> None:
    source = folder.folder / "evaluations" / "ab" / f"{KEY}.json"
    target = folder.folder / "evaluations" / "cd" / f"{OTHER_KEY}.json"
    target.parent.mkdir()
    target.write_bytes(source.read_bytes())
    assert set_aside(folder.load_evaluation, OTHER_KEY)
    assert folder.load_evaluation(KEY) is not None


def test_a_training_under_anothers_key_counts_as_absent(folder: FolderStore) -> None:
    for source, target in zip(folder.paths("trainings", KEY), folder.paths("trainings", OTHER_KEY), strict=True):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    assert set_aside(folder.load_training, OTHER_KEY)
    assert folder.load_training(KEY) == (REPORT, WEIGHTS)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_half_a_training_counts_as_absent(suffix: str, folder: FolderStore) -> None:
    (folder.folder / "trainings" / "ab" / f"{KEY}{suffix}").unlink()
    assert folder.load_training(KEY) is None


def test_truncated_or_foreign_weights_count_as_absent(folder: FolderStore) -> None:
    path, report_path = folder.paths("trainings", KEY)
    for report in (report_path.read_bytes(), json.dumps(REPORT).encode()):  # with a checksum, and as it was before
        for content in (*(WEIGHTS[:length] for length in range(len(WEIGHTS))), WEIGHTS + b"\0", b"PK\x03\x04" * 20):
            path.write_bytes(content)
            report_path.write_bytes(report)
            assert set_aside(FolderStore(folder.folder).load_training)
        path.write_bytes(WEIGHTS)
        report_path.write_bytes(report)
        assert folder.load_training(KEY) == (REPORT, WEIGHTS)


@pytest.mark.parametrize("change", [{"diverged": None}, {"diverged": 0}, {"seconds": "1"}, {"seconds": None}])
def test_a_report_that_lacks_what_a_measurement_needs_counts_as_absent(
    change: dict[str, object], folder: FolderStore
) -> None:
    (folder.folder / "trainings" / "ab" / f"{KEY}.json").write_text(json.dumps({**REPORT, **change}))
    assert set_aside(folder.load_training)


def test_nothing_is_left_of_a_write_that_failed(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(folder)

    def fails(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        for write in (
            lambda: folder.save_evaluation(DIVERGED),
            lambda: folder.save_evaluation(dataclasses.replace(EVALUATION, macs=1)),
            lambda: folder.save_training(OTHER_KEY, REPORT, WEIGHTS),
        ):
            with pytest.raises(KeyboardInterrupt):
                write()
    assert files(folder) == before
    found = folder.load_evaluation(KEY)
    assert found is not None and found.macs == EVALUATION.macs
    assert folder.load_evaluation(OTHER_KEY) is None and folder.load_training(OTHER_KEY) is None


def test_a_training_interrupted_between_its_two_files_counts_as_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, replace, calls = FolderStore(tmp_path), os.replace, []

    def fails_the_second_time(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_the_second_time)
    with pytest.warns(StoreWarning, match="cannot be used in full"):
        store.save_training(KEY, REPORT, WEIGHTS)
    assert files(store) == [f"trainings/ab/{KEY}.safetensors"]
    assert FolderStore(tmp_path).load_training(KEY) is None
    assert store.load_training(KEY) == (REPORT, WEIGHTS)  # of the run's memory


def test_nothing_that_json_cannot_hold_is_written(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(ValueError):
        store.save_evaluation(dataclasses.replace(EVALUATION, adversarial_loss=math.nan))
    assert files(store) == []


def test_files_are_json_and_safetensors(folder: FolderStore) -> None:
    written = [f"evaluations/ab/{KEY}.json", f"trainings/ab/{KEY}.json", f"trainings/ab/{KEY}.safetensors"]
    assert files(folder) == written
    for name in written[:2]:
        assert isinstance(json.loads((folder.folder / name).read_text(encoding="utf-8")), dict)
    weights = (folder.folder / written[2]).read_bytes()
    header_size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + header_size])
    assert set(header) - {"__metadata__"} == set(TENSORS)
    assert len(weights) == 8 + header_size + 6 * 4 + 8  # six float32 and an int64: nothing else is in there
    assert all(torch.equal(value, TENSORS[name]) for name, value in load(weights).items())


def test_another_process_sees_what_this_one_wrote_and_the_other_way_round(folder: FolderStore) -> None:
    program = (
        "import dataclasses, sys; from rcnas_env.evaluation.store import FolderStore; "
        "store = FolderStore(sys.argv[1]); found = store.load_evaluation(sys.argv[2]); "
        "report, weights = store.load_training(sys.argv[2]); "
        "store.save_evaluation(dataclasses.replace(found, key=sys.argv[3], macs=len(weights))); "
        "store.save_training(sys.argv[3], report, weights)"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", program, folder.folder, KEY, OTHER_KEY], env=environment, check=True)
    found = folder.load_evaluation(OTHER_KEY)
    assert found is not None
    assert dataclasses.replace(found, key=KEY, macs=EVALUATION.macs, from_store=False) == EVALUATION
    assert found.macs == len(WEIGHTS)
    assert folder.load_training(OTHER_KEY) == (REPORT, WEIGHTS)


def test_open_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    assert open_store(memory) is memory
    assert isinstance(open_store(None), MemoryStore)
    for folder in (tmp_path, str(tmp_path)):
        opened = open_store(folder)
        assert isinstance(opened, FolderStore) and opened.folder == tmp_path
    monkeypatch.setenv("RCNAS_STORE", str(tmp_path / "named"))
    opened = open_store("default")
    assert isinstance(opened, FolderStore) and opened.folder == default_store_folder() == tmp_path / "named"
    monkeypatch.delenv("RCNAS_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_store_folder() == tmp_path / "cache" / "rcnas" / "store"
