"""Interrupted attacks go on, and end with the result of an uninterrupted one to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import (
    Attack,
    AttackProgress,
    AttackResult,
    Component,
    adaptive_auto_attack,
    attack_entry,
    autoattack_components,
    run_attack,
)
from rcnas_env.attacks.adaptive_schedule import Round
from tests.attack_samples import linear_model, same, sample
from tests.trained_digits import EPS, trained_digits

IMAGES, BATCH = 22, 5


class Interrupted(nn.Module):
    """A model that raises at forward pass `at`, counted from 0, and counts its passes."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.network = trained_digits()
        self.at, self.passes = at, 0

    def forward(self, images: Tensor) -> Tensor:
        if self.passes == self.at:
            raise KeyboardInterrupt
        self.passes += 1
        return self.network(images)


def jitter(scale: float) -> Component:
    """x + scale · eps · U(−1, 1): draws from the generator, and so differs if that is not restored."""

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
        model(images)
        return (images + scale * EPS * noise).clamp(0, 1)

    return Component(f"jitter {scale:g}", perturb)


def attack(name: str) -> Attack:
    if name == "draws":
        pgd = attack_entry("pgd-3").make(EPS, 10).components
        return Attack("draws", EPS, 10, (jitter(1.0), *pgd, jitter(0.9), *pgd, jitter(0.8)), perturb_wrong=False)
    made = attack_entry(name).make(EPS, 10)
    if name == "autoattack":
        return replace(made, components=autoattack_components(EPS, 10, iterations=2, square_queries=8))
    if name == "a3":
        return replace(made, components=adaptive_auto_attack(EPS, 10, rounds=(Round(1.0, 2, 2), *[Round(0.5, 2)] * 3)))
    return made


def run(
    name: str, model: nn.Module, progress: AttackProgress | None = None, count: int = IMAGES, seed: int = 5
) -> AttackResult:
    return run_attack(attack(name), model, *sample(count), seed=seed, batch_size=BATCH, progress=progress)


def interrupt(name: str, at: int, progress: AttackProgress) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(name, Interrupted(at), progress)


def stops(passes: int, count: int) -> Iterator[int]:
    """`count` of the forward passes 0 … passes − 1, first and last among them."""
    return (round(place * (passes - 1) / (count - 1)) for place in range(count))


@pytest.mark.parametrize(("name", "count"), [("draws", 8), ("pgd-3", 5), ("autoattack", 4), ("a3", 4), ("clean", 3)])
def test_resumed_is_uninterrupted(name: str, count: int, tmp_path: Path) -> None:
    whole = Interrupted()
    expected = run(name, whole)
    progress = AttackProgress(tmp_path, every_seconds=0.0)
    saved = []
    for at in stops(whole.passes, count):
        interrupt(name, at, progress)
        resumed = Interrupted()
        assert same(run(name, resumed, progress), expected)
        saved.append(whole.passes - resumed.passes)
        assert list(tmp_path.iterdir()) == []
    if name != "clean":
        # The later it was stopped, the less was left to do; in the end, hardly more than to judge what came out.
        assert saved == sorted(saved) and saved[0] == 0 and saved[-1] > 0.5 * whole.passes


@pytest.mark.parametrize(("name", "at"), [("draws", 20), ("a3", 80)])  # enough for a batch, for a restart of A3
def test_interrupted_again_and_again(name: str, at: int, tmp_path: Path) -> None:
    whole = Interrupted()
    expected = run(name, whole)
    progress = AttackProgress(tmp_path, every_seconds=0.0)
    for tries in range(1, 50):
        try:
            result = run(name, Interrupted(at), progress)
        except KeyboardInterrupt:
            continue
        assert same(result, expected) and tries > 2
        return
    pytest.fail("no headway")


KILLED = """
import os, signal, sys
import torch
from rcnas_env.attacks import AttackProgress, attack_entry, run_attack

class Killed(torch.nn.Module):
    passes = 0
    def forward(self, images):
        self.passes += 1
        if self.passes == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return images.flatten(1) @ WEIGHT.T

WEIGHT = torch.linspace(-1, 1, 3 * 16).sin().reshape(3, 16)
images = torch.linspace(0, 1, 20 * 16).reshape(20, 1, 4, 4)
labels = (images.flatten(1) @ WEIGHT.T).argmax(1)
run_attack(attack_entry("pgd-20").make(0.05, 3), Killed(), images, labels, seed=1, batch_size=5,
           progress=AttackProgress(sys.argv[1], every_seconds=0.0))
"""


def test_goes_on_after_a_killed_process(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True)
    assert killed.returncode < 0, killed.stderr.decode()
    assert len(list(tmp_path.glob("*.npz"))) == 1

    class Model(nn.Module):
        passes = 0

        def forward(self, images: Tensor) -> Tensor:
            self.passes += 1
            return images.flatten(1) @ weight.T

    weight = torch.linspace(-1, 1, 3 * 16).sin().reshape(3, 16)
    images = torch.linspace(0, 1, 20 * 16).reshape(20, 1, 4, 4)
    labels = (images.flatten(1) @ weight.T).argmax(1)
    results, passes = [], []
    for progress in (AttackProgress(tmp_path), None):
        model = Model()
        pgd = attack_entry("pgd-20").make(0.05, 3)
        results.append(run_attack(pgd, model, images, labels, seed=1, batch_size=5, progress=progress))
        passes.append(model.passes)
    assert same(*results) and passes == [4 + 3 * 20 + 4, 4 + 4 * 20 + 4]


@pytest.fixture
def interrupted(tmp_path: Path) -> tuple[AttackProgress, Path]:
    """The progress of the attack "draws", stopped half-way, and its file."""
    whole = Interrupted()
    run("draws", whole)
    progress = AttackProgress(tmp_path, every_seconds=0.0)
    interrupt("draws", whole.passes // 2, progress)
    (path,) = tmp_path.iterdir()
    return progress, path


def test_other_attacks_pass_the_file_by(interrupted: tuple[AttackProgress, Path]) -> None:
    progress, path = interrupted
    content = path.read_bytes()
    images, labels = sample(IMAGES)
    draws, model = attack("draws"), trained_digits()
    other_model = nn.Sequential(model, nn.Linear(10, 10, bias=False))
    other_model[1].weight.data.copy_(1.001 * torch.eye(10))
    other_images, other_labels = images.clone(), labels.clone()
    other_images[-1, 0, 4, 4] = 1 - other_images[-1, 0, 4, 4]
    other_labels[-1] = (other_labels[-1] + 1) % 10
    rest = (model, images, labels, 5, BATCH)
    others = [
        (draws, model, images, labels, 6, BATCH),
        (draws, model, images, labels, 5, BATCH + 1),
        (draws, model, images[:-1], labels[:-1], 5, BATCH),
        (draws, model, other_images, labels, 5, BATCH),
        (draws, model, images, other_labels, 5, BATCH),
        (draws, other_model, images, labels, 5, BATCH),
        (replace(draws, name="others"), model, images, labels, 5, BATCH),
        (replace(draws, eps=1.01 * EPS), model, images, labels, 5, BATCH),
        (replace(draws, components=draws.components[1:]), model, images, labels, 5, BATCH),
        (replace(draws, components=tuple(replace(c, settings="other") for c in draws.components)), *rest),
    ]
    for made, through, x, y, seed, size in others:
        fresh = run_attack(made, through, x, y, seed=seed, batch_size=size)
        assert same(run_attack(made, through, x, y, seed=seed, batch_size=size, progress=progress), fresh)
        assert path.read_bytes() == content
    # Under another name it is as much another's: the digest inside counts too.
    run_attack(replace(draws, name="others"), model, images, labels, seed=5, batch_size=BATCH, progress=progress)
    assert same(run("draws", model, progress), run("draws", model))


def test_a_renamed_file_is_no_progress(interrupted: tuple[AttackProgress, Path], tmp_path: Path) -> None:
    progress, path = interrupted
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run("draws", Interrupted(20), progress, seed=6)
    (other,) = tmp_path.iterdir()
    other.write_bytes(content)
    assert same(run("draws", trained_digits(), progress, seed=6), run("draws", trained_digits(), seed=6))


def test_damaged_files_start_over(interrupted: tuple[AttackProgress, Path]) -> None:
    progress, path = interrupted
    content = path.read_bytes()
    expected = run("draws", trained_digits())
    places = np.random.default_rng(0).integers(len(content), size=6)
    flipped = [content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :] for at in [0, *places]]
    shape = content.index(b"'shape': (", content.index(b"survivors.npy")) + len("'shape': (")
    assert content[shape : shape + 1] in b"23" and content[shape + 2 : shape + 3] == b","
    flipped.append(content[:shape] + b"1" + content[shape + 1 :])  # fewer survivors, all else as it was
    damaged = [b"", b"not an archive", content[:-1], content[: len(content) // 2], content[100:], *flipped]
    for each in damaged:
        path.write_bytes(each)
        assert same(run("draws", trained_digits(), progress), expected)


class Opened:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_runs_no_code_out_of_a_file(interrupted: tuple[AttackProgress, Path], tmp_path: Path) -> None:
    progress, path = interrupted
    with np.load(path) as archive:
        arrays = dict(archive)
    trap = tmp_path / "trap"
    np.savez(path, **{**arrays, "survivors": np.array([Opened(trap)], dtype=object)})
    assert same(run("draws", trained_digits(), progress), run("draws", trained_digits()))
    assert not trap.exists()
    np.load(Path(_trapped(tmp_path / "again.npz", trap)), allow_pickle=True)["survivors"]
    assert trap.exists()  # the trap does work


def _trapped(path: Path, trap: Path) -> Path:
    np.savez(path, survivors=np.array([Opened(trap)], dtype=object))
    return path


def test_writes_no_more_often_than_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, replace_file = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (writes.append(paths), replace_file(*paths)))
    run("draws", trained_digits(), AttackProgress(tmp_path / "seldom", every_seconds=3600.0))
    assert writes == [] and not (tmp_path / "seldom").exists()
    expected = run("draws", trained_digits(), AttackProgress(tmp_path / "always", every_seconds=0.0))
    survivors, batches = int(expected.clean_correct.sum()), 0
    model, images = trained_digits(), sample(IMAGES)
    counted = attack("draws")

    def counting(component: Component) -> Component:
        def perturb(m: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
            nonlocal batches
            batches += 1
            return component.perturb(m, x, y, generator)

        return replace(component, perturb=perturb)

    counted = replace(counted, components=tuple(map(counting, counted.components)))
    run_attack(counted, model, *images, seed=5, batch_size=BATCH)
    assert len(writes) == batches > survivors // BATCH
    assert list((tmp_path / "always").iterdir()) == []


def test_bad_arguments(tmp_path: Path) -> None:
    for seconds in (-1.0, float("nan"), "30"):
        with pytest.raises(ValueError, match="every_seconds"):
            AttackProgress(tmp_path, every_seconds=seconds)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder must be"):
        AttackProgress(tmp_path / "file")


def test_no_images(tmp_path: Path) -> None:
    result = run("draws", linear_model(torch.zeros(10, 64)), AttackProgress(tmp_path, every_seconds=0.0), count=0)
    assert len(result.robust) == 0 and list(tmp_path.iterdir()) == []
