"""Tiny-ImageNet: small copies in the official layout, as archive and as folder; what a broken copy is told by."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnas_env.data import DataCorruptError, DataUnavailableError, PublishedFile
from rcnas_env.data.tiny_imagenet import ARCHIVE, Counts, load_tiny_imagenet

CLASSES = ["n02124075", "n01443537", "n04067472"]  # as in wnids.txt, out of order
COUNTS = Counts(classes=3, training_per_class=4, validation=6)


def jpeg(level: int, mode: str = "RGB", size: int = 64) -> bytes:
    """An image of one grey level, or in colour one whose red stands out: JPEG keeps plain areas."""
    stream = BytesIO()
    plain = Image.new(mode, (size, size), level if mode == "L" else (level, 0, 0))
    plain.save(stream, "JPEG", quality=95)
    return stream.getvalue()


class SmallCopy:
    """The files by their paths, and the red levels of training and validation images in the order to expect."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"wnids.txt": ("\n".join(CLASSES) + "\n").encode(), "words.txt": b"x\ty\n"}
        self.training: list[tuple[int, int]] = []
        self.validation: list[tuple[int, int]] = []
        for label, name in enumerate(sorted(CLASSES)):
            self.files[f"train/{name}/{name}_boxes.txt"] = b"box\t0\t0\t63\t63\n"
            for index in range(COUNTS.training_per_class):
                level = 40 * label + 10 * index + 100
                mode = "L" if index == 2 else "RGB"
                self.files[f"train/{name}/images/{name}_{index}.JPEG"] = jpeg(level, mode)
                self.training.append((level, label))
        lines = []
        for index in range(COUNTS.validation):
            label = index % 3
            self.files[f"val/images/val_{index}.JPEG"] = jpeg(20 * index + 100)
            lines.append(f"val_{index}.JPEG\t{sorted(CLASSES)[label]}\t0\t32\t44\t62")
            self.validation.append((20 * index + 100, label))
        self.files["val/val_annotations.txt"] = ("\n".join(reversed(lines)) + "\n").encode()
        self.files["test/images/test_0.JPEG"] = jpeg(255)

    def unpacked(self, folder: Path) -> Path:
        for name, content in self.files.items():
            path = folder / "tiny-imagenet-200" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    def zipped(self, folder: Path) -> PublishedFile:
        path = folder / "tiny-imagenet-200.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in self.files.items():
                archive.writestr(f"tiny-imagenet-200/{name}", content)
        return replace(ARCHIVE, md5=hashlib.md5(path.read_bytes()).hexdigest())


@pytest.fixture
def copy() -> SmallCopy:
    return SmallCopy()


@pytest.mark.parametrize("packed", [True, False])
def test_a_copy_is_read(copy: SmallCopy, tmp_path: Path, packed: bool) -> None:
    archive = copy.zipped(tmp_path) if packed else ARCHIVE
    if not packed:
        copy.unpacked(tmp_path)
    training, test = load_tiny_imagenet(tmp_path, archive, COUNTS)
    for part, expected in ((training, copy.training), (test, copy.validation)):
        assert part.pixels.dtype == torch.uint8
        assert part.pixels.shape == (len(expected), 3, 64, 64)
        assert part.labels.tolist() == [label for _, label in expected]
        reds = part.pixels[:, 0].float().mean(dim=(1, 2))
        torch.testing.assert_close(reds, torch.tensor([float(level) for level, _ in expected]), atol=2.0, rtol=0)


def test_grey_images_become_three_equal_channels(copy: SmallCopy, tmp_path: Path) -> None:
    training, _ = load_tiny_imagenet(copy.unpacked(tmp_path), counts=COUNTS)
    grey = (training.pixels[:, 0] == training.pixels[:, 2]).flatten(1).all(dim=1)
    assert grey.tolist() == [False, False, True, False] * 3


def test_pixels_are_pillows(copy: SmallCopy, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    copy.files["val/images/val_0.JPEG"] = stream.getvalue()
    _, test = load_tiny_imagenet(copy.unpacked(tmp_path), counts=COUNTS)
    expected = np.asarray(Image.open(BytesIO(stream.getvalue()))).transpose(2, 0, 1)
    assert np.array_equal(test.pixels[0].numpy(), expected)


def test_a_truncated_archive_is_refused(copy: SmallCopy, tmp_path: Path) -> None:
    archive, path = copy.zipped(tmp_path), tmp_path / "tiny-imagenet-200.zip"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataCorruptError, match=f"{path} must have md5 {archive.md5}, has "):
        load_tiny_imagenet(tmp_path, archive, COUNTS)


def test_the_official_counts_are_insisted_on(copy: SmallCopy, tmp_path: Path) -> None:
    with pytest.raises(DataCorruptError, match=r"tiny-imagenet-200 must have 200 classes in wnids.txt, has 3"):
        load_tiny_imagenet(copy.unpacked(tmp_path))
    assert Counts() == Counts(classes=200, training_per_class=500, validation=10_000)


def drop(name: str) -> Callable[[dict[str, bytes]], object]:
    return lambda files: files.pop(name)


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda files: files.update({name: content})


FIRST = "train/n01443537/images/n01443537_0.JPEG"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("wnids.txt"), "must hold wnids.txt, which is missing"),
        (put("wnids.txt", b"\xff\xfe"), "wnids.txt must be a text file"),
        (put("wnids.txt", b"n02124075\nn01443537\n"), "must have 3 classes in wnids.txt, has 2"),
        (put("train/n09999999/images/a.JPEG", jpeg(9)), "n09999999/images/a.JPEG is of a class that wnids.txt does"),
        (drop(FIRST), "must have 4 images in train/n01443537/images, has 3"),
        (drop("val/val_annotations.txt"), "must hold val/val_annotations.txt, which is missing"),
        (put("val/val_annotations.txt", b"val_0.JPEG\tn09999999\t0\t0\t1\t1\n"), "line 1 of val/val_annotations.txt"),
        (put("val/val_annotations.txt", b"val_0.JPEG\tn02124075\n"), "val/images/val_1.JPEG must be both"),
        (drop("val/images/val_3.JPEG"), "val/images/val_3.JPEG must be both"),
        (put(FIRST, jpeg(9)[:300]), f"{FIRST} is not a readable image"),
        (put(FIRST, b""), f"{FIRST} is not a readable image"),
        (put(FIRST, jpeg(9, size=32)), rf"{FIRST} must be 64×64 pixels, is \(32, 32\)"),
    ],
)
def test_a_broken_copy_is_refused(
    copy: SmallCopy, tmp_path: Path, damage: Callable[[dict[str, bytes]], object], message: str
) -> None:
    damage(copy.files)
    with pytest.raises(DataCorruptError, match=message):
        load_tiny_imagenet(copy.unpacked(tmp_path), counts=COUNTS)


def test_both_missing_counts_of_validation_are_noticed(copy: SmallCopy, tmp_path: Path) -> None:
    with pytest.raises(DataCorruptError, match="must have 7 images in val/images, has 6"):
        load_tiny_imagenet(copy.unpacked(tmp_path), counts=replace(COUNTS, validation=7))


def test_absent_files_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError) as caught:
        load_tiny_imagenet(tmp_path)
    for part in (str(tmp_path / "tiny-imagenet-200.zip"), "90528d7ca1a48142e341f4ef8d21d0de", "rcnas_env.data tiny-"):
        assert part in str(caught.value)
