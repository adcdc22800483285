"""Delivered students: what is written is what was trained, loads to the same logits, and says so when it does not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rcnas_env
from rcnas_env.architecture import Network, NetworkSpec, StageSpec, named_network
from rcnas_env.cost import cost
from rcnas_env.data import load_splits
from rcnas_env.delivery import (
    DeliveryError,
    Measurement,
    MismatchError,
    Preprocessing,
    StudentCard,
    load_student,
    read_card,
    write_student,
)
from rcnas_env.delivery.graph_formats import GRAPH_FORMATS, TOLERANCE, plain_twin, require_equal
from rcnas_env.evaluation.work import load_network, train
from rcnas_env.networks.convolution import Convolution
from tests import tiny

TEST = load_splits("digits", 30).test
IMAGES = TEST.images()[:40]
MIXED = NetworkSpec(
    (StageSpec(1, 16, robust=True), StageSpec(1, 16, downsample=True), StageSpec(1, 16, downsample=True)),
    input=(1, 8, 8),
)
CELLS = named_network("RACL-1@4", (1, 8, 8), 10)


def card_of(spec: Network, **fields: Any) -> StudentCard:
    measured = (Measurement.of("clean", 0.2, 240, 0.9), Measurement.of("autoattack", 0.2, 24, 0.25))
    return StudentCard(spec, "digits", Preprocessing((1, 8, 8), 16), measured, **fields)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network really trained, as it is measured."""
    job = tiny.job(MIXED)
    report, weights = train(job)
    assert not report["diverged"]
    return load_network(job, weights)


@pytest.fixture
def delivered(trained: nn.Module, tmp_path: Path) -> Path:
    return write_student(trained, card_of(MIXED), tmp_path / "student", IMAGES)


# -- weights ---------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_trained(trained: nn.Module, delivered: Path) -> None:
    student = rcnas_env.load_student(delivered)
    assert not student.training and not any(module.training for module in student.modules())
    assert (student.spec, student.card.network, student.card.dataset) == (MIXED, MIXED, "digits")
    theirs = trained.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in student.state_dict().items())
    images = TEST.images().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(student(images), trained(images))
        pixels = student.card.preprocessing(TEST.pixels)
    assert torch.equal(pixels, TEST.images())
    assert {path.name for path in delivered.iterdir()} == {"model.safetensors", "student.json", "README.md"}
    assert delivered.stat().st_mode & 0o777 == 0o755
    assert not list(delivered.parent.glob(".*"))


def test_networks_of_cells_are_delivered_too(tmp_path: Path) -> None:
    network = tiny.built(CELLS).eval()
    student = load_student(write_student(network, card_of(CELLS), tmp_path / "cells", IMAGES) / "student.json")
    assert student.spec == CELLS
    with torch.no_grad():  # in float64: the two lie differently in memory, and sum up in another order
        assert torch.allclose(student.double()(IMAGES.double()), network.double()(IMAGES.double()))


def test_the_network_that_is_delivered_stays_as_it_is(trained: nn.Module, tmp_path: Path) -> None:
    network = tiny.built(MIXED).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stream = torch.get_rng_state()
    write_student(network, card_of(MIXED), tmp_path / "student", IMAGES)
    assert network.training and torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert any(isinstance(module, Convolution) for module in network.modules())


def test_the_package_gives_the_loader_and_nothing_else_lazily() -> None:
    assert rcnas_env.load_student is load_student
    with pytest.raises(AttributeError, match="has no attribute 'load_studnet'"):
        rcnas_env.load_studnet  # noqa: B018


# -- the card --------------------------------------------------------------------------------------------


def test_a_card_goes_to_json_and_back(delivered: Path) -> None:
    content = (delivered / "student.json").read_text(encoding="utf-8")
    card, value = read_card(delivered), json.loads(content)
    assert card.to_json() == content and StudentCard.from_dict(value) == card
    assert (value["params"], value["macs"]) == (cost(MIXED).params, cost(MIXED).macs)
    weights = (delivered / "model.safetensors").read_bytes()
    assert card.files == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert card.measurements[1].standard_error == pytest.approx((0.25 * 0.75 / 24) ** 0.5)


def test_the_model_card_says_what_was_measured(delivered: Path) -> None:
    text = (delivered / "README.md").read_text(encoding="utf-8")
    assert "| clean | – | – | 240 of test | 90.0 % | 1.9 % |" in text
    assert "| autoattack | 0.2 | white box | 24 of test | 25.0 % | 8.8 % |" in text
    assert f"{cost(MIXED).params:,} parameters" in text and "pixels / 16" in text
    assert read_card(delivered).files["model.safetensors"] in text


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(2, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.full((2, 1, 8, 8), 17, dtype=torch.uint8)],
    ids=["floats", "one image", "too bright"],
)
def test_preprocessing_takes_the_data_sets_own_pixels_only(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="pixels must be"):
        Preprocessing((1, 8, 8), 16)(pixels)


def test_a_card_is_of_one_network_and_its_images() -> None:
    with pytest.raises(ValueError, match=r"card.preprocessing.input must be the network's \(1, 8, 8\)"):
        replace(card_of(MIXED), preprocessing=Preprocessing((3, 32, 32)))
    with pytest.raises(ValueError, match="unknown attack"):
        Measurement.of("pdg-20", 0.2, 10, 0.5)
    with pytest.raises(ValueError, match=r"measurement.accuracy must be a finite number, at least 0 and at most 1"):
        Measurement.of("clean", 0.2, 10, float("nan"))
    with pytest.raises(ValueError, match=r"card.measurements must be one Measurement or more"):
        replace(card_of(MIXED), measurements=())


# -- damage ----------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Damage done to student.json."""

    def damage(folder: Path) -> None:
        value = json.loads((folder / "student.json").read_text(encoding="utf-8"))
        change(value)
        (folder / "student.json").write_text(json.dumps(value), encoding="utf-8")

    return damage


def another_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def wider(value: dict[str, Any]) -> None:
    value["network"]["stages"][2]["planes"] = 32


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no card": (lambda folder: (folder / "student.json").unlink(), "student.json cannot be read: No such file"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors cannot be read: No such"),
    "weights altered": (another_bit, "model.safetensors does not fit its checksum"),
    "no JSON": (lambda folder: (folder / "student.json").write_text("{"), "student.json is no JSON"),
    "later format": (edited(lambda value: value.update(format=2)), "format must be 1, got 2"),
    "normalised": (
        edited(lambda value: value["preprocessing"].update(normalisation=[0.5, 0.5])),
        "preprocessing.normalisation must be None in format 1",
    ),
    "another network": (edited(wider), "model.safetensors does not fit the network"),
    "field missing": (edited(lambda value: value.pop("commit")), "missing 'commit'"),
    "no checksum": (edited(lambda value: value["files"].clear()), "does not fit its checksum"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_student_is_not_loaded(name: str, delivered: Path) -> None:
    damage, said = DAMAGES[name]
    load_student(delivered)
    damage(delivered)
    with pytest.raises(DeliveryError, match=said) as error:
        load_student(delivered)
    assert str(delivered) in str(error.value)


def test_a_file_that_gives_other_outputs_is_not_delivered(delivered: Path) -> None:
    """The network does more than its weights say; the student that was there stays, and nothing else is left."""
    network = tiny.built(MIXED).eval()
    network.register_forward_hook(lambda module, images, logits: logits + 1e-3)
    before = (delivered / "student.json").read_bytes()
    for folder in (delivered, delivered.parent / "new"):
        with pytest.raises(MismatchError, match=r"model.safetensors's logits differ from the network's by 0.001"):
            write_student(network, card_of(MIXED), folder, IMAGES)
    assert [path.name for path in delivered.parent.iterdir()] == [delivered.name]
    assert (delivered / "student.json").read_bytes() == before


def test_a_student_replaces_a_student_and_no_other_folder(trained: nn.Module, delivered: Path) -> None:
    write_student(trained, card_of(MIXED, commit="later"), delivered, IMAGES)
    assert read_card(delivered).commit == "later"
    other = delivered.parent / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(ValueError, match="folder must be new, empty or a delivered student"):
        write_student(trained, card_of(MIXED), other, IMAGES)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_a_student_stays_where_another_cannot_be_put(
    trained: nn.Module, delivered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = (delivered / "student.json").read_bytes(), os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name.startswith(".writing-"):
            raise OSError(errno.ENOSPC, "no room")
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no room"):
        write_student(trained, card_of(MIXED, commit="later"), delivered, IMAGES)
    assert (delivered / "student.json").read_bytes() == before
    assert [path.name for path in delivered.parent.iterdir()] == [delivered.name]


def test_bad_input_is_told_before_anything_is_written(trained: nn.Module, tmp_path: Path) -> None:
    for images in (IMAGES[:1], IMAGES[:, :, :4]):
        with pytest.raises(ValueError, match=r"images must be \(N, 1, 8, 8\) with N of at least 2"):
            write_student(trained, card_of(MIXED), tmp_path / "student", images)
    with pytest.raises(ValueError, match=r"images must be float32 in \[0, 1\], got torch.float64"):
        write_student(trained, card_of(MIXED), tmp_path / "student", IMAGES.double())
    with pytest.raises(ValueError, match="format must be one of 'safetensors', 'onnx', 'torchexport', got 'pickle'"):
        write_student(trained, card_of(MIXED), tmp_path / "student", IMAGES, ("pickle",))
    assert not list(tmp_path.iterdir())


# -- graphs ----------------------------------------------------------------------------------------------


def assert_graphs_agree(network: nn.Module, spec: Network, folder: Path) -> None:
    """Both graphs are written, are one file each, and give the network's logits for any number of images."""
    write_student(network, card_of(spec), folder, IMAGES, tuple(GRAPH_FORMATS))
    files = {graph.file for graph in GRAPH_FORMATS.values()}
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "student.json", "README.md", *files}
    assert set(read_card(folder).files) == {"model.safetensors", *files}
    student = load_student(folder)
    for graph in GRAPH_FORMATS.values():
        run = graph.write(plain_twin(network), IMAGES[:2].contiguous(), folder / graph.file)
        for count in (1, 2, 7):
            with torch.no_grad():
                expected = student(TEST.images()[:count])
            found = run(TEST.images()[:count])
            assert found.shape == (count, 10) and (found - expected).abs().max() <= TOLERANCE


def test_graphs_give_the_networks_logits_for_any_number_of_images(tmp_path: Path) -> None:
    assert_graphs_agree(tiny.built().eval(), tiny.STUDENT, tmp_path / "student")


@pytest.mark.slow
@pytest.mark.parametrize("spec", [MIXED, CELLS], ids=["robust blocks", "cells"])
def test_graphs_of_other_blocks_do_too(spec: Network, tmp_path: Path) -> None:
    assert_graphs_agree(tiny.built(spec).eval(), spec, tmp_path / "student")


def test_a_plain_twin_is_the_same_map_without_our_convolutions(trained: nn.Module) -> None:
    twin = plain_twin(trained)
    assert not any(isinstance(module, Convolution) for module in twin.modules())
    assert sum(isinstance(module, nn.Conv2d) for module in twin.modules()) == sum(
        isinstance(module, nn.Conv2d) for module in trained.modules()
    )
    with torch.no_grad():
        assert torch.allclose(twin(IMAGES), trained(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([[1.0, 0.0], [0.3, 0.2]], "differ from the network's by 0.3"),
        ([[1.0, float("nan")], [0.5, 0.5]], "differ from the network's by nan"),
        ([[1.0, 0.0], [0.49998, 0.5]], "puts 1 of 2 images into another class"),
        ([[1.0, 0.0]], r"gives logits \(1, 2\), the network \(2, 2\)"),
    ],
)
def test_outputs_that_differ_are_told(found: list[list[float]], said: str) -> None:
    expected = torch.tensor([[1.0, 0.0], [0.5, 0.49999]])
    assert require_equal("x", expected, expected + 1e-5, TOLERANCE) == pytest.approx(1e-5, rel=0.1)
    with pytest.raises(MismatchError, match=said):
        require_equal("x", expected, torch.tensor(found), TOLERANCE)
