"""Every data set: entries, absent files. Digits: disjoint, class-balanced, the same every time. Splitting; seeds."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import rcnas_env.data.dataset as dataset_module
import rcnas_env.data.fashion_mnist as fashion_mnist_module
from rcnas_env.architecture import named_network
from rcnas_env.cost import cost
from rcnas_env.data import (
    AUGMENTATIONS,
    DatasetEntry,
    DataSplits,
    DataUnavailableError,
    ImageSet,
    dataset_entry,
    known_datasets,
    load_splits,
    register_dataset,
)
from rcnas_env.data.dataset import validate_eval_size
from rcnas_env.data.splitting import take_per_class
from rcnas_env.registry import Registry, UnknownNameError
from rcnas_env.seeding import derive_seed

# name: (input, classes, training images, radius, augmentation, border of the crops)
FACTS = {
    "cifar10": ((3, 32, 32), 10, 50_000, 8 / 255, "crop-flip", 4),
    "cifar100": ((3, 32, 32), 100, 50_000, 8 / 255, "crop-flip", 4),
    "digits": ((1, 8, 8), 10, 1_557, 0.2, "none", 4),
    "fashion-mnist": ((1, 28, 28), 10, 60_000, 0.1, "none", 4),
    "fashion-mnist-14": ((1, 14, 14), 10, 60_000, 0.1, "none", 4),
    "tiny-imagenet": ((3, 64, 64), 200, 100_000, 8 / 255, "crop-flip", 8),
}
PUBLISHED = [name for name in known_datasets() if dataset_entry(name).files]


@pytest.mark.parametrize("name", known_datasets())
def test_entries_are_consistent(name: str) -> None:
    entry = dataset_entry(name)
    assert entry.name == name
    assert 0 < entry.epsilon < 1
    assert entry.classes >= 2
    assert entry.training_images >= 2 * entry.classes
    assert entry.augmentation in AUGMENTATIONS
    assert entry.crop_padding < min(entry.input[1:])
    assert entry.fingerprint == ""  # the name says it all
    assert cost(named_network("WRN-10-1", entry.input, entry.classes)).macs > 0
    for file in entry.files:
        assert file.url.endswith(file.path.rsplit("/", 1)[-1])
        assert (len(file.md5), set(file.md5) <= set("0123456789abcdef")) == (32, True)


def test_entries_say_what_is_known_of_the_data_sets() -> None:
    assert set(FACTS) <= set(known_datasets())
    for name, facts in FACTS.items():
        e = dataset_entry(name)
        assert (e.input, e.classes, e.training_images, e.epsilon, e.augmentation, e.crop_padding) == facts


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with nothing in it, on a machine without Debian's packages."""
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist_module, "DEBIAN_FOLDER", tmp_path / "debian")
    dataset_module._load_splits.cache_clear()
    return tmp_path / "data"


@pytest.mark.parametrize("name", PUBLISHED)
def test_absent_files_are_asked_for(name: str, empty: Path) -> None:
    with pytest.raises(DataUnavailableError) as caught:
        load_splits(name, 200)
    assert f"`python -m rcnas_env.data {name}` downloads it into {empty}" in str(caught.value)
    for file in dataset_entry(name).files:
        assert f"{empty / file.path} (md5 {file.md5}) from {file.url}" in str(caught.value)
    assert not empty.exists()  # looking for files makes none


def test_importing_the_data_sets_imports_no_reader() -> None:
    code = "import sys, rcnas_env.data; print({'torchvision', 'PIL', 'sklearn'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def rows(images: ImageSet) -> list[bytes]:
    """Each image with its label as bytes; all 1,797 digits differ, so that this identifies them."""
    pixels = images.pixels.flatten(1).numpy()
    return [row.tobytes() + bytes([label]) for row, label in zip(pixels, images.labels.tolist(), strict=True)]


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_splits("digits")


def test_digits_are_split_without_loss_or_overlap(digits: DataSplits) -> None:
    parts = [rows(digits.train), rows(digits.eval), rows(digits.test)]
    assert [len(part) for part in parts] == [1_301, 256, 240]
    bunch = load_digits()
    original = zip(bunch.images.astype(np.uint8).reshape(-1, 64), bunch.target, strict=True)
    whole = [row.tobytes() + bytes([label]) for row, label in original]
    assert len(set(whole)) == 1_797
    assert sorted(sum(parts, [])) == sorted(whole)  # with the line above: no image is in two parts


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("rcnas_env.data.digits")
    direct = module._rows()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(module._rows(), direct)


def test_digits_are_class_balanced(digits: DataSplits) -> None:
    assert torch.bincount(digits.test.labels).tolist() == [24] * 10
    assert set(torch.bincount(digits.eval.labels).tolist()) == {25, 26}
    assert torch.bincount(digits.train.labels).min() >= 100


def test_digits_are_what_is_said_of_them(digits: DataSplits) -> None:
    entry = dataset_entry("digits")
    assert "digits" in known_datasets()
    assert len(digits.train) + len(digits.eval) == entry.training_images
    for part in (digits.train, digits.eval, digits.test):
        images = part.images()
        assert images.dtype == torch.float32
        assert images.shape == (len(part), *entry.input)
        assert (images.min(), images.max()) == (0.0, 1.0)
        assert torch.equal(images * 16, part.pixels.float())
        assert (part.pixels.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert set(part.labels.tolist()) == set(range(entry.classes))


def test_digits_are_the_same_every_time(digits: DataSplits) -> None:
    again = dataset_module._load_splits.__wrapped__("digits", 256, "")  # past the cache
    assert again.train is not digits.train
    for one, other in ((digits.train, again.train), (digits.eval, again.eval), (digits.test, again.test)):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


def test_the_test_set_does_not_depend_on_the_eval_set(digits: DataSplits) -> None:
    smaller = load_splits("digits", 20)
    assert rows(smaller.test) == rows(digits.test)
    assert torch.bincount(smaller.eval.labels).tolist() == [2] * 10
    assert len(smaller.train) == 1_537


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of 3 classes and 30 training images that cannot be loaded."""

    def load() -> NoReturn:
        raise AssertionError("loaded")

    monkeypatch.setattr(dataset_module, "_DATASETS", Registry("dataset"))
    register_dataset(DatasetEntry("unloadable", input=(1, 4, 4), classes=3, epsilon=0.1, training_images=30, load=load))
    return "unloadable"


@pytest.mark.parametrize("n_eval", [0, 2, 28, 31, 10**9, -1, 5.0, "5", None, True])
def test_an_eval_set_that_does_not_fit_is_refused_before_loading(unloadable: str, n_eval: object) -> None:
    message = r"n_eval \(eval images split off unloadable's 30 training images\) must be an integer from 3 to 27, got "
    with pytest.raises(ValueError, match=message):
        load_splits(unloadable, n_eval)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="loaded"):  # what fits does get loaded
        load_splits(unloadable, 27)
    assert validate_eval_size(unloadable, 3) == 3


@pytest.mark.parametrize("name", ["digit:x", "", ":", None, ["digits"]])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset .*; known: cifar10, "):
        dataset_entry(name)


def test_unknown_data_sets_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown dataset 'digit'; known: .*digits.* Did you mean 'digits'\?"):
        load_splits("digit")


def test_data_sets_are_registered_once() -> None:
    with pytest.raises(ValueError, match="dataset 'digits' is registered already"):
        register_dataset(dataset_entry("digits"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("augmentation", "flip", "dataset.augmentation must be one of 'none', 'crop-flip', got 'flip'"),
        ("crop_padding", -1, "dataset.crop_padding must be an integer of at least 0, got -1"),
    ],
)
def test_entries_are_checked(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(dataset_entry("digits"), **{field: value})


DECLARED: dict[str, Any] = {"input": (1, 4, 4), "classes": 3, "training_images": 30}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"training_images": 31}, "'loaded' must have 31 training images, loaded 30"),
        ({"input": (3, 4, 4)}, r"'loaded' must have images of shape \(3, 4, 4\), loaded \(1, 4, 4\)"),
        ({"classes": 2}, "'loaded' must have labels from 0 to 1, loaded 0 to 2"),
        ({}, None),
    ],
)
def test_what_is_loaded_must_be_what_was_declared(
    wrong: dict[str, Any], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = ImageSet(torch.zeros(30, 1, 4, 4, dtype=torch.uint8), torch.arange(30) % 3)
    monkeypatch.setattr(dataset_module, "_DATASETS", Registry("dataset"))
    dataset_module._load_splits.cache_clear()
    register_dataset(DatasetEntry("loaded", epsilon=0.1, load=lambda: (part, part), **{**DECLARED, **wrong}))
    if message is None:
        assert len(load_splits("loaded", 6).train) == 24
    else:
        with pytest.raises(ValueError, match=message):
            load_splits("loaded", 6)
    dataset_module._load_splits.cache_clear()


@pytest.mark.parametrize(
    ("part", "types"),
    [
        (ImageSet(torch.zeros(30, 1, 4, 4), torch.arange(30) % 3), "float32.*int64"),
        (ImageSet(torch.zeros(30, 1, 4, 4, dtype=torch.uint8), (torch.arange(30) % 3).int()), "uint8.*int32"),
    ],
)
def test_pixels_and_labels_of_other_types_are_refused(
    part: ImageSet, types: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "_DATASETS", Registry("dataset"))
    register_dataset(DatasetEntry("typed", epsilon=0.1, load=lambda: (part, part), **DECLARED))
    with pytest.raises(ValueError, match=f"'typed' must have uint8 pixels and int64 labels, loaded .*{types}"):
        load_splits("typed", 6)


def test_images_leave_the_recorded_pixels_alone() -> None:
    images = ImageSet(torch.tensor([[[[0, 51], [255, 102]]]], dtype=torch.uint8), torch.tensor([1]))
    expected = torch.tensor([[[[0.0, 0.2], [1.0, 0.4]]]])
    for _ in range(2):
        torch.testing.assert_close(images.images(), expected)


def test_subsets_keep_labels_and_scale() -> None:
    pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    chosen = ImageSet(pixels, torch.arange(4) * 10, scale=16).subset(torch.tensor([3, 1]))
    assert (chosen.pixels.flatten().tolist(), chosen.labels.tolist(), chosen.scale) == ([3, 1], [30, 10], 16)
    assert len(chosen) == 2


@given(st.data())
def test_splits_are_whole_disjoint_sorted_and_balanced(data: st.DataObject) -> None:
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 5), max_size=60)), dtype=torch.int64)
    count = data.draw(st.integers(0, len(labels)))
    taken, rest = take_per_class(labels, count, seed=data.draw(st.integers(0, 2**31)))
    assert len(taken) == count
    assert (taken.dtype, rest.dtype) == (torch.int64, torch.int64)
    assert sorted([*taken.tolist(), *rest.tolist()]) == list(range(len(labels)))
    assert taken.tolist() == sorted(taken.tolist())
    assert rest.tolist() == sorted(rest.tolist())
    sizes, chosen = Counter(labels.tolist()), Counter(labels[taken].tolist())
    unspent = [chosen[label] for label in sizes if chosen[label] < sizes[label]]
    assert all(n >= max(chosen.values(), default=0) - 1 for n in unspent)  # only a class that has run out falls behind


def test_more_than_there_are_cannot_be_taken() -> None:
    with pytest.raises(ValueError, match=r"count \(of images to take\) must be an integer from 0 to 3, got 4"):
        take_per_class(torch.arange(3), 4, 0)


def test_splits_depend_on_the_seed_alone() -> None:
    labels = torch.arange(100) % 4
    before = torch.random.get_rng_state()
    first = take_per_class(labels, 40, seed=1)[0]
    assert torch.equal(first, take_per_class(labels, 40, seed=1)[0])
    assert not torch.equal(first, take_per_class(labels, 40, seed=2)[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_derived_seeds_never_change() -> None:
    # sha256sum of "0/initial weights" begins with these 16 digits; stored results were made with these streams
    assert derive_seed(0, "initial weights") == 0x1F4AB5C215DEDB5E // 2
    assert derive_seed(7, "attack", 3) == derive_seed(7, "attack", "3")


@given(st.integers(0, 2**63), st.text(), st.text())
def test_derived_seeds_fit_and_differ(seed: int, one: str, other: str) -> None:
    assert 0 <= derive_seed(seed, one) < 2**63
    assert (derive_seed(seed, one) == derive_seed(seed, other)) == (one == other)
    assert derive_seed(seed, one) != derive_seed(seed + 1, one)
