"""The command line that looks after a store, on stores with whole, unchecked, half and damaged entries."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from experiments.store import in_bytes, main
from rcnas_env.evaluation.attacked_sets import AttackedSet
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, StoreWarning

WHOLE, UNCHECKED, HALF, DAMAGED = "aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32
HEADER = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"1234"
ATTACKED = AttackedSet.of(torch.arange(8.0).view(2, 1, 2, 2), 1.5, {"engine": "trained", "device": "cpu"})
REPORT = {
    "seconds": 1.5,
    "diverged": False,
    "network": {"input": [1, 8, 8], "classes": 10},
    "provenance": {"engine": "trained", "device": "cpu"},
}
EVALUATION = Evaluation(
    key=WHOLE,
    params=1234,
    macs=56789,
    images=2,
    clean_accuracy=0.5,
    robust_accuracy=0.5,
    adversarial_loss=0.3,
    robust=(True, False),
    lips=(0.1, 2.0),
    zero_perturbations=0.0,
    diverged=False,
    training_seconds=1.5,
    attack_seconds=0.25,
    provenance={"engine": "trained", "device": "cpu"},
)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Of evaluations and trainings one each that is whole, unchecked and damaged, half a training, an attacked set."""
    filled = FolderStore(tmp_path / "store")
    for key in (WHOLE, UNCHECKED, DAMAGED):
        filled.save_evaluation(dataclasses.replace(EVALUATION, key=key))
    for key in (WHOLE, UNCHECKED, HALF, DAMAGED):
        filled.save_training(key, REPORT, WEIGHTS)
    filled.save_attacked_set(WHOLE, ATTACKED)
    for kind in ("evaluations", "trainings"):
        path = filled.paths(kind, UNCHECKED)[-1]  # type: ignore[arg-type]
        path.write_text(json.dumps(json.loads(path.read_text())["record"]))
    (path,) = filled.paths("evaluations", DAMAGED)
    path.write_bytes(path.read_bytes().replace(b"56789", b"56788"))
    filled.paths("trainings", DAMAGED)[0].write_bytes(WEIGHTS[:-1] + b"5")
    filled.paths("trainings", HALF)[0].unlink()
    return filled


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(store: FolderStore, *arguments: str) -> int:
    return main([*arguments, "--store", str(store.folder)])


def test_ls_counts_by_what_entries_say(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store.folder)
    assert run(store, "ls") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    sizes = {
        kind: sum(len(text) for name, text in before.items() if name.startswith(kind)) for kind in ("ev", "tr", "at")
    }
    assert lines == [
        f"evaluations: 3 entries, {in_bytes(sizes['ev'])}",
        "1 damaged",
        "1 trained, cpu, 2 images",
        "1 trained, cpu, 2 images, unchecked",
        f"trainings: 4 entries, {in_bytes(sizes['tr'])}",
        "1 damaged",
        "1 half",
        "1 trained, cpu, 1x8x8, 10 classes",
        "1 trained, cpu, 1x8x8, 10 classes, unchecked",
        f"attacked-sets: 1 entries, {in_bytes(sizes['at'])}",
        "1 trained, cpu, 2 images",
        "under-way: 0 files, 0 B",
        "claims: 0 files, 0 B",
        "set-aside: 0 files, 0 B",
    ]
    assert contents(store.folder) == before


def test_verify_finds_damage_and_changes_nothing(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store.folder)
    assert run(store, "verify") == 1
    assert capsys.readouterr().out.splitlines() == [
        f"damaged: evaluations/{DAMAGED}: it does not fit its checksum",
        "evaluations: 1 whole, 1 unchecked, 0 half, 1 damaged",
        f"damaged: trainings/{DAMAGED}: its weights do not fit their checksum",
        "trainings: 1 whole, 1 unchecked, 1 half, 1 damaged",
        "attacked-sets: 1 whole, 0 unchecked, 0 half, 0 damaged",
    ]
    assert contents(store.folder) == before


def test_an_entry_that_cannot_be_read_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FolderStore(tmp_path)
    store.paths("evaluations", WHOLE)[0].mkdir(parents=True)  # root reads what its permissions forbid
    with pytest.warns(StoreWarning, match=f"errno {errno.EISDIR}"):
        assert run(store, "verify", "--repair") == 1
    assert f"damaged: evaluations/{WHOLE}: it cannot be read" in capsys.readouterr().out
    assert run(store, "verify") == 0


def test_verify_repairs_and_adds_checksums(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store.folder)
    assert run(store, "verify", "--repair", "--add") == 1
    assert run(store, "verify") == 0
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        "evaluations: 2 whole, 0 unchecked, 0 half, 0 damaged",
        "trainings: 2 whole, 0 unchecked, 1 half, 0 damaged",
    ]
    aside = {name: text for name, text in contents(store.folder).items() if name.startswith("set-aside/")}
    assert sorted(aside.values()) == sorted(text for name, text in before.items() if DAMAGED in name)
    for key in (WHOLE, UNCHECKED):
        found = store.load_evaluation(key)
        assert found is not None
        assert dataclasses.replace(found, from_store=False) == dataclasses.replace(EVALUATION, key=key)
        assert store.load_training(key) == (REPORT, WEIGHTS)


def test_prune_deletes_what_is_named_and_old_and_only_when_told_to(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run(store, "verify", "--repair")
    under_way = [
        store.folder / name
        for name in ("under-way/a.npz", "claims/b.json", "claims/.broken-c", "trainings/aa/.writing-d")
    ]
    recent = store.folder / "under-way" / "recent.npz"
    for path in (*under_way, recent):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 10)
    week_ago = time.time() - 8 * 86_400
    for path in store.folder.rglob("*"):
        if path.is_file() and path != recent:
            os.utime(path, (week_ago, week_ago))
    before = set(contents(store.folder))
    aside = {name for name in before if name.startswith("set-aside/")}
    weights = {f"trainings/{key[:2]}/{key}.safetensors" for key in (WHOLE, UNCHECKED)}
    attacked = {f"attacked-sets/{WHOLE[:2]}/{WHOLE}{suffix}" for suffix in (".json", ".safetensors")}
    assert len(aside) == 3 and weights | attacked < before

    assert run(store, "prune", "--set-aside", "--under-way", "--weights", "--attacked-sets") == 0
    assert "nothing is deleted without --yes" in capsys.readouterr().out and set(contents(store.folder)) == before
    for flag, gone in (
        ("--set-aside", aside),
        ("--under-way", {path.relative_to(store.folder).as_posix() for path in under_way}),
        ("--weights", weights),
        ("--attacked-sets", attacked),
    ):
        assert run(store, "prune", flag, "--yes", "--days", "9") == 0
        assert set(contents(store.folder)) == before
        assert run(store, "prune", flag, "--yes") == 0
        before -= gone
        assert set(contents(store.folder)) == before
    assert recent.exists()
    assert store.load_evaluation(WHOLE) is not None and store.load_training(WHOLE) is None


@pytest.mark.parametrize("name", ["copy", "copy.tar.gz"])
def test_export_is_a_store_with_a_manifest(
    name: str, store: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / name
    assert run(store, "export", str(target)) == 1  # damaged entries are left out
    out = capsys.readouterr().out
    assert f"left out: evaluations/{DAMAGED}: damaged" in out and f"left out: trainings/{HALF}: half" in out
    folder = target
    if name.endswith(".tar.gz"):
        folder = tmp_path / "unpacked"
        with tarfile.open(target) as archive:
            archive.extractall(folder, filter="data")
    copied = contents(folder)
    described = json.loads(copied.pop("manifest.json"))["files"]
    assert described == {
        name: {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()} for name, text in copied.items()
    }
    assert copied == {name: text for name, text in contents(store.folder).items() if WHOLE in name or UNCHECKED in name}
    assert len(copied) == 8
    assert FolderStore(folder).load_attacked_set(WHOLE) == ATTACKED
    assert FolderStore(folder).load_training(WHOLE) == (REPORT, WEIGHTS)
    assert sorted(path.name for path in target.parent.iterdir()) == [name]


def test_export_of_chosen_entries(store: FolderStore, tmp_path: Path) -> None:
    assert run(store, "export", str(tmp_path / "copy"), "--kind", "evaluations", "--keys", "aa", "cc") == 0
    assert sorted(contents(tmp_path / "copy")) == [f"evaluations/aa/{WHOLE}.json", "manifest.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "must be told what to delete"),
        (["prune", "--weights", "--days", "-1"], "days must be"),
        (["export", "{store}"], "target must not be there yet"),
        (["export", "{store}/new", "--keys", "ee"], "at least one whole entry"),
        (["ls", "--store", "{store}/missing"], "--store must be the folder of a store"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_done(
    arguments: list[str], message: str, store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(store.folder)
    given = [each.format(store=store.folder) for each in arguments]
    assert main(given if "--store" in given else [*given, "--store", str(store.folder)]) == 2
    assert message in capsys.readouterr().err
    assert contents(store.folder) == before


def test_the_command_runs_without_torch_on_the_default_store(store: FolderStore) -> None:
    code = (
        "import sys; from experiments.store import main; code = main(['verify']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RCNAS_STORE": str(store.folder)},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1 and found.stderr == ""
    assert "1 whole, 1 unchecked" in found.stdout


def test_sizes_have_units() -> None:
    assert [in_bytes(size) for size in (0, 999, 1000, 1_234_567, 2_500_000_000)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "2.5 GB",
    ]  # fmt: skip
