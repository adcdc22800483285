"""Tiny-ImageNet (Stanford CS231n): colour, 64×64, 200 classes, 100,000 training and 10,000 validation images.

The labels of its test images were never published: its validation images are the test set here, as is usual.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rcnas_env.data.dataset import DatasetEntry, register_dataset
from rcnas_env.data.decoding import decode_all, decode_rgb
from rcnas_env.data.image_set import ImageSet
from rcnas_env.data.storage import DataCorruptError, PublishedFile, data_folder, data_unavailable, require_intact

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "tiny-imagenet"
FOLDER = "tiny-imagenet-200"
"""What the archive unpacks to."""

SIZE = 64
EPSILON = 8 / 255

ARCHIVE = PublishedFile(
    f"{FOLDER}.zip", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)


@dataclass(frozen=True)
class Counts:
    """How many classes, training images a class and validation images a copy must have."""

    classes: int = 200
    training_per_class: int = 500
    validation: int = 10_000


@dataclass(frozen=True)
class _Tree:
    """The files below `tiny-imagenet-200/`, in the archive or unpacked.

    origin: for errors;
    names: paths of all files, relative, with "/" between folders;
    read: path → contents; raises OSError.
    """

    origin: str
    names: frozenset[str]
    read: Callable[[str], bytes]

    def contents(self, name: str) -> bytes:
        """What the file `name` holds."""
        try:
            return self.read(name)
        except OSError as error:  # a folder in its place, links in a circle
            raise DataCorruptError(f"{self.origin}: {name} cannot be read: {error.strerror}") from None

    def text(self, name: str) -> list[list[str]]:
        """The fields of each line of the text file `name`, which tabs or spaces separate."""
        if name not in self.names:
            raise DataCorruptError(f"{self.origin} must hold {name}, which is missing")
        try:
            lines = self.contents(name).decode("ascii").splitlines()
        except UnicodeDecodeError as error:
            raise DataCorruptError(f"{self.origin}: {name} must be a text file: {error}") from error
        return [line.split() for line in lines if line.strip()]


def load_tiny_imagenet(
    folder: Path | None = None, archive: PublishedFile = ARCHIVE, counts: Counts | None = None
) -> tuple[ImageSet, ImageSet]:
    """(training part, test part), out of the archive if it is there, else out of the folder that it unpacks to.

    Classes are numbered in the order of their WordNet ids, as torchvision's ImageFolder numbers them.

    Args:
        folder: where archive or unpacked folder lie; None for `data_folder()`.
        archive: its file and checksum.
        counts: what a copy must hold; None for the official counts. They are all that tells a broken unpacked
            folder, for which no checksum was ever published.

    Raises:
        DataUnavailableError: neither is there.
        DataCorruptError: the archive fails its checksum, the counts are others, or an image cannot be read.
    """
    folder, counts = data_folder() if folder is None else folder, counts or Counts()
    path = folder / archive.path
    if path.is_file():
        require_intact(path, archive.md5)
        with zipfile.ZipFile(path) as opened:
            prefix = f"{FOLDER}/"
            names = frozenset(name.removeprefix(prefix) for name in opened.namelist() if name.startswith(prefix))
            return _read(_Tree(str(path), names, lambda name: opened.read(prefix + name)), counts)
    root = folder / FOLDER
    if root.is_dir():
        names = frozenset(each.relative_to(root).as_posix() for each in root.rglob("*"))
        return _read(_Tree(str(root), names, lambda name: (root / name).read_bytes()), counts)
    raise data_unavailable(NAME, folder, [archive], f"The folder {root} that it unpacks to serves as well.")


def _read(tree: _Tree, counts: Counts) -> tuple[ImageSet, ImageSet]:
    classes = sorted({fields[0] for fields in tree.text("wnids.txt")})
    _require_count(tree, "classes in wnids.txt", len(classes), counts.classes)
    training = _training_images(tree, classes)
    found = Counter(label for _, label in training)
    for label, name in enumerate(classes):
        _require_count(tree, f"images in train/{name}/images", found[label], counts.training_per_class)
    validation = _validation_images(tree, classes)
    _require_count(tree, "images in val/images", len(validation), counts.validation)
    return _decode(tree, training), _decode(tree, validation)


def _training_images(tree: _Tree, classes: list[str]) -> list[tuple[str, int]]:
    """(path, label) of the training images, by class."""
    labels = {name: label for label, name in enumerate(classes)}
    found = []
    for path in sorted(tree.names):
        parts = path.split("/")
        if len(parts) == 4 and (parts[0], parts[2]) == ("train", "images") and path.endswith(".JPEG"):
            if parts[1] not in labels:
                raise DataCorruptError(f"{tree.origin}: {path} is of a class that wnids.txt does not list")
            found.append((path, labels[parts[1]]))
    return found


def _validation_images(tree: _Tree, classes: list[str]) -> list[tuple[str, int]]:
    """(path, label) of the validation images; `val_annotations.txt` has file, class and bounding box a line."""
    labels = {name: label for label, name in enumerate(classes)}
    named: dict[str, int] = {}
    for line, fields in enumerate(tree.text("val/val_annotations.txt"), start=1):
        if len(fields) < 2 or fields[1] not in labels:
            raise DataCorruptError(f"{tree.origin}: line {line} of val/val_annotations.txt names no known class")
        named[f"val/images/{fields[0]}"] = labels[fields[1]]
    present = {name for name in tree.names if name.startswith("val/images/") and name.endswith(".JPEG")}
    odd = sorted(present ^ named.keys())
    if odd:
        raise DataCorruptError(f"{tree.origin}: {odd[0]} must be both a file and in val/val_annotations.txt, is not")
    return sorted(named.items())


def _require_count(tree: _Tree, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise DataCorruptError(f"{tree.origin} must have {wanted} {what}, has {found}: get the data set again")


def _decode(tree: _Tree, images: list[tuple[str, int]]) -> ImageSet:
    def decode(index: int) -> Image:
        """Image number `index`, checked to be of the data set's size."""
        path = images[index][0]
        image = decode_rgb(tree.contents(path), f"{tree.origin}: {path}")
        if image.size != (SIZE, SIZE):
            raise DataCorruptError(f"{tree.origin}: {path} must be {SIZE}×{SIZE} pixels, is {image.size}")
        return image

    labels = torch.tensor([label for _, label in images], dtype=torch.int64)
    return ImageSet(decode_all(len(images), SIZE, decode), labels)


register_dataset(
    DatasetEntry(
        name=NAME,
        input=(3, SIZE, SIZE),
        classes=200,
        epsilon=EPSILON,
        training_images=100_000,
        load=load_tiny_imagenet,
        augmentation="crop-flip",
        crop_padding=8,
        files=(ARCHIVE,),
    )
)
