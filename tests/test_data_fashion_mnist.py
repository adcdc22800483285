"""Fashion-MNIST: small idx files in the official format, and the real ones where they are."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import rcnas_env.data.fashion_mnist as module
from rcnas_env.data import DataCorruptError, DataUnavailableError, ImageSet, dataset_entry, load_splits
from rcnas_env.data.fashion_mnist import (
    CONTENT_SHA256,
    DEBIAN_FOLDER,
    FASHION_MNIST_FILES,
    FOLDER,
    half_size,
    load_fashion_mnist,
)

SIZES = {"train": 12, "t10k": 5}


class SmallFiles:
    """The four files with few images: contents, checksums, pixels and labels."""

    def __init__(self) -> None:
        draws = np.random.default_rng(0)
        self.contents: dict[str, bytes] = {}
        self.parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for part, count in SIZES.items():
            pixels = draws.integers(256, size=(count, 28, 28), dtype=np.uint8)
            labels = draws.integers(10, size=count, dtype=np.uint8)
            # idx: two zero bytes, 8 for uint8, the number of dimensions, each dimension as a big-endian integer
            self.contents[f"{part}-images-idx3-ubyte"] = struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28) + bytes(pixels)
            self.contents[f"{part}-labels-idx1-ubyte"] = struct.pack(">4Bi", 0, 0, 8, 1, count) + bytes(labels)
            self.parts.append((torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long()))
        self.sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in self.contents.items()}

    def write(self, folder: Path, packed: bool) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
        return folder


@pytest.fixture
def small() -> SmallFiles:
    return SmallFiles()


def assert_are(loaded: tuple[ImageSet, ImageSet], small: SmallFiles) -> None:
    for part, (pixels, labels) in zip(loaded, small.parts, strict=True):
        assert (part.pixels.dtype, part.labels.dtype, part.scale) == (torch.uint8, torch.int64, 255)
        assert torch.equal(part.pixels, pixels)
        assert torch.equal(part.labels, labels)


@pytest.mark.parametrize("packed", [True, False])
def test_files_are_read_packed_and_unpacked(small: SmallFiles, tmp_path: Path, packed: bool) -> None:
    assert_are(load_fashion_mnist([small.write(tmp_path, packed)], small.sha256), small)
    assert len(list(tmp_path.iterdir())) == 4  # nothing is left behind


def test_the_first_folder_that_has_all_is_read(small: SmallFiles, tmp_path: Path) -> None:
    incomplete = small.write(tmp_path / "incomplete", packed=True)
    (incomplete / "t10k-labels-idx1-ubyte.gz").unlink()
    complete = small.write(tmp_path / "complete", packed=True)
    assert_are(load_fashion_mnist([incomplete, complete], small.sha256), small)
    with pytest.raises(DataUnavailableError):
        load_fashion_mnist([incomplete], small.sha256)


def test_the_data_folder_comes_before_debians(
    small: SmallFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(module, "DEBIAN_FOLDER", small.write(tmp_path / "debian", packed=True))
    assert_are(load_fashion_mnist(sha256=small.sha256), small)
    own = small.write(tmp_path / "data" / FOLDER, packed=True)
    (own / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataCorruptError, match=str(own)):
        load_fashion_mnist(sha256=small.sha256)


def test_half_the_size_is_the_mean_of_four_pixels(small: SmallFiles) -> None:
    pixels, labels = small.parts[0]
    halved = half_size(ImageSet(pixels, labels))
    means = torch.nn.functional.avg_pool2d(pixels.double(), 2)
    assert halved.pixels.dtype == torch.uint8 and halved.scale == 255 and torch.equal(halved.labels, labels)
    assert torch.equal(halved.pixels, (means + 0.5).floor().to(torch.uint8)) and (means % 1 == 0.5).any()
    assert half_size(ImageSet(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), labels[:1])).pixels.item() == 255


@pytest.mark.parametrize("name", list(CONTENT_SHA256))
def test_truncated_and_altered_files_are_refused(small: SmallFiles, tmp_path: Path, name: str) -> None:
    small.write(tmp_path, packed=True)
    path, content = tmp_path / f"{name}.gz", small.contents[name]
    path.write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(DataCorruptError, match=f"{path} is no whole .gz file"):
        load_fashion_mnist([tmp_path], small.sha256)
    path.write_bytes(content)
    with pytest.raises(DataCorruptError, match=f"{path} is no whole .gz file"):
        load_fashion_mnist([tmp_path], small.sha256)
    path.write_bytes(gzip.compress(content[:-1] + bytes([content[-1] ^ 1])))
    with pytest.raises(DataCorruptError, match=f"{path} must have contents with sha256 {small.sha256[name]}, has "):
        load_fashion_mnist([tmp_path], small.sha256)


def test_absent_files_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path))
    with pytest.raises(DataUnavailableError) as caught:
        load_fashion_mnist([tmp_path])
    for file in FASHION_MNIST_FILES:
        assert f"{tmp_path / file.path} (md5 {file.md5}) from {file.url}" in str(caught.value)
    assert "-m rcnas_env.data fashion-mnist" in str(caught.value)
    assert "dataset-fashion-mnist" in str(caught.value)


def test_the_checksums_are_torchvisions() -> None:
    reader = torchvision.datasets.FashionMNIST
    assert [(Path(file.path).name, file.md5) for file in FASHION_MNIST_FILES] == reader.resources
    assert [file.url for file in FASHION_MNIST_FILES] == [reader.mirrors[0] + name for name, _ in reader.resources]
    assert [f"{name}.gz" for name in CONTENT_SHA256] == [name for name, _ in reader.resources]


@pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs the Debian package dataset-fashion-mnist (apt install it)"
)
def test_the_real_images_are_what_is_known_of_them() -> None:
    training, test = load_fashion_mnist([DEBIAN_FOLDER])
    assert (len(training), len(test)) == (60_000, 10_000)
    assert torch.bincount(training.labels).tolist() == [6_000] * 10
    assert torch.bincount(test.labels).tolist() == [1_000] * 10
    counts = torch.bincount(training.pixels.flatten(), minlength=256).double()
    levels = torch.arange(256).double() / 255
    mean = (counts @ levels) / counts.sum()
    std = ((counts @ (levels - mean) ** 2) / counts.sum()).sqrt()
    assert (round(mean.item(), 4), round(std.item(), 4)) == (0.2860, 0.3530)
    assert tuple(training.pixels.shape[1:]) == dataset_entry("fashion-mnist").input


@pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs the Debian package dataset-fashion-mnist (apt install it)"
)
def test_the_real_images_are_split_in_balance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path))
    splits, halved = load_splits("fashion-mnist", 250), load_splits("fashion-mnist-14", 250)
    assert torch.equal(halved.eval.pixels, half_size(splits.eval).pixels)  # the same images
    assert torch.equal(halved.test.labels, splits.test.labels)
    assert torch.bincount(splits.eval.labels).tolist() == [25] * 10
    assert torch.bincount(splits.train.labels).tolist() == [5_975] * 10
    assert len(splits.test) == 10_000
