"""The registry of data sets, and the one way from a name to disjoint, class-balanced splits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rcnas_env.data.image_set import DataSplits, ImageSet
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.data.storage import PublishedFile
from rcnas_env.registry import Registry, unknown_name
from rcnas_env.validation import require_choice, require_integer

AUGMENTATIONS = ("none", "crop-flip")
"""What may be done to training images: nothing, or `augmentation.random_crop_flip`."""


@dataclass(frozen=True)
class DatasetEntry:
    """What is known of a data set before it is loaded.

    input: (channels, height, width) of an image;
    classes: number of classes;
    epsilon: the L_inf radius at which networks are trained and attacked unless said otherwise, in [0, 1] units;
    training_images: images available to train on and to split the eval set off;
    load: returns (training part, test part);
    augmentation: what suits the training images, one of AUGMENTATIONS;
    crop_padding: border of its random crops, in pixels, at least 0;
    fingerprint: identifies the images where the name alone does not, or "";
    files: what `python -m rcnas_env.data NAME` downloads; () where there is nothing to download.

    Raises:
        ValueError: `augmentation` or `crop_padding` is not one of those.
    """

    name: str
    input: tuple[int, int, int]
    classes: int
    epsilon: float
    training_images: int
    load: Callable[[], tuple[ImageSet, ImageSet]]
    augmentation: str = "none"
    crop_padding: int = 4
    fingerprint: str = ""
    files: tuple[PublishedFile, ...] = ()

    def __post_init__(self) -> None:
        require_choice("dataset.augmentation", self.augmentation, AUGMENTATIONS)
        require_integer("dataset.crop_padding", self.crop_padding, 0)

    @property
    def training_crop_padding(self) -> int | None:
        """The border of random crops that training images get; None where they get no crops and flips."""
        return self.crop_padding if self.augmentation == "crop-flip" else None


@dataclass(frozen=True)
class _Family:
    """Data sets called `family:ARGUMENT`: the shape of the argument, for errors, and what makes the entry of one."""

    pattern: str
    make: Callable[[str], DatasetEntry]


_DATASETS: Registry[DatasetEntry] = Registry("dataset")
_FAMILIES: Registry[_Family] = Registry("dataset family")


def register_dataset(entry: DatasetEntry) -> None:
    """Make a data set known by its name.

    Raises:
        ValueError: the name is taken.
    """
    _DATASETS.register(entry.name, entry)


def register_dataset_family(family: str, pattern: str, make: Callable[[str], DatasetEntry]) -> None:
    """Make all data sets called `family:ARGUMENT` known; `make(ARGUMENT)` gives the entry, and raises if it is none.

    Args:
        family: what stands before the colon.
        pattern: shows what the argument looks like ("PATH"), for error messages.
        make: called at every look-up: quick, or caching for itself.

    Raises:
        ValueError: the name is taken.
    """
    _FAMILIES.register(family, _Family(pattern, make))


def dataset_entry(name: str) -> DatasetEntry:
    """The entry of the data set `name`; nothing is loaded.

    Raises:
        UnknownNameError: there is none.
        ValueError, DataUnavailableError: the family that `name` is of does not take its argument.
    """
    if isinstance(name, str):
        family, colon, argument = name.partition(":")
        if name in _DATASETS:
            return _DATASETS[name]
        if colon and family in _FAMILIES:
            return _FAMILIES[family].make(argument)
    patterns = [f"{each}:{_FAMILIES[each].pattern}" for each in _FAMILIES]
    raise unknown_name("dataset", name, [*_DATASETS, *patterns])


def known_datasets() -> tuple[str, ...]:
    """The names of all registered data sets; those of families, which have no end, are left out."""
    return tuple(_DATASETS)


def validate_train_size(name: str, n_train: int | None, n_eval: int) -> None:
    """Check that data set `name` has `n_train` images to train on beside `n_eval` eval images; None is all of them.

    Raises:
        ValueError: it has fewer, or `n_train` is less than one a class.
    """
    if n_train is not None:
        entry = dataset_entry(name)
        field = f"n_train (of {name}'s {entry.training_images} training images, {n_eval} of them eval images)"
        require_integer(field, n_train, entry.classes, entry.training_images - n_eval)


def validate_eval_size(name: str, n_eval: object) -> int:
    """Return `n_eval`, the number of eval images that data set `name` can spare.

    Raises:
        ValueError: fewer than one a class, or so many that less than one image a class is left to train on.
    """
    entry = dataset_entry(name)
    return require_integer(
        f"n_eval (eval images split off {name}'s {entry.training_images} training images)",
        n_eval,
        entry.classes,
        entry.training_images - entry.classes,
    )


def validate_test_size(field: str, name: str, n_test: int | None, n_eval: int) -> None:
    """Check that data set `name`, which is loaded with `n_eval`, has `n_test` test images; None is all of them.

    Raises:
        ValueError: it has fewer, or `n_test` is below 1; the message names `field`.
        DataUnavailableError, DataCorruptError: as `load_splits`.
    """
    if n_test is not None:
        count = len(load_splits(name, n_eval).test)
        require_integer(f"{field} (of {name}'s {count} test images)", n_test, 1, count)


def load_splits(name: str, n_eval: int = 256) -> DataSplits:
    """Load data set `name` and split `n_eval` class-balanced images off its training part.

    The split depends on `name` and `n_eval` only, so that every network of a search sees the same images. The last
    four are kept in memory.

    Raises:
        UnknownNameError: no such data set.
        DataUnavailableError: its files are not on this machine.
        DataCorruptError: they are truncated, altered or unreadable.
        ValueError: `n_eval` does not fit the data, or the data are not what the entry says.
    """
    entry = dataset_entry(name)
    return _load_splits(entry.name, validate_eval_size(name, n_eval), entry.fingerprint)


@functools.lru_cache(maxsize=4)
def _load_splits(name: str, n_eval: int, fingerprint: str) -> DataSplits:
    """See `load_splits`; `fingerprint` has changed images loaded anew."""
    entry = dataset_entry(name)
    training, test = entry.load()
    _require_as_declared(entry, training, test)
    chosen, rest = take_per_class(training.labels, n_eval, SPLIT_SEED)
    left = torch.bincount(training.labels[rest], minlength=entry.classes)
    if not left.all():
        raise ValueError(
            f"n_eval must leave {name} an image of every class to train on; {n_eval} leaves none of class "
            f"{int(left.argmin())}"
        )
    return DataSplits(train=training.subset(rest), eval=training.subset(chosen), test=test)


def _require_as_declared(entry: DatasetEntry, training: ImageSet, test: ImageSet) -> None:
    if len(training) != entry.training_images:
        raise ValueError(
            f"dataset {entry.name!r} must have {entry.training_images} training images, loaded {len(training)}"
        )
    for part in (training, test):
        types = part.pixels.dtype, part.labels.dtype
        if types != (torch.uint8, torch.int64):
            raise ValueError(f"dataset {entry.name!r} must have uint8 pixels and int64 labels, loaded {types}")
        shape, labels = tuple(part.pixels.shape[1:]), part.labels
        if shape != entry.input:
            raise ValueError(f"dataset {entry.name!r} must have images of shape {entry.input}, loaded {shape}")
        if len(labels) and not (labels.min() >= 0 and labels.max() < entry.classes):
            raise ValueError(
                f"dataset {entry.name!r} must have labels from 0 to {entry.classes - 1}, loaded {int(labels.min())} "
                f"to {int(labels.max())}"
            )
