"""Anybody's images: the data set `imagefolder:PATH` or `imagefolder:PATH@SIZE`.

    PATH/train/CLASS/IMAGE      the training part; every folder in train is a class
    PATH/test/CLASS/IMAGE       the test part, of the same classes; without PATH/test it is a fixed sixth of train

An image is a file that ends in one of SUFFIXES; other files, and names that begin with a dot, are passed over. The
central square of each image is resized to SIZE × SIZE pixels, RGB.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rcnas_env.data.dataset import DatasetEntry, register_dataset_family
from rcnas_env.data.decoding import centre_square, decode_all, decode_rgb
from rcnas_env.data.image_set import ImageSet
from rcnas_env.data.splitting import SPLIT_SEED, share_of_class, take_share
from rcnas_env.data.storage import DataCorruptError, DataUnavailableError
from rcnas_env.validation import require_integer

if TYPE_CHECKING:
    from PIL.Image import Image

FAMILY = "imagefolder"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
DEFAULT_SIZE = 32
MIN_SIZE, MAX_SIZE = 8, 256
EPSILON = 8 / 255
TEST_SHARE = 6
"""Without PATH/test, one image in so many is a test image: as CIFAR-10's 10,000 of 60,000."""


@dataclass(frozen=True)
class Listing:
    """The images below a folder, not opened yet.

    classes: names, sorted; a label is an index into them.
    training, test: (path, label) of each image, sorted; `test` is None where there is no folder of that name.
    fingerprint: SHA-256 of all relative names, sizes in bytes and times of last change.
    """

    classes: tuple[str, ...]
    training: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...] | None
    fingerprint: str


def image_folder_entry(argument: str) -> DatasetEntry:
    """The entry of `imagefolder:ARGUMENT`. Lists the files, some microseconds each, and opens none.

    It lists them anew at every call: images that are replaced in place leave no trace but in their own entries.

    Its name has the absolute path and the size, so that it means the same in another working directory.

    Raises:
        ValueError: no path, a size out of range, fewer than 2 classes, a class without images, or classes that
            differ between train and test.
        DataUnavailableError: PATH/train is no folder.
    """
    matched = re.fullmatch(r"(?P<path>.+?)(@(?P<size>\d+))?", argument, re.DOTALL)
    if matched is None:
        raise ValueError(f"dataset must be {FAMILY}:PATH or {FAMILY}:PATH@SIZE, got {FAMILY + ':' + argument!r}")
    # cut: of an integer beyond its limit of 4,300 digits, Python would speak for itself
    size = int((matched["size"] or str(DEFAULT_SIZE))[:100])
    require_integer(f"size of dataset {FAMILY}:PATH@SIZE (pixels)", size, MIN_SIZE, MAX_SIZE)
    try:
        root = Path(os.path.abspath(Path(matched["path"]).expanduser()))
        listing = list_images(root)
    except DataUnavailableError:
        raise
    except (OSError, RuntimeError) as error:  # no permission, links in a circle, a name too long, nobody's home
        raise DataUnavailableError(f"dataset {FAMILY}:{matched['path'][:300]} cannot be listed: {error}") from None
    return DatasetEntry(
        name=f"{FAMILY}:{root}@{size}",
        input=(3, size, size),
        classes=len(listing.classes),
        epsilon=EPSILON,
        training_images=_training_count(listing),
        load=functools.partial(load_image_folder, root, size, listing),
        augmentation="crop-flip",
        crop_padding=max(1, size // 8),
        fingerprint=listing.fingerprint,
    )


def list_images(root: Path) -> Listing:
    """The images below `root`, by part and class.

    Raises:
        ValueError, DataUnavailableError: see `image_folder_entry`.
    """
    if not (root / "train").is_dir():
        raise DataUnavailableError(
            f"no folder {root / 'train'}: dataset {FAMILY}:PATH needs images in PATH/train/CLASS/ and, if it has a "
            "test set, in PATH/test/CLASS/"
        )
    digest = hashlib.sha256()
    classes, training = _list_part(root, "train", digest)
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'} must have at least 2 classes, a folder each, has {len(classes)}")
    test = None
    if (root / "test").is_dir():
        test_classes, test = _list_part(root, "test", digest)
        if test_classes != classes:
            odd = ", ".join(sorted(set(classes) ^ set(test_classes)))
            raise ValueError(f"{root}: train and test must have the same classes; only one of them has {odd}")
    listing = Listing(classes, training, test, digest.hexdigest())
    if test is None:
        for name, count in zip(classes, _class_counts(listing), strict=True):
            if count < 2:
                raise ValueError(
                    f"{root / 'train' / name} must have at least 2 images as there is no {root / 'test'}, has {count}"
                )
    return listing


def load_image_folder(root: Path, size: int, listing: Listing) -> tuple[ImageSet, ImageSet]:
    """(training part, test part), with size × size images.

    Raises:
        DataCorruptError: an image cannot be read, or the folder is no longer as listed.
    """
    training = _read(listing.training, size)
    if listing.test is not None:
        test = _read(listing.test, size)
    else:
        chosen, rest = take_share(training.labels, TEST_SHARE, SPLIT_SEED)
        training, test = training.subset(rest), training.subset(chosen)
    if list_images(root).fingerprint != listing.fingerprint:
        raise DataCorruptError(f"images in {root} changed while they were read: start again")
    return training, test


def _list_part(root: Path, part: str, digest: hashlib._Hash) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """(classes, images) of `root`/`part`; its files are added to `digest`."""
    folders = [each for each in _visible(root / part) if each.is_dir()]
    images: list[tuple[str, int]] = []
    for label, folder in enumerate(folders):
        files = [file for file in _visible(folder) if file.name.lower().endswith(SUFFIXES) and _is_file(file)]
        if not files:
            raise ValueError(f"{folder.path} must hold at least one image ({', '.join(SUFFIXES)}), has none")
        for file in files:
            state = file.stat()
            # a name has no "\0", so that no two different folders are written alike
            stamp = f"{part}/{folder.name}/{file.name}\0{state.st_size}\0{state.st_mtime_ns}\0"
            digest.update(os.fsencode(stamp))
            images.append((file.path, label))
    return tuple(folder.name for folder in folders), tuple(images)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def _visible(folder: os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """What is in `folder`, by name, without names that begin with a dot."""
    with os.scandir(folder) as found:
        yield from sorted((each for each in found if not each.name.startswith(".")), key=lambda each: each.name)


def _class_counts(listing: Listing) -> list[int]:
    counts = Counter(label for _, label in listing.training)
    return [counts[label] for label in range(len(listing.classes))]


def _training_count(listing: Listing) -> int:
    """How many images are left to train on and to split the eval set off."""
    if listing.test is not None:
        return len(listing.training)
    return sum(count - share_of_class(count, TEST_SHARE) for count in _class_counts(listing))


def _read(images: tuple[tuple[str, int], ...], size: int) -> ImageSet:
    def decode(index: int) -> Image:
        """Image number `index`, cropped and scaled to `size` × `size`."""
        path = images[index][0]
        try:
            contents = Path(path).read_bytes()
        except OSError as error:
            raise DataCorruptError(f"{path} cannot be read: {error}") from error
        return centre_square(decode_rgb(contents, path), size)

    labels = torch.tensor([label for _, label in images], dtype=torch.int64)
    return ImageSet(decode_all(len(images), size, decode), labels)


register_dataset_family(FAMILY, "PATH[@SIZE]", image_folder_entry)
